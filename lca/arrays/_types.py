"""The types of the arguments of `ArrayOps`: `Vector`, `Slices` and others."""

from collections.abc import Sequence
from functools import cached_property
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


class Run(NamedTuple):
    """Neighbouring slices whose sums are taken in one call.

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
        """The slices in order; those that are not divided are together."""
        together: list[list[Slices]] = []
        for part in self:
            last = together[-1][-1] if together else None
            if last is not None and last.width == part.width == 1 and last.stop == part.start:
                together[-1].append(part)
            else:
                together.append([part])
        return [_run(parts) for parts in together]


def _run(parts: Sequence[Slices]) -> Run:
    start, single = parts[0].start, parts[0].width == 1
    offsets = np.array([part.start - start for part in parts]) if single else None
    return Run(start, parts[-1].stop, offsets, parts[0].shape)
