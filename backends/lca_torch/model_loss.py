"""`ModelLoss`: from a torch model and a way to get a loss from a batch to ``(θ, batches) -> loss, gradient``.

The model's own parameters and buffers are never written: `torch.func.functional_call` puts θ and copies of
the buffers in their place for the time of a forward pass.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lca.errors import DataError, LayoutError, LCAError
from lca.layout import Layout
from lca.objective import State
from lca_torch.data import PyTree, describe, tree_map
from lca_torch.parameters import Frozen, Leaves, check_theta, layout_of, normal, parameters_of
from lca_torch.policies import (
    BatchNormPolicy,
    forward_mode,
    measuring_mode,
    mixes_examples,
    normalisation_policies,
    random_state_kept,
)

BatchLoss: TypeAlias = Callable[[nn.Module, PyTree], Tensor]
Then: TypeAlias = Callable[[Tensor, PyTree], None]


class ModelLoss:
    """The mean loss of any batches at any θ; the options are those of `lca_torch.Objective`."""

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        *,
        batch_weight: Callable[[PyTree], float],
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy],
        frozen: Frozen,
        autocast: torch.dtype | None,
        compile: bool,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self.device = next(iter(parameters_of(model, frozen).values())).device
        self._model = model
        self._norms = normalisation_policies(model, batch_norm)
        self._seeds = count(1)
        self._autocast = autocast
        self.mixes_examples = mixes_examples(model, self._norms)
        self.batch_weight = batch_weight
        self._losses = _Losses(model, torch.compile(batch_loss) if compile else batch_loss)

    def parameters(self) -> list[nn.Parameter]:
        """The model's own parameters, in the order of the layout."""
        named = dict(self._model.named_parameters())
        return [named[name] for name in self.layout.names]

    def trainable(self) -> list[str]:
        """The names of the parameters that require a gradient now."""
        return [n for n, p in zip(self.layout.names, self.parameters(), strict=True) if p.requires_grad]

    def state(self) -> State | None:
        """A copy of the buffers the loss depends on: all floating-point ones but unused batch statistics."""
        norms = [self._model.get_submodule(name) for name, policy in self._norms.items() if policy == "batch"]
        ignored = {id(buffer) for norm in norms for buffer in norm.buffers()}
        found = {
            name: buffer.detach().clone()
            for name, buffer in self._model.named_buffers()
            if buffer.is_floating_point() and id(buffer) not in ignored
        }
        return found or None

    def evaluate(
        self, theta: Tensor, batches: Iterable[PyTree], state: State | None = None, *, gradient: bool
    ) -> tuple[float, Tensor | None]:
        """Mean loss over the batches, summed in float64, and its gradient (K,) if asked for."""
        with self._measuring(theta, gradient=gradient):
            leaves = Leaves(theta, self.layout, self.trainable() if gradient else ())
            losses: list[Tensor] = []
            weights: list[float] = []

            def add(loss: Tensor, batch: PyTree) -> None:
                weight = float(self.batch_weight(batch))
                if gradient:
                    leaves.add_gradient(loss, weight)
                losses.append(loss.detach())
                weights.append(weight)

            self._each(leaves.tensors, state, batches, add)
        weight = math.fsum(weights)
        if not weight:
            raise DataError("the measured batches weigh 0 together; pass a batch_weight that is positive.")
        found = torch.stack(losses).double().cpu().numpy()
        return math.fsum(found * weights) / weight, leaves.grad.div_(weight) if gradient else None

    def each(self, theta: Tensor, batches: Iterable[PyTree], then: Then) -> None:
        """What the loss function says of each batch, whatever it is, without gradients."""
        with self._measuring(theta, gradient=False):
            self._each(Leaves(theta, self.layout, ()).tensors, None, batches, then)

    def try_out(self, theta: Tensor, batch: PyTree) -> list[str]:
        """One batch, everything checked; the names of trainable parameters that get no gradient from it."""
        unused: list[str] = []
        own = {name: p for name, p in self._model.named_parameters() if p.requires_grad}

        def check(loss: Tensor, batch: PyTree) -> None:
            check_loss(loss)
            _require_theta_alone(loss, own)
            wanted = {name: leaves.tensors[name] for name in self.trainable()}
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            unused.extend(name for name, grad in zip(wanted, grads, strict=True) if grad is None)

        with self._measuring(theta, gradient=True):
            leaves = Leaves(theta, self.layout, self.trainable())
            self._each(leaves.tensors, None, [batch], check)
        return unused

    def _each(
        self, tensors: dict[str, Tensor], state: State | None, batches: Iterable[PyTree], then: Then
    ) -> None:
        """The loss of each batch, handed to ``then`` as soon as it is there."""
        dtype = next(iter(tensors.values())).dtype
        ready = (tree_map(lambda t: _in_precision(normal(t), dtype, self.device), batch) for batch in batches)
        functional_call(self._losses, self._values(tensors, state), (ready, then))

    def _values(self, tensors: dict[str, Tensor], state: State | None) -> dict[str, Tensor]:
        """Everything in place of the model's own; forward passes may write into these buffers."""
        dtype = next(iter(tensors.values())).dtype
        buffers = dict(self._model.named_buffers()) | dict(state or {})
        buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        omitted = {n: p.detach() for n, p in self._model.named_parameters() if n not in tensors}
        others = {n: _in_precision(t, dtype, t.device) for n, t in {**omitted, **buffers}.items()}
        return {f"model.{name}": tensor for name, tensor in {**tensors, **others}.items()}

    @contextmanager
    def _measuring(self, theta: Tensor, *, gradient: bool) -> Iterator[None]:
        check_theta(self.layout, theta, self.device)
        self._check_unmoved()
        with (
            random_state_kept(self.device, next(self._seeds)),
            measuring_mode(self._model, self._norms),
            forward_mode(self.device, self._autocast, gradients=gradient),
        ):
            yield

    def _check_unmoved(self) -> None:
        name, parameter = next(self._model.named_parameters())
        if parameter.device != self.device:
            raise LayoutError(
                f"parameter {name!r} is on {parameter.device} now, but the objective was made on "
                f"{self.device}; move the model first, then make the objective."
            )


def _require_theta_alone(loss: Tensor, own: Mapping[str, Tensor]) -> None:
    """A loss that holds on to the model's ``own`` tensors would not notice that θ moves."""
    grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True, retain_graph=True)
    held = [name for name, grad in zip(own, grads, strict=True) if grad is not None]
    if held:
        raise LCAError(
            f"the loss uses the model's own {', '.join(held)}, so it is no function of theta; inside the "
            "loss, take parameters from the model (model.named_parameters()), not from a list made before."
        )


def _in_precision(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in single or double precision follow θ; integers and what is half on purpose stay."""
    return tensor.to(device, dtype if tensor.dtype in (torch.float32, torch.float64) else tensor.dtype)


class _Losses(nn.Module):
    """The losses of batches as a module of its own, because `functional_call` takes modules.

    All batches go through one call: to put θ into a model of many tensors takes longer than a small batch.
    """

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss

    def forward(self, batches: Iterable[PyTree], then: Then) -> None:
        """``then`` runs with θ still in place: checkpointed blocks are computed again during backward."""
        for batch in batches:
            then(self._loss(batch), batch)

    def _loss(self, batch: PyTree) -> Tensor:
        try:
            return self.batch_loss(self.model, batch)
        except (LCAError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise DataError(
                f"the loss of a measuring batch ({describe(batch)}) raised {type(error).__name__}: {error}"
            ) from error


def default_loss(loss_fn: Callable[[Any, Any], Tensor] | None) -> BatchLoss:
    """Pairs for a ``loss_fn``; without one, models that return their own loss (Hugging Face)."""

    def of_pair(model: nn.Module, batch: PyTree) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"loss_fn needs batches (inputs, target), got a {describe(batch)}; pass batch_loss=function "
                "of model and batch instead."
            )
        inputs, target = batch
        assert loss_fn is not None
        return loss_fn(_apply(model, inputs), target)

    def own(model: nn.Module, batch: PyTree) -> Tensor:
        output = _apply(model, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is None:
            raise DataError(
                f"without a loss_fn the model must return its loss as output.loss, got a "
                f"{type(output).__name__}; pass loss_fn or batch_loss, or give it labels."
            )
        result: Tensor = loss
        return result

    return own if loss_fn is None else of_pair


def _apply(model: nn.Module, inputs: PyTree) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def check_loss(loss: object) -> None:
    """Raise `LCAError` unless ``loss`` is a differentiable scalar."""
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        raise LCAError(f"the loss must be a floating-point tensor, got {type(loss).__name__}.")
    if loss.ndim:
        raise LCAError(f"the loss must be a scalar, got shape {tuple(loss.shape)}; use reduction='mean'.")
    if not loss.requires_grad:
        raise LCAError(
            "the loss does not depend on any parameter that requires a gradient; is it computed under "
            "torch.no_grad, detached, or converted to a number on the way?"
        )
