"""`NumpyOps`: the `ArrayOps` of NumPy arrays."""

import numpy as np

from lca.arrays._host import blocks
from lca.arrays._operations import ArrayOps, array_ops
from lca.arrays._types import WeightedProducts


class NumpyOps(ArrayOps):
    """`ArrayOps` for NumPy arrays, with arithmetic in place.

    >>> NumpyOps().movement_sums([(0.5, np.array([2.0, 4.0]))], np.zeros(2), np.array([1.0, -1.0]))
    (-1.0, 3.0)
    """

    def times_movement(self, vector: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        for b in blocks(len(vector)):
            vector[b] *= end[b] - start[b]
        return vector

    def products_sum(
        self, weighted: WeightedProducts, start: np.ndarray, end: np.ndarray, *, overwrite: bool = False
    ) -> tuple[np.ndarray, float]:
        total, mass = np.empty_like(start), 0.0
        for b in blocks(len(total)):
            movement = end[b] - start[b]
            for k, (weight, vector, factor) in enumerate(weighted):
                product = vector[b] * (movement if factor is None else factor[b])
                if weight != 1:
                    product *= weight
                if k:
                    total[b] += product
                else:
                    total[b] = product
                mass += float(np.abs(product, out=product).sum(dtype=np.float64))
        return total, mass

    def scaled(self, vector: np.ndarray, factor: float) -> np.ndarray:
        vector *= factor
        return vector

    def add_scaled(self, total: np.ndarray, factor: float, vector: np.ndarray) -> np.ndarray:
        for b in blocks(len(total)):
            total[b] += factor * vector[b]
        return total

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def vector(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.asarray(array, like.dtype)

    def snapshot(self, vector: np.ndarray) -> np.ndarray:
        return vector.copy()  # an array can be changed in place, so the numbers are kept

    def unchanged(self, snapshot: object, vector: np.ndarray) -> bool:
        return np.array_equal(snapshot, vector)  # type: ignore[arg-type]


_OPS = NumpyOps()
array_ops.register(np.ndarray, lambda vector: _OPS)
