"""`TorchLoss`: the loss and gradient of batches of a torch model at any θ.

The model's own parameters and buffers are never written: `torch.func.functional_call` replaces them by θ and
by copies of the buffers for the time of a forward pass.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lca.errors import LayoutError, LCAError
from lca.frameworks import (
    BatchNorm,
    Frozen,
    ModelLoss,
    PyTree,
    check_loss,
    examples_in,
    loss_errors,
    no_gradient,
    require_weight,
    tree_map,
)
from lca.frameworks._loss import unweighted
from lca.layout import Layout
from lca.objective import State
from lca_torch._data import refuse_arrays
from lca_torch._examples import BatchLoss, LossFn, Weighted, error_scores, example_losses, with_samples
from lca_torch._live import flat
from lca_torch._parameters import Leaves, check_theta, layout_of, normal
from lca_torch._policies import (
    forward_mode,
    measuring_mode,
    mixes_examples,
    normalisation_policies,
    random_state_kept,
)

Then: TypeAlias = Callable[[Tensor, PyTree], None]
MEAN_HINT = "use reduction='mean'"
GRADIENT_HINT = "is it computed under torch.no_grad, detached, or converted to a number on the way?"


class TorchLoss(ModelLoss):
    """`lca.frameworks.ModelLoss` of a torch model; the options are those of `lca_torch.Objective`."""

    mean_hint, gradient_hint = MEAN_HINT, GRADIENT_HINT
    sample_hint = (
        "pass a loss_fn that takes reduction='none', as those of torch.nn and torch.nn.functional do"
    )

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        loss_fn: LossFn | None,
        *,
        batch_weight: Callable[[PyTree], float] | None,
        batch_norm: BatchNorm,
        frozen: Frozen,
        autocast: torch.dtype | None,
        compile: bool,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self._model, self._loss_fn = model, loss_fn
        theta = flat(self.parameters())
        self.dtype, self.device = theta.dtype, theta.device
        self._norms = normalisation_policies(model, batch_norm)
        self.mixes_examples = mixes_examples(model, self._norms)
        self.counts_examples = batch_weight is None
        self._batch_weight = batch_weight or examples_in
        self._seeds, self._autocast = count(1), autocast
        loss = with_samples(batch_loss, loss_fn)
        self._losses = _Losses(model, torch.compile(loss) if compile else loss)

    def parameters(self) -> list[nn.Parameter]:
        """The model's own parameters, in the order of the layout."""
        named = dict(self._model.named_parameters())
        return [named[name] for name in self.layout.names]

    def trainable(self) -> list[str]:
        """The names of the parameters that require a gradient now."""
        return [n for n, p in zip(self.layout.names, self.parameters(), strict=True) if p.requires_grad]

    def theta(self) -> Tensor:
        self.check()
        return flat(self.parameters())

    def state(self) -> State | None:
        """All floating-point buffers but unused batch statistics."""
        norms = [self._model.get_submodule(name) for name, policy in self._norms.items() if policy == "batch"]
        ignored = {id(buffer) for norm in norms for buffer in norm.buffers()}
        found = {
            name: buffer.detach().clone()
            for name, buffer in self._model.named_buffers()
            if buffer.is_floating_point() and id(buffer) not in ignored
        }
        return found or None

    def evaluate(
        self,
        theta: Tensor,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Tensor | None]:
        wanted = (self.trainable() if names is None else names) if gradient else ()
        with self._measuring(theta, gradient=gradient):
            leaves = Leaves(theta, self.layout, wanted)
            losses: list[Tensor] = []
            weights: list[float] = []

            def add(loss: Tensor, batch: PyTree) -> None:
                weight = self.batch_weight(batch)
                if gradient:
                    leaves.add_gradient(loss, weight)
                losses.append(loss.detach())
                weights.append(weight)

            self._each(leaves.tensors, state, batches, add)
        weight = require_weight(math.fsum(weights))
        found = torch.stack(losses).double().cpu().numpy()
        return math.fsum(found * weights) / weight, leaves.grad.div_(weight) if gradient else None

    def try_out(self, theta: Tensor, batch: PyTree) -> list[str]:
        unused: list[str] = []
        own = {name: p for name, p in self._model.named_parameters() if p.requires_grad}

        def check(loss: Tensor, batch: PyTree) -> None:
            check_differentiable(loss)
            _require_theta_alone(loss, own)
            wanted = {name: leaves.tensors[name] for name in self.trainable()}
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            unused.extend(name for name, grad in zip(wanted, grads, strict=True) if grad is None)

        with self._measuring(theta, gradient=True):
            leaves = Leaves(theta, self.layout, self.trainable())
            self._each(leaves.tensors, None, [batch], check)
        return unused

    def prepare(self, batch: PyTree) -> PyTree:
        return refuse_arrays(batch)

    def batch_weight(self, batch: PyTree) -> float:
        return float(batch.weight.sum() if isinstance(batch, Weighted) else self._batch_weight(batch))

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        if weight is None:
            return rows
        if example_losses(self._loss_fn) is None:
            raise unweighted(self.sample_hint)
        return Weighted(rows, torch.as_tensor(weight, dtype=self.dtype, device=self.device))

    def scores(self, theta: Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        if self._loss_fn is None:
            return super().scores(theta, batches)
        found: list[Tensor] = []
        losses = _Losses(self._model, error_scores(self._loss_fn))
        with self._measuring(theta, gradient=False):
            tensors = Leaves(theta, self.layout, ()).tensors
            self._each(tensors, None, batches, lambda scores, _: found.append(scores.detach()), losses)
        scores: np.ndarray = torch.cat(found).double().cpu().numpy()
        return scores

    def _each(
        self,
        tensors: dict[str, Tensor],
        state: State | None,
        batches: Iterable[PyTree],
        then: Then,
        losses: "_Losses | None" = None,
    ) -> None:
        """Call ``then`` with the loss of each batch, as soon as it is computed."""
        dtype = next(iter(tensors.values())).dtype
        ready = (tree_map(lambda t: _in_precision(normal(t), dtype, self.device), batch) for batch in batches)
        functional_call(losses or self._losses, self._values(tensors, state), (ready, then))

    def _values(self, tensors: dict[str, Tensor], state: State | None) -> dict[str, Tensor]:
        """What replaces the model's parameters and buffers; forward passes may write into these buffers."""
        dtype = next(iter(tensors.values())).dtype
        buffers = dict(self._model.named_buffers()) | dict(state or {})
        buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        omitted = {n: p.detach() for n, p in self._model.named_parameters() if n not in tensors}
        others = {n: _in_precision(t, dtype, t.device) for n, t in {**omitted, **buffers}.items()}
        return {f"model.{name}": tensor for name, tensor in {**tensors, **others}.items()}

    @contextmanager
    def _measuring(self, theta: Tensor, *, gradient: bool) -> Iterator[None]:
        self.check()
        check_theta(self.layout, theta, self.device)
        with (
            random_state_kept(self.device, next(self._seeds)),
            measuring_mode(self._model, self._norms),
            forward_mode(self.device, self._autocast, gradients=gradient),
        ):
            yield

    def check(self) -> None:
        """Raise `LayoutError` unless the parameters have the dtype and device they had at the start."""
        named, was = dict(self._model.named_parameters()), (self.dtype, self.device)
        for name in self.layout.names:
            if name not in named:
                raise LayoutError(
                    f"the model has no parameter {name!r} any more, but had one when the objective was made; "
                    "change the model first, then make the objective."
                )
            now = named[name].dtype, named[name].device
            if now != was:
                raise LayoutError(
                    f"parameter {name!r} is {now[0]} on {now[1]} now, but was {was[0]} on {was[1]} when the "
                    "objective was made; convert and move the model first, then make the optimizer, the "
                    "objective and the tracker."
                )


class _Losses(nn.Module):
    """The losses of batches as a module of its own, because `functional_call` takes modules.

    All batches go through one call: to replace the tensors of a large model takes longer than a small batch.
    """

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss

    def forward(self, batches: Iterable[PyTree], then: Then) -> None:
        """``then`` runs with θ still in place: checkpointed blocks are computed again during backward."""
        for batch in batches:
            with loss_errors(batch, (torch.OutOfMemoryError,)):
                loss = self.batch_loss(self.model, batch)
            then(loss, batch)


def check_differentiable(loss: Tensor) -> None:
    """Raise `LCAError` unless ``loss`` is a scalar that autograd can differentiate."""
    check_loss(loss, MEAN_HINT)
    if not loss.requires_grad:
        raise no_gradient(GRADIENT_HINT)


def _require_theta_alone(loss: Tensor, own: Mapping[str, Tensor]) -> None:
    """Refuse a loss that holds on to the model's ``own`` tensors and would not notice that θ moves."""
    grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True, retain_graph=True)
    held = [name for name, grad in zip(own, grads, strict=True) if grad is not None]
    if held:
        raise LCAError(
            f"the loss uses the model's own {', '.join(held)}, so it is not a function of theta; inside the "
            "loss, take parameters from the model (model.named_parameters()), not from a list made before."
        )


def _in_precision(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in single or double precision follow θ; integers and half-precision numbers stay."""
    return tensor.to(device, dtype if tensor.dtype in (torch.float32, torch.float64) else tensor.dtype)
