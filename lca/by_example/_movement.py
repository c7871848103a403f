"""`GroupMovement`: the movement of θ in a step, cut into that of each group of parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lca.arrays import Vector, array_ops
from lca.groups import Groups


@dataclass(frozen=True, eq=False)
class GroupMovement:
    """The movement Δ (K,) of a step by group, for objectives that differentiate along it.

    Parameters
    ----------
    vector
        Δ, a vector of the framework's own type.
    groups
        A partition of its entries.
    chunk
        Groups that are differentiated at a time.

    Examples
    --------
    >>> from lca import Layout
    >>> groups = Layout(("a", "b", "c"), ((2,), (1,), (1,))).groups("tensor")
    >>> movement = GroupMovement(np.array([1.0, 2.0, 0.0, 3.0]), groups)
    >>> list(movement.chunks()), movement.part(0)
    ([[0, 2]], array([1., 2., 0., 0.]))
    """

    vector: Vector
    groups: Groups
    chunk: int = 8

    @cached_property
    def moving(self) -> list[int]:
        """The numbers of the groups that move; the slopes of the others are 0."""
        found: list[int] = np.flatnonzero(self.groups.signs(self.vector).zero < self.groups.sizes).tolist()
        return found

    def chunks(self) -> Iterator[list[int]]:
        """The groups that move, some at a time."""
        return (self.moving[i : i + self.chunk] for i in range(0, len(self.moving), self.chunk))

    def part(self, number: int) -> Vector:
        """Δ in one group, and 0 elsewhere, (K,)."""
        mask = (self.groups.index == number).astype(np.float64)
        return array_ops(self.vector).vector(mask, self.vector) * self.vector

    def along(self, gradient: Vector) -> np.ndarray:
        """``Σ_{i ∈ g} Δ_i g_i`` of a gradient (K,), float64 (groups,)."""
        return self.groups.total(gradient * self.vector)
