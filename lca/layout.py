"""`Layout`: the names, shapes and positions of the tensors in the flat parameter vector θ.

Estimators work on one vector of K numbers, and users think in tensors, layers and neurons. Only a layout
converts between the two: it flattens tensors into θ, returns views of them, and groups entries for sums.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from lca._deprecation import warn_deprecated
from lca._experts import expert_groups
from lca._heads import Heads, head_groups
from lca.arrays import Vector, array_ops
from lca.divisions import Selectors, _division_of, _in_order, _names_a_group, labels_by_pattern
from lca.errors import LayoutError, LCAError, UnknownNameError
from lca.groups import Groups

__all__ = [
    "GroupBy",
    "Grouping",
    "Heads",
    "Layout",
    "check_same_layout",
]

_Array = np.ndarray
_SUPPORTED: set[type] = set()
"""Types of vectors that were found to have array operations."""
GroupBy = Literal["tensor", "layer", "neuron"]
Grouping: TypeAlias = str | re.Pattern[str] | Selectors | Callable[[str], str]
"""What `Layout.groups` accepts: `GroupBy`, ``"head"``, ``"expert"``, an expression, mapping or function."""


@dataclass(frozen=True)
class Layout:
    """The tensors that make up θ: names and shapes in order, each tensor flattened in row-major order.

    Parameters
    ----------
    names
        One unique name per tensor, e.g. ``"fc1.weight"``. The part before the last dot names the layer.
    shapes
        One shape per tensor; ``()`` is a scalar.
    neuron_axes
        For each tensor, the axis that indexes output neurons or channels, or ``None`` for a tensor without
        one. The default is axis 0, the ``(out, in)`` convention of PyTorch and of `lca.reference`.
    tied
        For tensors that the model has under several names (tied weights), the other names by the one in
        ``names``. The tensor is in θ once, and its allocation is that of all its uses. Two layouts that
        differ in these names only are equal.

    Raises
    ------
    LayoutError
        If names repeat, a tensor is empty, the lengths or axes do not match, or ``tied`` names no tensor.

    Examples
    --------
    >>> layout = Layout(("fc.weight", "fc.bias"), ((2, 3), (2,)))
    >>> layout.size
    8
    >>> theta = layout.flatten({"fc.weight": np.ones((2, 3)), "fc.bias": np.zeros(2)})
    >>> layout.unflatten(theta)["fc.bias"]
    array([0., 0.])
    >>> layout.groups("layer").names
    ('fc',)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    neuron_axes: tuple[int | None, ...] | None = None
    tied: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(_whole(shape) for shape in self.shapes))
        if not self.names or len(self.names) != len(self.shapes):
            raise LayoutError(
                f"a layout needs at least one tensor and one shape per name, got {len(self.names)} names "
                f"and {len(self.shapes)} shapes."
            )
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise LayoutError(f"tensor names must be unique; repeated: {', '.join(twice)}.")
        axes = self.neuron_axes
        if axes is None:
            axes = tuple(0 if shape else None for shape in self.shapes)
        if len(axes) != len(self.names):
            raise LayoutError(f"neuron_axes needs one entry per tensor ({len(self.names)}), got {len(axes)}.")
        for name, shape, axis in zip(self.names, self.shapes, axes, strict=True):
            if any(n < 1 for n in shape):
                raise LayoutError(f"tensor {name!r} has an empty shape {shape}; omit it from the layout.")
            if axis is not None and not 0 <= axis < len(shape):
                raise LayoutError(f"neuron axis {axis} of {name!r} is not an axis of its shape {shape}.")
        object.__setattr__(self, "neuron_axes", tuple(axes))
        tied = {name: tuple(others) for name, others in self.tied.items()}
        for name in tied:
            if name not in self.names:
                raise LayoutError(f"tied lists names for {name!r}, but the layout has no tensor {name!r}.")
        object.__setattr__(self, "tied", tied)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The position in θ of the first entry of each tensor."""
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    @cached_property
    def size(self) -> int:
        """K, the length of θ."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, _Array] | Sequence[_Array]) -> _Array:
        """Concatenate tensors into a new vector (K,) of their common dtype.

        Parameters
        ----------
        tensors
            NumPy arrays by name, or a sequence in the order of ``names``.

        Raises
        ------
        LayoutError
            If names or shapes differ from the layout.
        """
        if isinstance(tensors, Mapping):
            if set(tensors) != set(self.names):
                missing = sorted(set(self.names) - set(tensors))
                extra = sorted(set(tensors) - set(self.names))
                raise LayoutError(f"tensors do not match the layout: missing {missing}, unexpected {extra}.")
            tensors = [tensors[name] for name in self.names]
        if len(tensors) != len(self.names):
            raise LayoutError(f"expected {len(self.names)} tensors, got {len(tensors)}.")
        arrays = [np.asarray(tensor) for tensor in tensors]
        for name, shape, array in zip(self.names, self.shapes, arrays, strict=True):
            if array.shape != shape:
                raise LayoutError(f"tensor {name!r}: expected shape {shape}, got {array.shape}.")
        return np.concatenate([array.ravel() for array in arrays])

    def unflatten(self, vector: Vector) -> dict[str, Vector]:
        """Split a vector (K,) into tensors by name.

        The tensors are views of ``vector``, and not copies, if its array type supports views.

        Raises
        ------
        LayoutError
            If ``vector`` is not a floating-point vector of shape (K,).
        """
        self.check(vector)
        return {
            name: vector[offset : offset + size].reshape(shape)
            for name, shape, offset, size in zip(
                self.names, self.shapes, self.offsets, self.sizes, strict=True
            )
        }

    def check(self, vector: Vector, what: str = "vector") -> None:
        """Raise `LayoutError` unless ``vector`` is a floating-point vector of shape (K,).

        ``what`` names the vector in the message.
        """
        is_numpy = isinstance(vector, np.ndarray)
        if type(vector) not in _SUPPORTED:
            array_ops(vector)  # raises if the type is not supported
            _SUPPORTED.add(type(vector))
        shape = vector.shape
        if len(shape) != 1 or shape[0] != self.size:
            shape = tuple(shape)
            raise LayoutError(
                f"{what}: expected shape ({self.size},) for the tensors {', '.join(self.names)}, got "
                f"{shape}; build it with Layout.flatten."
            )
        if is_numpy and vector.dtype.kind not in "fc":
            raise LayoutError(
                f"{what}: expected a floating-point dtype, got {vector.dtype}; use .astype(numpy.float64)."
            )

    def tensor_at(self, position: int) -> str:
        """The name of the tensor that contains entry ``position`` of θ.

        Raises
        ------
        LayoutError
            If the position is outside θ.
        """
        if not 0 <= position < self.size:
            raise LayoutError(f"position {position} is outside θ, which has {self.size} entries.")
        return self.names[int(np.searchsorted(self.offsets, position, side="right")) - 1]

    def label(self, position: int) -> str:
        """A readable name of entry ``position`` of θ: its tensor and index.

        Examples
        --------
        >>> Layout(("fc.weight", "fc.bias"), ((2, 3), (2,))).label(4)
        'fc.weight[1, 1]'
        """
        name = self.tensor_at(position)
        which = self.names.index(name)
        at = np.unravel_index(position - self.offsets[which], self.shapes[which])
        return f"{name}[{', '.join(str(i) for i in at)}]"

    def position(self, entry: int | str) -> int:
        """The position in θ of an entry: the inverse of `label`. An integer is checked and returned.

        Raises
        ------
        UnknownNameError
            If there is no tensor of this name.
        LayoutError
            If the index does not fit the tensor's shape.

        Examples
        --------
        >>> Layout(("fc.weight", "fc.bias"), ((2, 3), (2,))).position("fc.weight[1, 1]")
        4
        """
        if not isinstance(entry, str):
            self.tensor_at(entry)
            return int(entry)
        name, bracket, inside = entry.removesuffix("]").rpartition("[")
        if not bracket:
            name, inside = entry, ""
        if name not in self.names:
            raise UnknownNameError("tensor", name, self.names)
        which = self.names.index(name)
        try:
            at = tuple(int(i) for i in inside.split(",") if i.strip())
            return self.offsets[which] + int(np.ravel_multi_index(at, self.shapes[which]))
        except ValueError as error:
            raise LayoutError(
                f"{entry!r} is not an entry of {name!r}, which has shape {self.shapes[which]}; the first "
                f"entry is {self.label(self.offsets[which])!r}."
            ) from error

    def groups(
        self,
        by: Grouping = "tensor",
        *,
        heads: int | Heads | None = None,
        experts: int | None = None,
    ) -> Groups:
        r"""Group the entries of θ, so that a view can sum over them.

        Parameters
        ----------
        by
            ``"tensor"``, ``"layer"`` (the part of the name before the last dot), ``"neuron"`` (one group per
            output neuron or channel, with its weights and bias), ``"head"`` and ``"expert"`` (below), a
            regular expression with a named group (one group for each text that it matches in tensor names,
            see `lca.divisions.labels_by_pattern`), a mapping from the name of a group to what selects its
            tensors, as ``groups=`` of a tracker (a regular expression, a list of names, or a function of a
            name; all other tensors are in the group ``"other"``), or a function from the name of a tensor to
            that of its group.
        heads
            For ``"head"``: the number of heads of an attention layer. Projections are recognised by name
            (q_proj, in_proj, c_attn, out_proj, ...), or those that a `Heads` names; all other entries are in
            the group ``"other"``. An output layer called head is a layer, and no attention head.
        experts
            For ``"expert"``: the number of experts in a mixture of experts. Experts are either numbered
            modules (experts.3.up_proj.weight) or share tensors (experts.up_proj of shape (experts, ...)).

        Raises
        ------
        LCAError
            If no heads, experts or names as described are found, ``heads`` or ``experts`` is missing, or a
            tensor is in two groups.
        UnknownNameError
            If ``by`` is another string.

        Warns
        -----
        FutureWarning
            If a mapping goes from the name of each tensor to that of its group, which is deprecated.

        Examples
        --------
        >>> names = "wte.weight", "h.0.c_attn.weight", "h.1.c_attn.weight"
        >>> layout = Layout(names, ((5, 4), (12, 4), (12, 4)))
        >>> layout.groups(r"h\.(?P<block>\d+)").names
        ('block 0', 'block 1', 'other')
        >>> layout.groups("head", heads=2).names[:3]
        ('h.0[head 0]', 'h.0[head 1]', 'h.1[head 0]')
        >>> layout.groups({"attention": "attn", "embedding": ["wte.weight"]}).names
        ('embedding', 'attention')
        """
        if isinstance(by, str) and heads is None and experts is None and by in self._named_groups:
            return self._named_groups[by]
        for name, number in (("head", heads), ("expert", experts)):
            if (by == name) != (number is not None):
                raise LCAError(
                    f'{name}s= is required by groups("{name}") and used there only: '
                    f'layout.groups("{name}", {name}s=8); got {by!r} and {name}s={number!r}.'
                )
        if heads is not None:
            return head_groups(self, heads)
        if experts is not None:
            return expert_groups(self, experts)
        found = self._groups(by)
        if isinstance(by, str):
            self._named_groups[by] = found
        return found

    @cached_property
    def _named_groups(self) -> dict[str, Groups]:
        """The groups asked for by name so far; every reader of a run shares them."""
        return {}

    def _labels(self, groups: Mapping[str, Any]) -> Mapping[str, str]:
        """The group of each tensor: the one selected from ``groups``."""
        if not set(self.names) <= set(groups):
            return _division_of(groups, self.names)
        warn_deprecated(
            'layout.groups with the group of each tensor, {"fc.weight": "mlp"},',
            'the tensors of each group, as in groups= of a tracker, {"mlp": "^fc"}, or a function from '
            "tensor to group",
            since="0.2.0",
            removal="0.4.0",
            stacklevel=5,
        )
        return {name: groups[name] for name in self.names}

    def _groups(self, by: Grouping) -> Groups:
        if by == "neuron":
            assert self.neuron_axes is not None
            return Groups.by_neuron([_layer(name) for name in self.names], self.shapes, self.neuron_axes)
        if by == "tensor":
            return Groups.by_label(self.names, self.sizes)
        if by == "layer":
            return Groups.by_label([_layer(name) for name in self.names], self.sizes)
        if isinstance(by, Mapping):
            labels = list(self._labels(by).values())
        elif isinstance(by, re.Pattern) or _names_a_group(by):
            labels = list(labels_by_pattern(by, self.names).values())
        elif callable(by):
            labels = [by(name) for name in self.names]
        else:
            raise UnknownNameError("grouping", by, ("tensor", "layer", "neuron", "head", "expert"))
        return Groups.by_label(labels, self.sizes, _in_order(labels))


def _labelled_groups(layout: Layout, labels: Mapping[str, str]) -> Groups:
    """The groups of a division of `lca.divisions.divisions`, from the group of each tensor."""
    chosen = [labels[name] for name in layout.names]
    return Groups.by_label(chosen, layout.sizes, _in_order(chosen))


def _whole(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape as integers; raises `LayoutError` for anything else."""
    try:
        return tuple(operator.index(n) for n in shape)
    except TypeError as error:
        raise LayoutError(
            f"a shape is a tuple of whole numbers, got {shape!r:.80}; e.g. (64, 32)."
        ) from error


def _layout_from(stored: Mapping[str, Any]) -> Layout:
    """The layout that a record has stored; older records have no ``tied``."""
    return Layout(stored["names"], stored["shapes"], stored["neuron_axes"], stored.get("tied", {}))


def _in_words(tied: Mapping[str, Sequence[str]]) -> str:
    """Tied tensors with all of their names; empty without any.

    >>> _in_words({"wte.weight": ("lm_head.weight",)})
    'wte.weight = lm_head.weight'
    """
    return ", ".join(" = ".join((name, *others)) for name, others in tied.items())


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def check_same_layout(layouts: Iterable[Layout], what: str) -> Layout:
    """Return the common layout; raise `LayoutError`, naming ``what`` must agree, if the layouts differ.

    >>> check_same_layout([Layout(("w",), ((2,),)), Layout(("w",), ((2,),))], "all losses").names
    ('w',)
    """
    first, *rest = layouts
    for other in rest:
        if (other.names, other.shapes) != (first.names, first.shapes):
            raise LayoutError(
                f"{what} must share one layout; got {dict(zip(first.names, first.shapes, strict=True))} "
                f"and {dict(zip(other.names, other.shapes, strict=True))}."
            )
    return first
