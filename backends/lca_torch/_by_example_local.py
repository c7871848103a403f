"""`LocalSlopes`: the slopes of all groups from one forward and one backward pass, for layers linear in θ.

Give each example n its own copy of every tensor, ``W + u_n ΔW``, with one scalar ``u_n`` per example and
tensor. Then ``∂ Σ_n ℓ_n / ∂u_n`` at u = 0 is the slope of example n along the movement of the tensor. A layer
that is linear in its tensors then adds ``u_n · layer(x_n; ΔW)`` to its output, and one backward pass gives
the derivatives with respect to all u. No gradient of a tensor is formed, and the cost does not depend on the
number of groups. Examples are kept apart by `torch.func.vmap`, whatever the model does with its rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lca.frameworks import PyTree, examples_in
from lca_torch._by_example import one_by_one

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ARGUMENTS: Mapping[Any, tuple[str, ...]] = {
    functional.linear: ("input", "weight", "bias"),
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), _CONV),
    **dict.fromkeys(
        (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d), _TRANSPOSED
    ),
    functional.embedding: ("input", "weight", "padding_idx", "max_norm"),
    functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    functional.batch_norm: _NORM,
}
"""The arguments of functions that are linear in their weight and bias, for any input."""
_ENTRYWISE = (functional.linear, functional.layer_norm)
"""Functions whose bias is along the last axis of the output; for all others, it is along the second."""


class LocalSlopes(TorchFunctionMode):
    """A mode in which one backward pass gives the slopes of all examples.

    Inside this mode, each layer also adds to its output the term from the update of its weights, times a
    factor per example that is 0; the gradient of that factor is the slope of the example.

    Parameters
    ----------
    tensors
        The tensors of θ that changed, by name, as the model holds them.
    movement
        The movement of each.

    Attributes
    ----------
    uncovered
        Names of tensors used by an operation that this mode does not cover, so that their slopes are unknown.
    """

    def __init__(self, tensors: Mapping[str, Tensor], movement: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._held = list(tensors.values())  # keeps them alive, so that no other tensor gets one of these ids
        self._movement = movement
        self._factors: dict[str, Tensor] = {}  # of the example that is traced
        self.uncovered: set[str] = set()

    def of_batch(self, run: Callable[[Any], Tensor], batch: PyTree) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of the examples of a batch (n,), and their slopes (n,) along each tensor."""
        names = list(self._names.values())
        shape = examples_in(batch), len(names)
        factors = next(iter(self._movement.values())).new_zeros(shape, requires_grad=True)

        def of_row(row: PyTree, own: Tensor) -> Tensor:
            self._factors = dict(zip(names, own.unbind(), strict=True))
            with self:
                return run(row).sum()

        losses = one_by_one(of_row, batch, factors)
        [slopes] = torch.autograd.grad(losses.sum(), [factors], allow_unused=True)
        slopes = torch.zeros_like(factors) if slopes is None else slopes
        return losses.detach(), dict(zip(names, slopes.unbind(1), strict=True))

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        used = [
            self._names[id(value)] for value in _flat([*args, *kwargs.values()]) if id(value) in self._names
        ]
        if not used or not any(isinstance(value, Tensor) for value in _flat([out])):
            return out
        call = dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)) | dict(kwargs)
        places = [place for place in ("weight", "bias") if self._name(call.get(place)) is not None]
        if len(places) < len(used) or not self._covers(func, call, out):
            self.uncovered.update(used)
            return out
        for place in places:
            name = self._name(call[place])
            assert name is not None
            term = _term(func, call, place, self._movement[name], out)
            out = out + self._factors[name].to(out.dtype) * term
        return out

    def _name(self, value: object) -> str | None:
        return self._names.get(id(value))

    def _covers(self, func: Any, call: Mapping[str, Any], out: Any) -> bool:
        """Whether this mode covers a call."""
        plain = not call.get("training") and call.get("max_norm") is None
        return func in _ARGUMENTS and isinstance(out, Tensor) and plain


def _term(
    func: Callable[..., Tensor], call: Mapping[str, Any], place: str, moved: Tensor, out: Tensor
) -> Tensor:
    """The term that the movement of a weight or bias adds to the output of a linear function."""
    moved = moved.to(out.dtype)
    if place == "bias":
        return moved if func in _ENTRYWISE else moved.reshape(-1, *(1 for _ in out.shape[2:]))
    if func is functional.embedding and call.get("padding_idx") is not None:
        moved = moved.clone()
        moved[call["padding_idx"]] = 0
    # At u = 0 the gradient of the input through this term is 0.
    instead = {"input": call["input"].detach(), "weight": moved}
    if "bias" in _ARGUMENTS[func]:
        instead["bias"] = None
    return func(**{**call, **instead})


def _flat(values: Sequence[Any]) -> list[Any]:
    """The values, with nested lists and tuples flattened."""
    found: list[Any] = []
    for value in values:
        found.extend(_flat(value) if isinstance(value, list | tuple) else [value])
    return found
