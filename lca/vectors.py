"""What the engine needs from a vector beyond ``+ - *``: a few reductions, one set per array type.

Estimators are written once with arithmetic operators; whatever differs between NumPy, torch and
TensorFlow (float64 sums, finiteness, detecting in-place changes) is behind `VectorOps`. A backend
registers its own with ``vector_ops.register(TensorType, lambda vector: MyOps())``.
"""

from functools import singledispatch
from typing import Any, Protocol, TypeAlias

import numpy as np

from lca.errors import LayoutError

Vector: TypeAlias = Any
"""A flat (K,) floating-point vector of the framework's own kind, on its own device."""


_BLOCK = 2**15
"""Entries a reduction works on at a time: a few of them fit the cache, and no temporary has length K."""


class VectorOps(Protocol):
    """Reductions over (K,) vectors. Scalars come back as Python floats, summed in float64."""

    def total(self, vector: Vector) -> float:
        """``Σ_i v_i``."""

    def abs_total(self, vector: Vector) -> float:
        """``Σ_i |v_i|``."""

    def abs_dot(self, vector: Vector, other: Vector) -> float:
        """``Σ_i |v_i u_i|``, without a product of full length where the framework allows it."""

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

    def abs_dot(self, vector: np.ndarray, other: np.ndarray) -> float:
        total = 0.0
        for i in range(0, len(vector), _BLOCK):
            product = vector[i : i + _BLOCK] * other[i : i + _BLOCK]
            total += self.abs_total(product)
        return total

    def add_scaled(self, total: np.ndarray, factor: float, vector: np.ndarray) -> np.ndarray:
        for i in range(0, len(total), _BLOCK):
            total[i : i + _BLOCK] += factor * vector[i : i + _BLOCK]
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
