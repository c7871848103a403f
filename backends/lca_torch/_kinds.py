"""Kinds of parameters that cannot be measured, each with what to do instead."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LayoutError

_SHARDED = ("DTensor", "ShardedTensor", "AsyncCollectiveTensor")
_WHOLE = frozenset({Tensor, nn.Parameter})
LEAVE_OUT = "or leave it out of θ with requires_grad_(False) and frozen='omit'"


def is_sharded(parameter: Tensor) -> bool:
    """Whether a parameter is a `DTensor`, of which each rank may hold only a part.

    >>> is_sharded(torch.zeros(2))
    False
    """
    return hasattr(parameter, "full_tensor")


def local_part(tensor: Any, like: Any = None) -> Tensor:
    """The part of a tensor that this rank holds: all of it, unless it is a `DTensor`.

    With a parameter ``like``, the same part as of that: where the ranks hold summands of a tensor instead,
    these are added first, which is a collective operation.
    """
    if like is not None and holds_summands(tensor, like):
        tensor = tensor.redistribute(placements=like.placements)
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def local_parts(tensors: Sequence[Tensor], like: Sequence[Tensor] | None = None) -> Sequence[Tensor]:
    """The `local_part` of each of these tensors; with ``like``, those of as many parameters.

    >>> local_parts([torch.zeros(1)])
    [tensor([0.])]
    """
    if _WHOLE.issuperset(map(type, tensors)):
        return tensors
    return list(map(local_part, tensors, [None] * len(tensors) if like is None else like))


def holds_summands(tensor: Any, parameter: Any) -> bool:
    """Whether a `DTensor`, such as the gradient of a parameter, is divided otherwise than the parameter."""
    return is_sharded(tensor) and tuple(tensor.placements) != tuple(parameter.placements)


def refuse_kinds(parameters: Mapping[str, Tensor], *, sharded: bool = False) -> None:
    """Raise `LayoutError` for a parameter that is not a dense, real tensor with numbers of its own.

    With ``sharded``, a `DTensor` is accepted.

    >>> refuse_kinds({"w": torch.zeros(2)})
    """
    for name, parameter in parameters.items():
        reason = "" if sharded and is_sharded(parameter) else _reason(parameter)
        if reason:
            raise LayoutError(f"parameter {name!r} {reason}.")


def _reason(parameter: Tensor) -> str:
    if isinstance(parameter, nn.UninitializedParameter):
        return ""  # refused by name when its shape is needed
    if type(parameter.data) is not Tensor:
        return _reason_of_class(type(parameter.data).__name__)
    if parameter.is_complex():
        return (
            f"is {str(parameter.dtype).removeprefix('torch.')}; make it a real parameter of both parts, "
            "nn.Parameter(torch.view_as_real(w)), and use torch.view_as_complex of it in forward"
        )
    if parameter.layout is not torch.strided:
        return f"is sparse ({parameter.layout}); make it dense with to_dense(), {LEAVE_OUT}"
    if not parameter.numel():
        return f"has no entries (shape {tuple(parameter.shape)}); take it out of the model, {LEAVE_OUT}"
    return ""


def _reason_of_class(kind: str) -> str:
    if kind not in _SHARDED:
        return (
            f"is a {kind}, a subclass of Tensor with operations of its own, and θ consists of plain tensors; "
            f"make it a plain parameter, nn.Parameter(w.as_subclass(torch.Tensor)), {LEAVE_OUT}"
        )
    return (
        f"is a {kind}, of which this process may hold a part only. Make the objective from a whole copy of "
        "the model, copy.deepcopy(model) before fully_shard(model) or before it is distributed otherwise, "
        "and the tracker from the sharded model and this objective"
    )
