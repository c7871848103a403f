"""What the engine needs from a vector beyond ``+ - *``: a few reductions, one set per array type.

Estimators are written once with arithmetic operators; whatever differs between NumPy, torch and
TensorFlow (float64 sums, finiteness, detecting in-place changes) is behind `VectorOps`. A backend
registers its own with ``vector_ops.register(TensorType, lambda vector: MyOps())``.
"""

from collections.abc import Iterator
from functools import singledispatch
from typing import Any, Protocol, TypeAlias

import numpy as np

from lca.errors import LayoutError

Vector: TypeAlias = Any
"""A flat (K,) floating-point vector of the framework's own kind, on its own device."""


Weighted: TypeAlias = list[tuple[float, Vector]]
"""A weighted sum of vectors, ``[(w_0, v_0), (w_1, v_1), ...]``; not empty."""


_BLOCK = 2**15
"""Entries a reduction works on at a time: a few of them fit the cache, and no temporary has length K."""


class VectorOps(Protocol):
    """Reductions over (K,) vectors. Scalars come back as Python floats, summed in float64."""

    def total(self, vector: Vector) -> float:
        """``Σ_i v_i``."""

    def abs_total(self, vector: Vector) -> float:
        """``Σ_i |v_i|``."""

    def between(self, start: Vector, end: Vector, s: float) -> Vector:
        """``start + s (end - start)``, a new vector."""

    def movement_sums(self, weighted: Weighted, start: Vector, end: Vector) -> tuple[float, float]:
        """``Σ_i a_i`` and ``Σ_i |a_i|`` of ``a = (Σ_k w_k v_k) ∘ (end - start)``, without making a vector."""

    def times_movement(self, vector: Vector, start: Vector, end: Vector) -> Vector:
        """``v ∘ (end - start)``; may overwrite ``vector``, which belongs to the caller."""

    def scaled(self, vector: Vector, factor: float) -> Vector:
        """``factor · vector``; may overwrite ``vector``, which belongs to the caller."""

    def add_scaled(self, total: Vector, factor: float, vector: Vector) -> Vector:
        """``total + factor · vector``; may overwrite ``total``, which belongs to the caller."""

    def all_finite(self, vector: Vector) -> bool:
        """Whether no entry is NaN or infinite."""

    def eps(self, vector: Vector) -> float:
        """Machine epsilon of the vector's dtype."""

    def to_numpy(self, vector: Vector) -> np.ndarray:
        """The same numbers as a NumPy array (for reports and messages, never in the hot loop)."""

    def snapshot(self, vector: Vector) -> object:
        """Whatever `unchanged` needs in order to recognise this vector later."""

    def unchanged(self, snapshot: object, vector: Vector) -> bool:
        """Whether ``vector`` holds exactly the numbers it was snapshot with."""


class NumpyOps:
    """`VectorOps` for NumPy arrays."""

    def total(self, vector: np.ndarray) -> float:
        return float(vector.sum(dtype=np.float64))

    def abs_total(self, vector: np.ndarray) -> float:
        return float(np.abs(vector).sum(dtype=np.float64))

    def between(self, start: np.ndarray, end: np.ndarray, s: float) -> np.ndarray:
        point: np.ndarray = start + s * (end - start)
        return point

    def movement_sums(self, weighted: Weighted, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
        total = abs_total = 0.0
        (first_weight, first), *rest = weighted
        for b in _blocks(first):
            part = first_weight * first[b]
            for weight, vector in rest:
                part += weight * vector[b]
            part *= end[b] - start[b]
            total += self.total(part)
            abs_total += self.abs_total(part)
        return total, abs_total

    def times_movement(self, vector: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        for b in _blocks(vector):
            vector[b] *= end[b] - start[b]
        return vector

    def scaled(self, vector: np.ndarray, factor: float) -> np.ndarray:
        vector *= factor
        return vector

    def add_scaled(self, total: np.ndarray, factor: float, vector: np.ndarray) -> np.ndarray:
        for b in _blocks(total):
            total[b] += factor * vector[b]
        return total

    def all_finite(self, vector: np.ndarray) -> bool:
        return bool(np.isfinite(vector).all())

    def eps(self, vector: np.ndarray) -> float:
        return float(np.finfo(vector.dtype).eps)

    def to_numpy(self, vector: np.ndarray) -> np.ndarray:
        return vector

    def snapshot(self, vector: np.ndarray) -> np.ndarray:
        return vector.copy()  # an array can be changed in place behind our back: keep the numbers

    def unchanged(self, snapshot: object, vector: np.ndarray) -> bool:
        return np.array_equal(snapshot, vector)  # type: ignore[arg-type]


def _blocks(vector: np.ndarray) -> Iterator[slice]:
    return (slice(i, i + _BLOCK) for i in range(0, len(vector), _BLOCK))


@singledispatch
def vector_ops(vector: Vector) -> VectorOps:
    """The `VectorOps` for this kind of vector; NumPy is built in, backends register theirs."""
    raise LayoutError(
        f"a vector must be a NumPy array or a tensor of an imported backend, got "
        f"{type(vector).__module__}.{type(vector).__qualname__}; convert it with numpy.asarray, or "
        "import the backend that handles it (it registers itself with lca.vectors.vector_ops)."
    )


@vector_ops.register
def _(vector: np.ndarray) -> VectorOps:
    return NumpyOps()
