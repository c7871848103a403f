"""`LocalSlopes`: the slopes of all groups from one forward and one backward pass, for layers linear in θ.

Give each example n its own copy of every tensor, ``W + u_n ΔW``, with one scalar ``u_n`` per example and
tensor. Then ``∂ Σ_n ℓ_n / ∂u_n`` at u = 0 is the slope of example n along the movement of the tensor. A layer
that is linear in its tensors then adds ``u_n · layer(x_n; ΔW)`` to its output, and one backward pass gives
the derivatives with respect to all u. No gradient of a tensor is formed, and the cost does not depend on the
number of groups.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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
    count
        The number of examples in the batch.

    Attributes
    ----------
    uncovered
        Names of tensors used by an operation that this mode does not cover, so that their slopes are unknown.
    """

    def __init__(self, tensors: Mapping[str, Tensor], movement: Mapping[str, Tensor], count: int) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._held = list(tensors.values())  # keeps them alive, so that no other tensor gets one of these ids
        self._movement, self._count = movement, count
        self._factors: list[tuple[str, Tensor]] = []
        self.uncovered: set[str] = set()

    def slopes(self, total: Tensor) -> dict[str, Tensor]:
        """The slopes (n,) of each tensor; ``total``, the sum of the losses, was computed within this mode."""
        found = {name: total.new_zeros(self._count) for name in self._names.values()}
        if self._factors:
            factors = [factor for _, factor in self._factors]
            grads = torch.autograd.grad(total, factors, allow_unused=True)
            for (name, _), grad in zip(self._factors, grads, strict=True):
                if grad is not None:
                    found[name] = found[name] + grad
        return found

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
            out = out + self._factor(name, out) * _term(func, call, place, self._movement[name], out)
        return out

    def _name(self, value: object) -> str | None:
        return self._names.get(id(value))

    def _covers(self, func: Any, call: Mapping[str, Any], out: Any) -> bool:
        """Whether this mode covers a call: each row of the output belongs to a single example."""
        by_row = isinstance(out, Tensor) and out.dim() > 0 and len(out) % self._count == 0 and len(out) > 0
        plain = not call.get("training") and call.get("max_norm") is None
        return func in _ARGUMENTS and by_row and plain

    def _factor(self, name: str, out: Tensor) -> Tensor:
        """One factor of 0 per example, repeated and reshaped so that it broadcasts to an output."""
        factor = out.new_zeros(self._count, requires_grad=True)
        self._factors.append((name, factor))
        rows = factor.repeat_interleave(len(out) // self._count)
        return rows.reshape(-1, *(1 for _ in out.shape[1:]))


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
