"""The types of the arguments of `ArrayOps`: `Vector`, `Slices` and others."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Vector: TypeAlias = Any
"""A flat (K,) floating-point vector of the framework's own type, on its own device."""
Native: TypeAlias = Any
"""Any other array of the framework's own type, such as counts that a view keeps from step to step."""
WeightedVectors: TypeAlias = list[tuple[float, Vector]]
"""The terms of a weighted sum of vectors, ``[(w_0, v_0), (w_1, v_1), ...]``; at least one."""

WeightedProducts: TypeAlias = list[tuple[float, Vector, Vector | None]]
"""The terms of a sum of products, ``[(w_0, v_0, f_0), (w_1, v_1, f_1), ...]``; at least one. A factor
``None`` is the movement of the step."""


class Slices(NamedTuple):
    """``width`` sums over a slice of θ: the entries from ``start`` on, reshaped to (outer, width, inner).

    Sum j is taken over the first and the last axis.

    >>> Slices(start=4, outer=2, width=3, inner=1).stop
    10
    """

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


MOST = 2**17
"""Entries that are summed in one call, of which NumPy makes a copy in float64."""


class Run(NamedTuple):
    """Neighbouring pieces of slices whose sums are taken in one call.

    Attributes
    ----------
    start, stop
        Where they are in θ.
    offsets
        Where each of them begins, if each is a single sum; ``None`` for one slice that is divided.
    shape
        (outer, width, inner) of the first.
    """

    start: int
    stop: int
    offsets: np.ndarray | None
    shape: tuple[int, int, int]


class Division(tuple[Slices, ...]):
    """Slices, and in which runs their sums are taken, which is found out once.

    >>> [(run.start, run.stop) for run in Division([Slices(0, 1, 1, 2), Slices(2, 1, 1, 1)]).runs]
    [(0, 3)]
    """

    @classmethod
    def of(cls, slices: Sequence[Slices]) -> "Division":
        """The slices themselves, if they are a division."""
        return slices if isinstance(slices, cls) else cls(slices)

    @cached_property
    def runs(self) -> list[Run]:
        """The pieces of all slices in order; neighbours that are not divided are together."""
        runs: list[list[Slices]] = []
        for piece in chain.from_iterable(map(_pieces, self)):
            last = runs[-1] if runs else [piece]
            joins = last[-1].width == piece.width == 1 and last[-1].stop == piece.start
            if joins and piece.stop - last[0].start <= MOST:
                last.append(piece)
            else:
                runs.append([piece])
        return [_run(pieces) for pieces in runs]

    @cached_property
    def firsts(self) -> np.ndarray | None:
        """Which of the sums of pieces are the first of each sum; ``None`` if no slice is in pieces."""
        counts = [1 if part.width > 1 else len(_pieces(part)) for part in self for _ in range(part.width)]
        return None if max(counts) == 1 else np.cumsum([0, *counts[:-1]])


def _pieces(part: Slices) -> list[Slices]:
    """A slice that is not divided, in pieces of `MOST` entries."""
    if part.width > 1:
        return [part]
    starts = range(part.start, part.stop, MOST)
    return [Slices(start, 1, 1, min(MOST, part.stop - start)) for start in starts]


def _run(pieces: Sequence[Slices]) -> Run:
    start, single = pieces[0].start, pieces[0].width == 1
    offsets = np.array([piece.start - start for piece in pieces]) if single else None
    return Run(start, pieces[-1].stop, offsets, pieces[0].shape)
