"""`Place`: recognises the θ at which a record ended, without a copy of θ."""

from dataclasses import dataclass

from lca.arrays import Vector, array_ops
from lca.tolerances import EPS64, summed


@dataclass(frozen=True)
class Place:
    """``Σ_i |θ_i|`` in float64, which hardly any movement of θ leaves as it was.

    The plain sum is kept by softmax regression, whose gradients of all classes add up to 0.

    Examples
    --------
    >>> import numpy as np
    >>> Place.of(np.array([1.0, -3.0]))
    Place(mass=4.0)
    """

    mass: float

    @classmethod
    def of(cls, theta: Vector) -> "Place":
        """The place of this vector (K,)."""
        return cls(array_ops(theta).abs_total(theta))

    def is_at(self, other: "Place") -> bool:
        """Whether these are sums over the same numbers, perhaps in another order, as on another device.

        >>> Place(0.1 + 0.2).is_at(Place(0.3)), Place(0.3).is_at(Place(0.31))
        (True, False)
        """
        return abs(self.mass - other.mass) <= summed(self.mass + other.mass, EPS64)
