"""`ArrayOps`: what the library needs from an array type beyond ``+ - *``, one class per type.

Estimators are written once, with arithmetic operators. Whatever differs between NumPy, torch, TensorFlow and
other frameworks is an operation here: sums in float64, counts, finiteness, detection of in-place changes. A
backend registers its class with ``array_ops.register(TensorType, lambda vector: MyOps())``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from lca.arrays import host
from lca.arrays.types import Native, Slices, Vector, WeightedVectors
from lca.errors import LayoutError


class ArrayOps(ABC):
    """Arithmetic and reductions over (K,) vectors of one array type, on the device of the vector.

    Scalars are Python floats and reduced results small NumPy arrays; sums are taken in float64. A subclass
    must define the abstract methods. The other reductions have a default that works on ``to_numpy(vector)``;
    `lca.arrays.host` holds it, and an array type with a device of its own overrides it.
    """

    @abstractmethod
    def total(self, vector: Vector) -> float:
        """``Σ_i v_i``."""

    @abstractmethod
    def abs_total(self, vector: Vector) -> float:
        """``Σ_i |v_i|``."""

    @abstractmethod
    def between(self, start: Vector, end: Vector, s: float) -> Vector:
        """``start + s (end - start)``, a new vector."""

    @abstractmethod
    def movement_sums(self, weighted: WeightedVectors, start: Vector, end: Vector) -> tuple[float, float]:
        """``Σ_i a_i`` and ``Σ_i |a_i|`` of ``a = (Σ_k w_k v_k) ∘ (end - start)``, without forming a."""

    @abstractmethod
    def times_movement(self, vector: Vector, start: Vector, end: Vector) -> Vector:
        """``v ∘ (end - start)``; may overwrite ``vector``, which belongs to the caller."""

    @abstractmethod
    def scaled(self, vector: Vector, factor: float) -> Vector:
        """``factor · vector``; may overwrite ``vector``, which belongs to the caller."""

    @abstractmethod
    def add_scaled(self, total: Vector, factor: float, vector: Vector) -> Vector:
        """``total + factor · vector``; may overwrite ``total``, which belongs to the caller."""

    @abstractmethod
    def all_finite(self, vector: Vector) -> bool:
        """Whether no entry is NaN or infinite."""

    @abstractmethod
    def eps(self, vector: Vector) -> float:
        """Machine epsilon of the vector's dtype."""

    @abstractmethod
    def to_numpy(self, array: Vector | Native) -> np.ndarray:
        """The same numbers as a NumPy array; a view where the array type allows it."""

    @abstractmethod
    def snapshot(self, vector: Vector) -> object:
        """What `unchanged` needs in order to recognise this vector later."""

    @abstractmethod
    def unchanged(self, snapshot: object, vector: Vector) -> bool:
        """Whether ``vector`` still holds exactly the numbers of the snapshot."""

    def size(self, vector: Vector) -> int:
        """K."""
        return host.size(self.to_numpy(vector))

    def sums(self, vector: Vector, slices: Sequence[Slices]) -> np.ndarray:
        """The sums of all slices, concatenated; float64."""
        return host.sums(self.to_numpy(vector), slices)

    def sign_counts(self, vector: Vector, slices: Sequence[Slices]) -> np.ndarray:
        """Numbers of negative and of positive entries in each of the same sums; integers (2, sums)."""
        return host.sign_counts(self.to_numpy(vector), slices)

    def magnitudes(self, vector: Vector, edges: np.ndarray) -> np.ndarray:
        """Histogram of |v| for negative and for positive entries; integers (2, bins + 2), zeros left out.

        Column b + 1 counts ``edges[b] ≤ |v| < edges[b + 1]``; the first and the last column count what lies
        outside. The edges must be evenly spaced in log |v|.
        """
        return host.magnitudes(self.to_numpy(vector), edges)

    def take(self, vector: Vector, positions: np.ndarray) -> np.ndarray:
        """The entries at these positions."""
        return host.take(self.to_numpy(vector), positions)

    def extremes(self, vector: Vector | Native, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the k smallest entries, in ascending order, and of the k largest, in descending order."""
        return host.extremes(self.to_numpy(vector), k)

    def products(self, basis: Native, vector: Vector | Native) -> np.ndarray:
        """``basis @ vector`` in float64, for a basis (n, K) made by `native`."""
        return host.products(self.to_numpy(basis), self.to_numpy(vector))

    def native(self, array: np.ndarray, like: Vector) -> Native:
        """``array`` where the reductions of ``like`` are taken: a NumPy array unless they run on a device."""
        return array

    def accumulated(self, total: Native | None, vector: Vector) -> Native:
        """``total + vector`` in float64, in place where possible; ``None`` stands for zero."""
        return host.accumulated(total, self.to_numpy(vector))

    def signs(self, vector: Vector) -> Native:
        """-1, 0 or 1 for each entry, int8."""
        return host.signs(self.to_numpy(vector))

    def changes(self, counts: Native, last: Native, signs: Native) -> tuple[Native, Native]:
        """Add 1 to ``counts`` where ``signs`` is opposite to ``last``; update ``last`` where signs are not 0."""
        return host.changes(counts, last, signs)

    def ratio(self, vector: Vector, divisor: Vector) -> Native:
        """``vector / divisor``, and 0 where the divisor is exactly 0."""
        return host.ratio(self.to_numpy(vector), self.to_numpy(divisor))


@singledispatch
def array_ops(vector: Vector) -> ArrayOps:
    """The `ArrayOps` of this array type; NumPy is built in, backends register their own."""
    raise LayoutError(
        f"a vector must be a NumPy array or a tensor of an imported backend, got "
        f"{type(vector).__module__}.{type(vector).__qualname__}; convert it with numpy.asarray, or "
        "import the backend for this type (it registers itself with lca.arrays.array_ops)."
    )
