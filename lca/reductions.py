"""What views need from a vector: sums, counts and extremes, taken where the vector is.

Results are small NumPy arrays, sums are taken in float64. NumPy is built in; a vector of another kind is
converted to NumPy first (a tensor in the memory of the CPU is not even copied), unless its backend has
registered something better: ``reductions.register(TensorType, lambda vector: MyReductions())``.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from lca.vectors import Vector, vector_ops

Native: TypeAlias = Any
"""What reductions keep between steps: an array of the kind they work on, on its device."""

_BLOCK = 2**15
"""Entries worked on at a time, so that no temporary has length K."""


class Cut(NamedTuple):
    """``width`` sums over the piece of θ from ``start`` on, seen as (outer, width, inner)."""

    start: int
    outer: int
    width: int
    inner: int

    @property
    def stop(self) -> int:
        return self.start + self.outer * self.width * self.inner

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.outer, self.width, self.inner


class Reductions(Protocol):
    """Reductions over (K,) vectors of one kind."""

    def size(self, vector: Vector) -> int:
        """K."""

    def sums(self, vector: Vector, cuts: Sequence[Cut]) -> np.ndarray:
        """All sums of all cuts, in float64."""

    def sign_counts(self, vector: Vector, cuts: Sequence[Cut]) -> np.ndarray:
        """Numbers of negative and of positive entries within the same sums; integers (2, sums)."""

    def magnitudes(self, vector: Vector, edges: np.ndarray) -> np.ndarray:
        """Entries by |v|, integers (2, bins + 2), negative and positive apart, exact zeros left out.

        Column b + 1 counts ``edges[b] ≤ |v| < edges[b + 1]``; the first and last what lies outside. The
        edges are evenly spaced in log |v|.
        """

    def take(self, vector: Vector, positions: np.ndarray) -> np.ndarray:
        """The entries at these positions."""

    def extremes(self, vector: Vector | Native, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the k smallest entries, smallest first, and of the k largest, largest first."""

    def products(self, basis: Native, vector: Vector | Native) -> np.ndarray:
        """``basis @ vector`` for a basis (n, K) made by `native`, in float64."""

    def native(self, array: np.ndarray, like: Vector) -> Native:
        """``array`` as this kind of array, on the device of ``like``."""

    def accumulated(self, total: Native | None, vector: Vector) -> Native:
        """``total + vector`` in float64, in place where possible; ``None``: a copy of ``vector``."""

    def signs(self, vector: Vector) -> Native:
        """-1, 0 or 1 for each entry, in one byte."""

    def changes(self, counts: Native, last: Native, signs: Native) -> tuple[Native, Native]:
        """Add 1 to ``counts`` where ``signs`` is opposite to ``last``; then ``last`` takes all but the 0."""

    def ratio(self, vector: Vector, divisor: Vector) -> Native:
        """``vector / divisor``, and 0 where the divisor is exactly 0."""

    def numpy(self, array: Vector | Native) -> np.ndarray:
        """The same numbers as a NumPy array."""


class HostReductions:
    """`Reductions` in NumPy, for whatever can be seen as a NumPy array.

    >>> HostReductions().sums(np.arange(6.0), [Cut(0, 1, 2, 2), Cut(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    def __init__(self, to_numpy: Callable[[Any], np.ndarray] = np.asarray) -> None:
        self._to_numpy = to_numpy

    def size(self, vector: Vector) -> int:
        return len(self.numpy(vector))

    def sums(self, vector: Vector, cuts: Sequence[Cut]) -> np.ndarray:
        values = self.numpy(vector)
        return np.concatenate([_cut_sums(values[cut.start : cut.stop], cut) for cut in cuts])

    def sign_counts(self, vector: Vector, cuts: Sequence[Cut]) -> np.ndarray:
        values = self.numpy(vector)
        parts = [(values[cut.start : cut.stop], cut) for cut in cuts]
        below, above = ([_cut_counts(mask(part), cut) for part, cut in parts] for mask in (_below, _above))
        return np.array([np.concatenate(below), np.concatenate(above)])

    def magnitudes(self, vector: Vector, edges: np.ndarray) -> np.ndarray:
        values, counts = self.numpy(vector), np.zeros(2 * len(edges) + 2, np.int64)
        for block in _blocks(len(values)):
            part = values[block]
            part = part[part != 0]
            bins = _log_bins(np.abs(part), edges) + (len(edges) + 1) * (part > 0)
            counts += np.bincount(bins, minlength=len(counts))
        return counts.reshape(2, -1)

    def take(self, vector: Vector, positions: np.ndarray) -> np.ndarray:
        taken: np.ndarray = self.numpy(vector)[positions]
        return taken

    def extremes(self, vector: Vector | Native, k: int) -> tuple[np.ndarray, np.ndarray]:
        values = self.numpy(vector)
        k = min(k, len(values))
        order = np.argpartition(values, (k - 1, len(values) - k))
        smallest, largest = order[:k], order[len(values) - k :]
        return smallest[np.argsort(values[smallest])], largest[np.argsort(-values[largest])]

    def products(self, basis: Native, vector: Vector | Native) -> np.ndarray:
        values, total = self.numpy(vector), np.zeros(len(basis))
        for block in _blocks(len(values)):
            total += basis[:, block].astype(np.float64) @ values[block].astype(np.float64)
        return total

    def native(self, array: np.ndarray, like: Vector) -> Native:
        return array

    def accumulated(self, total: Native | None, vector: Vector) -> Native:
        values = self.numpy(vector)
        if total is None:
            return values.astype(np.float64)
        total += values
        return total

    def signs(self, vector: Vector) -> Native:
        values = self.numpy(vector)
        signs = (values > 0).view(np.int8)
        signs -= (values < 0).view(np.int8)
        return signs

    def changes(self, counts: Native, last: Native, signs: Native) -> tuple[Native, Native]:
        counts += last * signs < 0
        np.copyto(last, signs, where=signs != 0)
        return counts, last

    def ratio(self, vector: Vector, divisor: Vector) -> Native:
        values, below = self.numpy(vector), self.numpy(divisor)
        return np.divide(values, below, out=np.zeros_like(values), where=below != 0)

    def numpy(self, array: Vector | Native) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else self._to_numpy(array)


def _below(values: np.ndarray) -> np.ndarray:
    return values < 0


def _above(values: np.ndarray) -> np.ndarray:
    return values > 0


def _cut_sums(values: np.ndarray, cut: Cut) -> np.ndarray:
    if cut.width == 1:
        return np.array([values.sum(dtype=np.float64)])
    return np.asarray(values.reshape(cut.shape).sum(axis=(0, 2), dtype=np.float64))


def _cut_counts(mask: np.ndarray, cut: Cut) -> np.ndarray:
    if cut.width == 1:
        return np.array([np.count_nonzero(mask)])
    return np.asarray(np.count_nonzero(mask.reshape(cut.shape), axis=(0, 2)))


def _log_bins(sizes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """``searchsorted(edges, sizes, side="right")`` by logarithms; what lies near an edge is looked up."""
    low, bins = np.log10(edges[0]), len(edges) - 1
    width = (np.log10(edges[-1]) - low) / bins
    place = (np.log10(sizes) - sizes.dtype.type(low)) * sizes.dtype.type(1 / width)
    found: np.ndarray = np.clip(np.floor(place) + 1, 0, bins + 1).astype(np.int64)
    # Rounding moves a place by a few units in the last place of the largest number on the way to it.
    rounding = 16 * np.finfo(sizes.dtype).eps * (bins + abs(low / width))
    near = np.flatnonzero(np.abs(place - np.rint(place)) < rounding)
    found[near] = np.searchsorted(edges, sizes[near], side="right")
    return found


def _blocks(length: int) -> Iterator[slice]:
    return (slice(i, i + _BLOCK) for i in range(0, length, _BLOCK))


_HOST = HostReductions()


@singledispatch
def reductions(vector: Vector) -> Reductions:
    """The `Reductions` for this kind of vector; without any of its own it is converted to NumPy."""
    return HostReductions(vector_ops(vector).to_numpy)


@reductions.register
def _(vector: np.ndarray) -> Reductions:
    return _HOST
