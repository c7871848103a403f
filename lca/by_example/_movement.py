"""`GroupMovement`: the movement of θ in a step, split over groups of parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lca.arrays import Vector, array_ops
from lca.groups import Groups


@dataclass(frozen=True, eq=False)
class GroupMovement:
    """The movement Δ (K,) of a step by group, for objectives that compute derivatives along it.

    Parameters
    ----------
    vector
        Δ, a vector of the type that the framework uses.
    groups
        A partition of its entries.
    chunk
        The number of groups that are differentiated in one pass.

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
        """The indices of the groups in which any parameter changed; the slopes of all others are 0."""
        found: list[int] = np.flatnonzero(self.groups.signs(self.vector).zero < self.groups.sizes).tolist()
        return found

    def chunks(self) -> Iterator[list[int]]:
        """The indices in `moving`, at most ``chunk`` at a time."""
        return (self.moving[i : i + self.chunk] for i in range(0, len(self.moving), self.chunk))

    def part(self, number: int) -> Vector:
        """Δ in the group with this index, and 0 elsewhere, (K,)."""
        mask = (self.groups.index == number).astype(np.float64)
        return array_ops(self.vector).vector(mask, self.vector) * self.vector

    def along(self, gradient: Vector) -> np.ndarray:
        """The derivative along the movement of each group, from a gradient (K,); float64 (groups,)."""
        return self.groups.total(gradient * self.vector)
