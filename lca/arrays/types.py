"""The types that operations on vectors take: `Vector`, `Slices` and their like."""

from typing import Any, NamedTuple, TypeAlias

Vector: TypeAlias = Any
"""A flat (K,) floating-point vector of the framework's own type, on its own device."""
Native: TypeAlias = Any
"""Any other array of the framework's own type: what a reduction keeps from one step to the next."""
WeightedVectors: TypeAlias = list[tuple[float, Vector]]
"""A weighted sum of vectors, ``[(w_0, v_0), (w_1, v_1), ...]``; not empty."""


class Slices(NamedTuple):
    """``width`` sums over the part of θ that begins at ``start``, viewed as (outer, width, inner)."""

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
