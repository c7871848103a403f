"""The types of the arguments of `ArrayOps`: `Vector`, `Slices` and others."""

from typing import Any, NamedTuple, TypeAlias

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
