"""θ and the model: which parameters make it up, and how gradients of all of them add up in one vector.

The flat vector is the only form in which θ leaves this package; here it is cut into views that have the
shapes of the model's parameters, and put together from them.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lca.arrays import array_ops
from lca.errors import LayoutError, UnknownNameError
from lca.layout import Layout
from lca_torch.live import ParameterVector

Frozen = Literal["zero", "omit"]
"""Parameters with ``requires_grad=False``: in θ with gradient 0, or not in θ at all."""


def parameters_of(model: nn.Module, frozen: Frozen = "zero") -> dict[str, nn.Parameter]:
    """The parameters θ is made of, by name, in the model's order; tied ones once, under their first name.

    Raises
    ------
    LayoutError
        If there are none, or they differ in dtype or device, or are neither float32 nor float64.
    """
    if frozen not in get_args(Frozen):
        raise UnknownNameError("policy for frozen parameters", frozen, get_args(Frozen))
    if not isinstance(model, nn.Module):
        raise LayoutError(f"expected a torch.nn.Module, got {type(model).__name__}.")
    named = {n: p for n, p in model.named_parameters() if frozen == "zero" or p.requires_grad}
    if not any(p.requires_grad for p in named.values()):
        raise LayoutError(
            f"{type(model).__name__} has no parameter that requires a gradient, so there is nothing to "
            "allocate to; call model.requires_grad_(True)."
        )
    _require_one(named, "dtype", {n: p.dtype for n, p in named.items()})
    _require_one(named, "device", {n: p.device for n, p in named.items()})
    first, parameter = next(iter(named.items()))
    if parameter.dtype not in (torch.float32, torch.float64):
        raise LayoutError(
            f"parameter {first!r} is {parameter.dtype}; differences between steps need float32 or float64 "
            "parameters: keep those in float32 and use autocast for the forward pass."
        )
    return named


def _require_one(named: Iterable[str], what: str, values: Mapping[str, object]) -> None:
    first, *rest = named
    for name in rest:
        if values[name] != values[first]:
            raise LayoutError(
                f"all parameters must share one {what}: {first!r} has {values[first]}, {name!r} has "
                f"{values[name]}; convert the model, or leave parameters that do not train out of θ with "
                "requires_grad_(False) and frozen='omit'."
            )


def layout_of(model: nn.Module, frozen: Frozen = "zero") -> Layout:
    """The `lca.Layout` of a model: names and shapes of its parameters, and where its neurons are.

    A neuron is an output channel: axis 0 of a weight, but axis 1 of transposed convolutions and embeddings.

    >>> layout_of(nn.Sequential(nn.Linear(3, 2), nn.Embedding(5, 4))).names
    ('0.weight', '0.bias', '1.weight')
    """
    named = parameters_of(model, frozen)
    empty = [name for name, parameter in named.items() if isinstance(parameter, nn.UninitializedParameter)]
    if empty:
        raise LayoutError(f"{', '.join(empty)} has no shape yet; run the model on one batch first.")
    second = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _OUTPUTS_SECOND)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    }
    axes = [1 if id(p) in second else 0 if p.ndim else None for p in named.values()]
    return Layout(tuple(named), tuple(tuple(p.shape) for p in named.values()), tuple(axes))


_OUTPUTS_SECOND = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.EmbeddingBag,
)


def normal(tensor: Tensor) -> Tensor:
    """``tensor``, or a copy of it if it was made in inference mode and autograd would refuse it."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_theta(layout: Layout, theta: Tensor, device: torch.device) -> None:
    """Raise `LayoutError` unless θ is a (K,) float32 or float64 tensor on ``device``."""
    array_ops(theta)
    if not isinstance(theta, Tensor) or theta.dtype not in (torch.float32, torch.float64):
        kind = theta.dtype if isinstance(theta, Tensor) else type(theta).__name__
        raise LayoutError(f"theta must be a float32 or float64 torch.Tensor, got {kind}.")
    layout.check(theta, "theta")
    if theta.device != device:
        raise LayoutError(
            f"theta is on {theta.device}, but the objective was made on {device}; move the model first, then "
            "make the objective."
        )


def _views(theta: Tensor, layout: Layout) -> dict[str, Tensor]:
    """θ cut into tensors by name; nothing is copied."""
    if not isinstance(theta, ParameterVector) or theta.persisted is not None:
        return layout.unflatten(normal(theta).detach())
    return {name: normal(piece) for name, piece in zip(layout.names, theta.pieces, strict=True)}


class Leaves:
    """θ as named tensors whose gradients add up, in place, in one flat vector ``grad`` (K,).

    The tensors are views of θ and their ``.grad`` views of ``grad``: nothing of size K is copied, however
    many batches are added.
    """

    def __init__(self, theta: Tensor, layout: Layout, trainable: Iterable[str]) -> None:
        self.grad = torch.zeros(layout.size, dtype=theta.dtype, device=theta.device)
        self.tensors = {name: view.detach() for name, view in _views(theta, layout).items()}
        self._wanted = [self.tensors[name] for name in trainable]
        grads = layout.unflatten(self.grad)
        for name, leaf in zip(trainable, self._wanted, strict=True):
            leaf.requires_grad_()
            leaf.grad = grads[name]

    def add_gradient(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add ``weight · ∂loss/∂θ`` to ``grad``; no other ``.grad`` is touched; frees the graph."""
        torch.autograd.backward(loss, torch.full_like(loss, weight), inputs=self._wanted)
