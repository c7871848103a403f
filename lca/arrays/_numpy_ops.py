"""`NumpyOps`: the `ArrayOps` of NumPy arrays."""

import numpy as np

from lca.arrays._host import blocks
from lca.arrays._operations import ArrayOps, array_ops
from lca.arrays._types import WeightedVectors


class NumpyOps(ArrayOps):
    """`ArrayOps` for NumPy arrays.

    >>> NumpyOps().movement_sums([(0.5, np.array([2.0, 4.0]))], np.zeros(2), np.array([1.0, -1.0]))
    (-1.0, 3.0)
    """

    def total(self, vector: np.ndarray) -> float:
        return float(vector.sum(dtype=np.float64))

    def abs_total(self, vector: np.ndarray) -> float:
        return float(np.abs(vector).sum(dtype=np.float64))

    def between(self, start: np.ndarray, end: np.ndarray, s: float) -> np.ndarray:
        point: np.ndarray = start + s * (end - start)
        return point

    def movement_sums(
        self, weighted: WeightedVectors, start: np.ndarray, end: np.ndarray
    ) -> tuple[float, float]:
        total = abs_total = 0.0
        (first_weight, first), *rest = weighted
        for b in blocks(len(first)):
            part = first_weight * first[b]
            for weight, vector in rest:
                part += weight * vector[b]
            part *= end[b] - start[b]
            total += self.total(part)
            abs_total += self.abs_total(part)
        return total, abs_total

    def times_movement(self, vector: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        for b in blocks(len(vector)):
            vector[b] *= end[b] - start[b]
        return vector

    def scaled(self, vector: np.ndarray, factor: float) -> np.ndarray:
        vector *= factor
        return vector

    def add_scaled(self, total: np.ndarray, factor: float, vector: np.ndarray) -> np.ndarray:
        for b in blocks(len(total)):
            total[b] += factor * vector[b]
        return total

    def all_finite(self, vector: np.ndarray) -> bool:
        return bool(np.isfinite(vector).all())

    def eps(self, vector: np.ndarray) -> float:
        return float(np.finfo(vector.dtype).eps)

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def snapshot(self, vector: np.ndarray) -> np.ndarray:
        return vector.copy()  # an array can be changed in place, so the numbers are kept

    def unchanged(self, snapshot: object, vector: np.ndarray) -> bool:
        return np.array_equal(snapshot, vector)  # type: ignore[arg-type]


_OPS = NumpyOps()
array_ops.register(np.ndarray, lambda vector: _OPS)
