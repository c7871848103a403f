"""`ModelLoss`: from a torch model and a way to get a loss from a batch to ``(θ, batches) -> loss, gradient``.

The model's own parameters and buffers are never written: `torch.func.functional_call` puts θ and copies of
the buffers in their place for the time of a forward pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lca.errors import DataError, LCAError
from lca.layout import Layout
from lca.objective import State
from lca_torch.data import Tree, describe, tree_map
from lca_torch.parameters import Frozen, Leaves, check_theta, layout_of, parameters_of
from lca_torch.policies import (
    BatchNormPolicy,
    forward_mode,
    measuring_mode,
    normalisation_policies,
    random_state_kept,
)

BatchLoss: TypeAlias = Callable[[nn.Module, Tree], Tensor]


class ModelLoss:
    """The mean loss of any batches at any θ; the options are those of `lca_torch.Objective`."""

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        *,
        batch_weight: Callable[[Tree], float],
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy],
        frozen: Frozen,
        autocast: torch.dtype | None,
        compile: bool,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self.device = next(iter(parameters_of(model, frozen).values())).device
        self._model = model
        self._norms = normalisation_policies(model, batch_norm)
        self._autocast = autocast
        self._batch_weight = batch_weight
        self._loss_of_batch = _LossOfBatch(model, batch_loss)
        self._call = torch.compile(functional_call) if compile else functional_call

    @property
    def mixes_examples(self) -> bool:
        """Whether the loss of an example depends on the batch it is measured in (batch statistics)."""
        return "batch" in self._norms.values()

    def parameters(self) -> list[nn.Parameter]:
        """The model's own parameters, in the order of the layout."""
        named = dict(self._model.named_parameters())
        return [named[name] for name in self.layout.names]

    def trainable(self) -> list[str]:
        """The names of the parameters that require a gradient now."""
        return [n for n, p in zip(self.layout.names, self.parameters(), strict=True) if p.requires_grad]

    def state(self) -> State | None:
        """A copy of the buffers the loss depends on: all floating-point ones but unused batch statistics."""
        ignored = tuple(f"{name}." for name, policy in self._norms.items() if policy == "batch")
        found = {
            name: buffer.detach().clone()
            for name, buffer in self._model.named_buffers()
            if buffer.is_floating_point() and not name.startswith(ignored)
        }
        return found or None

    def evaluate(
        self, theta: Tensor, batches: Iterable[Tree], state: State | None = None, *, gradient: bool
    ) -> tuple[float, Tensor | None]:
        """Mean loss over the batches, summed in float64, and its gradient (K,) if asked for."""
        check_theta(self.layout, theta, self.device)
        leaves = Leaves(theta, self.layout, self.trainable() if gradient else ())
        total, weights = theta.new_zeros((), dtype=torch.float64), 0.0
        with self._measuring(gradient=gradient):
            values = self._values(leaves.tensors, state)
            for batch in batches:
                loss, weight = self._loss(values, batch, theta.dtype), float(self._batch_weight(batch))
                if gradient:
                    leaves.add_gradient(loss * weight)
                total += loss.detach().double() * weight
                weights += weight
        if not weights:
            raise DataError("the measured batches weigh 0 together; pass a batch_weight that is positive.")
        return float(total) / weights, leaves.grad.div_(weights) if gradient else None

    def try_out(self, theta: Tensor, batch: Tree) -> list[str]:
        """One batch, everything checked; the names of trainable parameters that get no gradient from it."""
        leaves = Leaves(theta, self.layout, self.trainable())
        with self._measuring(gradient=True):
            try:
                loss = self._loss(self._values(leaves.tensors, None), batch, theta.dtype)
            except (LCAError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise DataError(
                    f"the loss of the first measuring batch ({describe(batch)}) raised "
                    f"{type(error).__name__}: {error}"
                ) from error
            check_loss(loss)
            wanted = {name: leaves.tensors[name] for name in self.trainable()}
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return [name for name, grad in zip(wanted, grads, strict=True) if grad is None]

    def _loss(self, values: dict[str, Tensor], batch: Tree, dtype: torch.dtype) -> Tensor:
        batch = tree_map(lambda t: t.to(self.device, dtype if t.is_floating_point() else None), batch)
        loss: Tensor = self._call(self._loss_of_batch, values, (batch,))
        return loss

    def _values(self, tensors: dict[str, Tensor], state: State | None) -> dict[str, Tensor]:
        """Parameters and buffers in place of the model's own; forward passes may write into the buffers."""
        dtype = next(iter(tensors.values())).dtype
        buffers = {name: buffer.detach().clone() for name, buffer in self._model.named_buffers()}
        buffers |= state or {}
        cast = {n: b.to(dtype) if b.is_floating_point() else b for n, b in buffers.items()}
        return {f"model.{name}": tensor for name, tensor in {**tensors, **cast}.items()}

    @contextmanager
    def _measuring(self, *, gradient: bool) -> Iterator[None]:
        with (
            random_state_kept(self.device),
            measuring_mode(self._model, self._norms),
            forward_mode(self.device, self._autocast, gradients=gradient),
        ):
            yield


class _LossOfBatch(nn.Module):
    """The loss of a batch as a module of its own, because `functional_call` takes modules."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss

    def forward(self, batch: Tree) -> Tensor:
        return self.batch_loss(self.model, batch)


def usual_loss(loss_fn: Callable[[Any, Any], Tensor] | None) -> BatchLoss:
    """Pairs for a ``loss_fn``; without one, models that return their own loss (Hugging Face)."""

    def of_pair(model: nn.Module, batch: Tree) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"loss_fn needs batches (inputs, target), got a {describe(batch)}; pass batch_loss=function "
                "of model and batch instead."
            )
        inputs, target = batch
        assert loss_fn is not None
        return loss_fn(_apply(model, inputs), target)

    def own(model: nn.Module, batch: Tree) -> Tensor:
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


def _apply(model: nn.Module, inputs: Tree) -> Any:
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
