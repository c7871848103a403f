"""`head_groups`: the entries of attention projections by head.

The rows of the query, key and value projections (weights and biases) and the columns of the output projection
belong to one head each: ``W_q[h d_h : (h + 1) d_h, :]`` and ``W_o[:, h d_h : (h + 1) d_h]``. Fused
projections hold q, k and v one after the other.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lca.arrays import Slices
from lca.divisions import OTHER, _in_order
from lca.errors import LCAError
from lca.groups import Groups

_SINGLE = r"(?P<single>q|k|v|[qkv]_proj|[qkv]_lin|to_[qkv]|query|key|value)"
_FUSED = r"(?P<fused>qkv|in_proj|c_attn|Wqkv)"
_OUTPUT = r"(?P<output>out_proj|o_proj|c_proj|out_lin|to_out\.0|attention_output|o|proj|output\.dense)"
_TENSOR = re.compile(
    rf"^(?:(?P<module>.*?)\.)?(?:self\.)?(?:{_SINGLE}|{_FUSED}|{_OUTPUT})[._](?P<kind>weight|bias|kernel)$"
)


class Tensors(Protocol):
    """What is read of an `lca.Layout`, which offers these groups and so is built on this module."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def offsets(self) -> tuple[int, ...]: ...
    @property
    def neuron_axes(self) -> tuple[int | None, ...] | None: ...


@dataclass(frozen=True)
class _Projection:
    """A weight or bias of an attention module; ``role`` is single, fused or output."""

    name: str
    module: str
    role: str
    bias: bool
    shape: tuple[int, ...]
    axis: int


def head_groups(layout: Tensors, heads: int) -> Groups:
    """Groups of the ``heads`` heads of every attention module; all other entries are in ``"other"``.

    Tensors are recognised by name: q_proj, k_proj, v_proj, or query, key, value (and other usual names), the
    fused in_proj, qkv and c_attn, and the output projections out_proj, o_proj, c_proj, attention_output and
    others beside them. The bias of an output projection belongs to all heads, and so to ``"other"``.

    Raises
    ------
    LCAError
        If there is no such tensor, a size is not a multiple of ``heads``, or q, k and v have different
        numbers of rows (grouped queries), whose heads are not one to one.

    Examples
    --------
    >>> from lca import Layout
    >>> names = ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "attn.out_proj.weight")
    >>> head_groups(Layout(names, ((4, 4),) * 4), 2).names
    ('attn[head 0]', 'attn[head 1]')
    """
    if not isinstance(heads, int) or heads < 1:
        raise LCAError(f"heads must be a positive integer, got {heads!r}.")
    found = {own.name: own for own in _projections(layout)}
    if not found:
        raise LCAError(
            f"heads={heads} needs attention projections such as q_proj.weight or in_proj_weight; the tensors "
            f"are {', '.join(layout.names[:6])}."
        )
    fused_axis = {own.module: own.axis for own in found.values() if own.role == "fused" and not own.bias}
    _check_equal(found.values())
    slices, labels = [], []
    for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        own = found.get(name)
        if own is None or (own.role == "output" and own.bias):
            slices.append(Slices(start, 1, 1, math.prod(shape)))
            labels.append(OTHER)
            continue
        outer, width, inner = _cut(own, heads, fused_axis.get(own.module, own.axis))
        slices.append(Slices(start, outer, width, inner))
        labels += [f"{own.module or 'attention'}[head {j % heads}]" for j in range(width)]
    return Groups.of_parts(_in_order(labels), slices, labels)


def _projections(layout: Tensors) -> Iterator[_Projection]:
    assert layout.neuron_axes is not None
    found = []
    for name, shape, axis in zip(layout.names, layout.shapes, layout.neuron_axes, strict=True):
        match = _TENSOR.match(name)
        if match is None or not shape:
            continue
        role = next(role for role in ("single", "fused", "output") if match[role])
        bias, module = match["kind"] == "bias", match["module"] or ""
        at = axis or 0
        if role == "fused" and not bias and len(shape) == 2 and shape[at] != 3 * shape[1 - at]:  # noqa: PLR2004
            at = 1 - at if shape[1 - at] == 3 * shape[at] else at
        found.append(_Projection(name, module, role, bias, shape, at))
    modules = {own.module for own in found if own.role != "output"}
    yield from (own for own in found if own.module in modules)


def _cut(own: _Projection, heads: int, axis: int) -> tuple[int, int, int]:
    """How a tensor is divided by head: (outer, width, inner) of `Slices`."""
    shape, parts = own.shape, 3 if own.role == "fused" else 1
    if len(shape) > 1 + (not own.bias):  # Keras: (in, heads, d_h), (heads, d_h), (heads, d_h, out)
        axis = 0 if own.role == "output" or own.bias else 1
        if shape[axis] != heads:
            raise LCAError(f"{own.name!r} has {shape[axis]} heads, not heads={heads}.")
    elif own.bias:
        axis = 0
    elif own.role == "output":
        axis = 1 - axis
    if shape[axis] % (parts * heads):
        raise LCAError(
            f"axis {axis} of {own.name!r}, of shape {shape}, is not a multiple of {parts * heads}; "
            f"heads={heads} must be the number of heads of the model."
        )
    inner = shape[axis] // (parts * heads) * math.prod(shape[axis + 1 :])
    return math.prod(shape[:axis]), parts * heads, inner


def _check_equal(projections: object) -> None:
    """Raise `LCAError` if q, k and v of one module differ in their rows."""
    rows: dict[str, dict[int, str]] = {}
    for own in projections:  # type: ignore[attr-defined]
        if own.role == "single" and not own.bias and len(own.shape) == 2:  # noqa: PLR2004
            rows.setdefault(own.module, {})[own.shape[own.axis]] = own.name
    for different in rows.values():
        if len(different) > 1:
            a, b, *_ = different.values()
            raise LCAError(
                f"{a!r} and {b!r} have different numbers of rows: the heads of grouped queries share keys "
                "and values, which heads= does not divide."
            )
