"""`Place`: by what θ is recognised where a record goes on, without a copy of it."""

from typing import NamedTuple

from lca.arrays import Vector, array_ops
from lca.tolerances import EPS64, summed


class Place(NamedTuple):
    """Two sums over θ in float64: ``Σ_i θ_i`` and ``Σ_i |θ_i|``.

    >>> import numpy as np
    >>> Place.of(np.array([1.0, -3.0]))
    Place(total=-2.0, mass=4.0)
    """

    total: float
    mass: float

    @classmethod
    def of(cls, theta: Vector) -> "Place":
        """The sums over this vector (K,)."""
        ops = array_ops(theta)
        return cls(ops.total(theta), ops.abs_total(theta))

    def is_at(self, other: "Place") -> bool:
        """Whether these are sums over the same numbers, perhaps in another order, as on another device.

        >>> Place(0.1 + 0.2, 0.3).is_at(Place(0.3, 0.3)), Place(0.3, 0.3).is_at(Place(0.3, 0.31))
        (True, False)
        """
        rounding = summed(self.mass + other.mass, EPS64)
        return abs(self.total - other.total) <= rounding and abs(self.mass - other.mass) <= rounding
