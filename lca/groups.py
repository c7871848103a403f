"""`Groups`: a partition of the entries of θ, with sums and counts within each group.

The entries of a tensor, layer or neuron are adjacent or equally spaced in θ. A group is therefore a few
`Slices` that are summed along axes, which is several times faster than an index of length K.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from lca.arrays import Slices, Vector, array_ops
from lca.arrays._types import Division

__all__ = [
    "Groups",
    "SignCounts",
]


class SignCounts(NamedTuple):
    """Numbers of entries of each group by their sign; integers (groups,).

    ``negative`` counts v < 0, ``positive`` v > 0, and ``zero`` v = 0 exactly.

    >>> SignCounts(np.array([2]), np.array([0]), np.array([1])).zero
    array([1])
    """

    negative: np.ndarray
    positive: np.ndarray
    zero: np.ndarray


class Groups:
    """A partition of the K entries of θ, made by `lca.Layout.groups`.

    Parameters
    ----------
    names
        The names of the groups.
    slices
        Consecutive slices of θ, each of which is split into sums.
    ids
        The number of the group to which each sum belongs, shape (sums,).

    Examples
    --------
    >>> from lca import Layout
    >>> groups = Layout(("a.w", "b.w"), ((2,), (1,))).groups("layer")
    >>> groups.total(np.array([1.0, 2.0, 4.0]))
    array([3., 4.])
    >>> groups.index
    array([0, 0, 1])
    """

    def __init__(self, names: Sequence[str], slices: Sequence[Slices], ids: np.ndarray) -> None:
        self.names, self.slices, self.ids = tuple(names), Division(slices), ids
        self._one_sum_each = np.array_equal(ids, np.arange(len(names)))

    @classmethod
    def of_parts(cls, names: Sequence[str], slices: Sequence[Slices], labels: Sequence[str]) -> "Groups":
        """Groups from the name of the group of each sum.

        >>> Groups.of_parts(["a", "b"], [Slices(0, 1, 2, 3)], ["b", "a"]).ids
        array([1, 0])
        """
        numbers = {name: i for i, name in enumerate(names)}
        return cls(names, slices, np.array([numbers[label] for label in labels]))

    @classmethod
    def by_label(
        cls, labels: Sequence[str], sizes: Sequence[int], names: Sequence[str] | None = None
    ) -> "Groups":
        """Groups of whole tensors: tensors with the same label form one group.

        ``names`` is the order of the groups; default: that of their first tensors.

        >>> Groups.by_label(["a", "b", "a"], [2, 3, 1]).sizes
        array([3, 3])
        """
        slices = [Slices(start, 1, 1, size) for start, size in zip(_starts(sizes), sizes, strict=True)]
        return cls.of_parts(tuple(dict.fromkeys(labels)) if names is None else names, slices, labels)

    @classmethod
    def by_neuron(
        cls, layers: Sequence[str], shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]
    ) -> "Groups":
        """Groups of output neurons or channels: equal index along ``axes`` in the tensors of one layer.

        >>> Groups.by_neuron(["fc", "fc"], [(2, 3), (2,)], [0, 0]).names
        ('fc[0]', 'fc[1]')
        """
        numbers: dict[str, int] = {}
        slices, ids = [], []
        for layer, shape, axis, start in zip(
            layers, shapes, axes, _starts(map(math.prod, shapes)), strict=True
        ):
            if axis is None:
                labels, part = [layer], Slices(start, 1, 1, math.prod(shape))
            else:
                labels = [f"{layer}[{j}]" for j in range(shape[axis])]
                part = Slices(start, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
            slices.append(part)
            ids += [numbers.setdefault(label, len(numbers)) for label in labels]
        return cls(tuple(numbers), slices, np.array(ids))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> np.ndarray:
        """The number of the group of every entry, shape (K,); no reduction of the library needs it."""
        parts, at = [], 0
        for part in self.slices:
            ids = self.ids[at : at + part.width].reshape(1, -1, 1)
            parts.append(np.broadcast_to(ids, part.shape).ravel())
            at += part.width
        return np.concatenate(parts)

    @cached_property
    def whole_tensors(self) -> int:
        """The number of tensors, if each belongs to one group as a whole; else 0."""
        return len(self.slices) if all(part.outer == part.width == 1 for part in self.slices) else 0

    @property
    def parameters(self) -> int:
        """K, the number of entries of θ."""
        return int(self.sizes.sum())

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of entries of each group, integers (groups,)."""
        lengths, widths = zip(*((part.outer * part.inner, part.width) for part in self.slices), strict=True)
        return self.merged(np.repeat(lengths, widths))

    def total(self, values: Vector) -> np.ndarray:
        """Sum ``values`` (K,), of any backend, within each group; float64, shape (groups,)."""
        return self.merged(array_ops(values).sums(values, self.slices))

    def signs(self, values: Vector) -> SignCounts:
        """Count the signs of ``values`` (K,), of any backend, within each group.

        >>> from lca import Layout
        >>> groups = Layout(("a.w", "b.w"), ((2,), (1,))).groups("layer")
        >>> groups.signs(np.array([1.0, 0.0, -4.0]))
        SignCounts(negative=array([0, 1]), positive=array([1, 0]), zero=array([1, 0]))
        """
        return self.merged_signs(array_ops(values).sums_and_signs(values, self.slices)[1])

    def merged(self, sums: np.ndarray) -> np.ndarray:
        """The group totals of the sums (or counts) of ``slices``, in the same dtype; shape (groups,).

        The slices of tensors and of layers are the same, so one pass over θ serves both.

        >>> from lca import Layout
        >>> Layout(("a.w", "a.b"), ((2,), (1,))).groups("layer").merged(np.array([1.0, 2.0]))
        array([3.])
        """
        if self._one_sum_each:
            return sums
        return np.bincount(self.ids, sums, minlength=len(self.names)).astype(sums.dtype, copy=False)

    def merged_signs(self, counts: np.ndarray) -> SignCounts:
        """The `SignCounts` of the groups from the counts (2, sums) that `ArrayOps.sums_and_signs` returns."""
        negative, positive = map(self.merged, counts)
        return SignCounts(negative, positive, self.sizes - negative - positive)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Count the true entries of ``mask`` (K,) within each group; integers (groups,)."""
        return self.total(mask.astype(np.float64)).astype(np.int64)


def _starts(sizes: Iterable[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))[:-1]
