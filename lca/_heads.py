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
_ROLES = ("single", "fused", "output")
_LISTED = 8
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
class Heads:
    """The heads of attention layers whose projections have names of their own (``heads=``).

    The names are regular expressions that are searched in the names of the tensors. What stands before a
    match is the attention layer, and must be the same for its queries, keys, values and output.

    Parameters
    ----------
    number
        The number of heads of an attention layer.
    single
        The names of the query, key and value projections, each a tensor of its own.
    fused
        The names of projections that hold queries, keys and values, one after the other.
    output
        The names of the output projections.

    Raises
    ------
    LCAError
        If neither ``single`` nor ``fused`` is given, or one is not a regular expression.

    Examples
    --------
    >>> from lca import Layout
    >>> from lca.layout import Heads
    >>> names = ("mix.read_q.weight", "mix.read_k.weight", "mix.read_v.weight", "mix.write.weight")
    >>> layout = Layout(names, ((4, 4),) * 4)
    >>> layout.groups("head", heads=Heads(2, single=r"read_[qkv]", output="write")).names
    ('mix[head 0]', 'mix[head 1]')
    """

    number: int
    single: str = ""
    fused: str = ""
    output: str = ""

    def __post_init__(self) -> None:
        if not (self.single or self.fused):
            raise LCAError(
                f"Heads({self.number!r}) names no projections; pass single= or fused=, or the number alone."
            )
        for role, pattern in self.patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise LCAError(f"{role}={pattern!r} is not a regular expression ({error}).") from error

    @property
    def patterns(self) -> dict[str, str]:
        """The expressions that are given, by role."""
        return {role: pattern for role in _ROLES if (pattern := getattr(self, role))}

    def match(self, name: str) -> tuple[str, str] | None:
        """The attention layer and the role of a tensor; ``None`` if it is no projection."""
        found = {role: match for role, own in self.patterns.items() if (match := re.search(own, name))}
        if len(found) > 1:
            raise LCAError(f"{name!r} is selected by {'= and by '.join(found)}=; it can be one of them only.")
        for role, match in found.items():
            return name[: match.start()].rstrip("."), role
        return None


@dataclass(frozen=True)
class _Projection:
    """A weight or bias of an attention module; ``role`` is single, fused or output."""

    name: str
    module: str
    role: str
    bias: bool
    shape: tuple[int, ...]
    axis: int


def head_groups(layout: Tensors, heads: int | Heads) -> Groups:
    """Groups of the heads of every attention module; all other entries are in ``"other"``.

    Tensors are recognised by name: q_proj, k_proj, v_proj, or query, key, value (and other usual names), the
    fused in_proj, qkv and c_attn, and the output projections out_proj, o_proj, c_proj, attention_output and
    others beside them, or by the names in `Heads`. The bias of an output projection belongs to all heads, and
    so to ``"other"``.

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
    named, heads = (heads, heads.number) if isinstance(heads, Heads) else (None, heads)
    if not isinstance(heads, int) or heads < 1:
        raise LCAError(f"heads must be a positive integer, got {heads!r}.")
    found = {own.name: own for own in _projections(layout, named)}
    if not found:
        raise _unknown(layout, heads, named)
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


def _unknown(layout: Tensors, heads: int, named: Heads | None) -> LCAError:
    """The error where no projection is found."""
    matrices = [n for n, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) > 1]
    listed = ", ".join(matrices[:_LISTED]) + (", ..." if len(matrices) > _LISTED else "")
    if named is not None:
        return LCAError(f"{named!r} selects no query, key or value projection; the matrices are {listed}.")
    return LCAError(
        f"heads={heads} divides attention layers, and no projection is known by its name (q_proj, query, "
        f"to_q, in_proj, qkv, c_attn, ...); the matrices are {listed}. Pass the names of yours: "
        rf"heads=lca.layout.Heads({heads}, single=r'\.(wq|wk|wv)\.', output=r'\.wo\.'), or fused= for one "
        "that holds all three. For an output layer that is called head use groups={'output': 'head'}."
    )


def _roles(layout: Tensors, named: Heads | None) -> Iterator[tuple[str, str, str, bool]]:
    """Name, attention module and role of each projection, and whether it is a bias."""
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if named is not None:
            known = named.match(name)
            if known is not None:
                yield name, *known, len(shape) == 1 or name.endswith("bias")
        elif match := _TENSOR.match(name):
            role = next(role for role in _ROLES if match[role])
            yield name, match["module"] or "", role, match["kind"] == "bias"


def _projections(layout: Tensors, named: Heads | None) -> Iterator[_Projection]:
    assert layout.neuron_axes is not None
    found = []
    tensors = dict(zip(layout.names, zip(layout.shapes, layout.neuron_axes, strict=True), strict=True))
    for name, module, role, bias in _roles(layout, named):
        shape, axis = tensors[name]
        if not shape:
            continue
        at = axis or 0
        if role == "fused" and not bias and len(shape) == 2 and shape[at] != 3 * shape[1 - at]:  # noqa: PLR2004
            at = 1 - at if shape[1 - at] == 3 * shape[at] else at
        found.append(_Projection(name, module, role, bias, shape, at))
    modules = {own.module for own in found if own.role != "output"}
    apart = [own for own in found if own.module not in modules]
    if named is not None and modules and apart:
        raise LCAError(
            f"the output projection {apart[0].name!r} belongs to {apart[0].module!r}, which has no query; "
            f"the queries, keys and values belong to {', '.join(sorted(modules)[:3])}. Let all expressions "
            "of Heads match from the same place in the names on."
        )
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
