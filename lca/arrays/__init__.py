"""Vectors of any array type, and the operations on them that the library needs."""

from lca.arrays._numpy_ops import NumpyOps
from lca.arrays._operations import ArrayOps, array_ops
from lca.arrays._types import Native, Slices, Vector, WeightedProducts, WeightedVectors

__all__ = [
    "ArrayOps",
    "Native",
    "NumpyOps",
    "Slices",
    "Vector",
    "WeightedProducts",
    "WeightedVectors",
    "array_ops",
]
