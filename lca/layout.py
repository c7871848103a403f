"""`Layout`: which tensor each entry of the flat parameter vector θ belongs to.

The engine sees one vector of K numbers; people think in tensors, layers and neurons. A layout is the
only bridge: it packs tensors into θ, cuts θ back into tensors (as views), and groups entries for sums.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LayoutError, UnknownNameError
from lca.groups import Groups, by_label, by_neuron

Array = np.ndarray
GroupBy = Literal["tensor", "layer", "neuron"]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors that make up θ, in order, each flattened row by row.

    Parameters
    ----------
    names
        One unique name a tensor, e.g. ``"fc1.weight"``. What stands before the last dot is the layer.
    shapes
        One shape a tensor; ``()`` is a scalar.
    neuron_axes
        The axis of each tensor that runs over output neurons or channels (``None``: no such axis).
        Default: axis 0, the ``(out, in)`` convention of the NumPy models and of PyTorch.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(tuple(int(n) for n in s) for s in self.shapes))
        if not self.names or len(self.names) != len(self.shapes):
            raise LayoutError(
                f"a layout needs one shape a name and at least one tensor, got {len(self.names)} names "
                f"and {len(self.shapes)} shapes."
            )
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise LayoutError(f"tensor names must be unique; repeated: {', '.join(twice)}.")
        axes = self.neuron_axes
        if axes is None:
            axes = tuple(0 if shape else None for shape in self.shapes)
        if len(axes) != len(self.names):
            raise LayoutError(f"neuron_axes needs one entry a tensor ({len(self.names)}), got {len(axes)}.")
        for name, shape, axis in zip(self.names, self.shapes, axes, strict=True):
            if any(n < 1 for n in shape):
                raise LayoutError(f"tensor {name!r} has an empty shape {shape}; leave it out of the layout.")
            if axis is not None and not 0 <= axis < len(shape):
                raise LayoutError(f"neuron axis {axis} of {name!r} is not an axis of its shape {shape}.")
        object.__setattr__(self, "neuron_axes", tuple(axes))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Position in θ of each tensor's first entry."""
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    @property
    def size(self) -> int:
        """K, the length of θ."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Array] | Sequence[Array]) -> Array:
        """Pack tensors, by name or in order, into one new (K,) vector of their common dtype."""
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
        """Slices θ into tensors by name; views, not copies, where the array type allows it."""
        self.check(vector)
        return {
            name: vector[offset : offset + size].reshape(shape)
            for name, shape, offset, size in zip(
                self.names, self.shapes, self.offsets, self.sizes, strict=True
            )
        }

    def check(self, vector: Vector, what: str = "vector") -> None:
        """Raise `LayoutError` unless ``vector`` is a floating-point vector of shape (K,)."""
        array_ops(vector)  # raises if this is no vector at all
        shape = tuple(vector.shape)
        if shape != (self.size,):
            raise LayoutError(
                f"{what}: expected shape ({self.size},) for the tensors {', '.join(self.names)}, got "
                f"{shape}; build it with Layout.flatten."
            )
        if isinstance(vector, np.ndarray) and vector.dtype.kind not in "fc":
            raise LayoutError(
                f"{what}: expected a floating-point dtype, got {vector.dtype}; use .astype(numpy.float64)."
            )

    def tensor_at(self, position: int) -> str:
        """The name of the tensor that holds entry ``position`` of θ."""
        if not 0 <= position < self.size:
            raise LayoutError(f"position {position} is outside a vector of length {self.size}.")
        return self.names[int(np.searchsorted(self.offsets, position, side="right")) - 1]

    def label(self, position: int) -> str:
        """Entry ``position`` of θ as people write it.

        >>> Layout(("fc.weight", "fc.bias"), ((2, 3), (2,))).label(4)
        'fc.weight[1, 1]'
        """
        name = self.tensor_at(position)
        which = self.names.index(name)
        at = np.unravel_index(position - self.offsets[which], self.shapes[which])
        return f"{name}[{', '.join(str(i) for i in at)}]"

    def position(self, entry: int | str) -> int:
        """The position in θ of an entry given as `label` writes it, or as a position already.

        >>> Layout(("fc.weight", "fc.bias"), ((2, 3), (2,))).position("fc.weight[1, 1]")
        4
        """
        if not isinstance(entry, str):
            self.tensor_at(entry)
            return int(entry)
        name, _, inside = entry.removesuffix("]").rpartition("[")
        if name not in self.names:
            raise UnknownNameError("tensor", name, self.names)
        which = self.names.index(name)
        try:
            at = tuple(int(i) for i in inside.split(",") if i.strip())
            return self.offsets[which] + int(np.ravel_multi_index(at, self.shapes[which]))
        except ValueError as error:
            raise LayoutError(
                f"{entry!r} is no entry of {name!r}, which has shape {self.shapes[which]}; write "
                f"{self.label(self.offsets[which])!r}, say."
            ) from error

    def groups(self, by: GroupBy | Mapping[str, str] | Callable[[str], str] = "tensor") -> Groups:
        """Group the entries of θ for sums.

        ``by`` is ``"tensor"``, ``"layer"`` (what stands before the last dot of the name), ``"neuron"``
        (one group an output neuron or channel, weights and bias together), or any mapping or function
        from tensor name to group name.
        """
        if isinstance(by, str) and by in self._named_groups:
            return self._named_groups[by]
        found = self._groups(by)
        if isinstance(by, str):
            self._named_groups[by] = found
        return found

    @cached_property
    def _named_groups(self) -> dict[str, Groups]:
        """The groups asked for by name so far; every reader of a run shares them."""
        return {}

    def _groups(self, by: GroupBy | Mapping[str, str] | Callable[[str], str]) -> Groups:
        if by == "neuron":
            assert self.neuron_axes is not None
            return by_neuron([_layer(name) for name in self.names], self.shapes, self.neuron_axes)
        if by == "tensor":
            labels = list(self.names)
        elif by == "layer":
            labels = [_layer(name) for name in self.names]
        elif isinstance(by, Mapping):
            missing = [name for name in self.names if name not in by]
            if missing:
                raise LayoutError(f"the grouping names no group for the tensors {', '.join(missing)}.")
            labels = [by[name] for name in self.names]
        elif callable(by):
            labels = [by(name) for name in self.names]
        else:
            raise UnknownNameError("grouping", by, ("tensor", "layer", "neuron"))
        return by_label(labels, self.sizes)


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def check_same_layout(layouts: Iterable[Layout], what: str) -> Layout:
    """The one layout all share, or a `LayoutError` that says what must agree."""
    first, *rest = layouts
    for other in rest:
        if (other.names, other.shapes) != (first.names, first.shapes):
            raise LayoutError(
                f"{what} must share one layout; got {dict(zip(first.names, first.shapes, strict=True))} "
                f"and {dict(zip(other.names, other.shapes, strict=True))}."
            )
    return first
