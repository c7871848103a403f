"""`Groups`: a partition of the entries of θ, and sums and counts within it.

Entries of a tensor, layer or neuron lie together or at equal distances, so a group is a few `Slices`, summed
along axes: that needs no index of length K and is several times faster than one.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from lca.arrays import Slices, Vector, array_ops


class SignCounts(NamedTuple):
    """How many parameters of each group have A < 0, A > 0, and A = 0 exactly; integers (groups,)."""

    negative: np.ndarray
    positive: np.ndarray
    zero: np.ndarray


class Groups:
    """A partition of the K entries of θ; `lca.Layout.groups` makes them.

    Parameters
    ----------
    names
        One a group.
    slices
        Consecutive parts of θ, each split into sums.
    ids
        The number of the group that each sum belongs to.

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
        self.names, self.slices, self.ids = tuple(names), tuple(slices), ids
        self._each_is_one = np.array_equal(ids, np.arange(len(names)))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> np.ndarray:
        """The number of the group of every entry, shape (K,); nothing here needs it."""
        parts, at = [], 0
        for part in self.slices:
            ids = self.ids[at : at + part.width].reshape(1, -1, 1)
            parts.append(np.broadcast_to(ids, part.shape).ravel())
            at += part.width
        return np.concatenate(parts)

    @property
    def parameters(self) -> int:
        """K."""
        return int(self.sizes.sum())

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of entries of each group, shape (groups,)."""
        return self._merged(
            np.repeat([part.outer * part.inner for part in self.slices], [part.width for part in self.slices])
        )

    def total(self, values: Vector) -> np.ndarray:
        """Sum ``values`` (K,), of any backend, within each group; float64, shape (groups,)."""
        return self.merged(array_ops(values).sums(values, self.slices))

    def merged(self, sums: np.ndarray) -> np.ndarray:
        """Group totals from the sums of `slices`; tensors and layers share theirs, so one pass does."""
        return sums if self._each_is_one else np.bincount(self.ids, sums, minlength=len(self))

    def signs(self, values: Vector) -> SignCounts:
        """Count the signs of ``values`` (K,), of any backend, within each group.

        >>> from lca import Layout
        >>> groups = Layout(("a.w", "b.w"), ((2,), (1,))).groups("layer")
        >>> groups.signs(np.array([1.0, 0.0, -4.0]))
        SignCounts(negative=array([0, 1]), positive=array([1, 0]), zero=array([1, 0]))
        """
        negative, positive = (self._merged(row) for row in array_ops(values).sign_counts(values, self.slices))
        return SignCounts(negative, positive, self.sizes - negative - positive)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Count the true entries of ``mask`` (K,) within each group; integers of shape (groups,)."""
        return self.total(mask.astype(np.float64)).astype(np.int64)

    def _merged(self, counts: np.ndarray) -> np.ndarray:
        if self._each_is_one:
            return counts
        merged = np.zeros(len(self), np.int64)
        np.add.at(merged, self.ids, counts)
        return merged


def by_label(labels: Sequence[str], sizes: Sequence[int]) -> Groups:
    """Groups of whole tensors: those with the same label belong together."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(labels))}
    slices = [Slices(start, 1, 1, size) for start, size in zip(_starts(sizes), sizes, strict=True)]
    return Groups(tuple(numbers), slices, np.array([numbers[label] for label in labels]))


def by_neuron(layers: Sequence[str], shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]) -> Groups:
    """Groups of output neurons or channels: of equal number along ``axes`` in tensors of the same layer."""
    numbers: dict[str, int] = {}
    slices, ids = [], []
    for layer, shape, axis, start in zip(layers, shapes, axes, _starts(map(math.prod, shapes)), strict=True):
        if axis is None:
            labels, part = [layer], Slices(start, 1, 1, math.prod(shape))
        else:
            labels = [f"{layer}[{j}]" for j in range(shape[axis])]
            part = Slices(start, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        slices.append(part)
        ids += [numbers.setdefault(label, len(numbers)) for label in labels]
    return Groups(tuple(numbers), slices, np.array(ids))


def _starts(sizes: Iterable[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))[:-1]
