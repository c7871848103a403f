"""`JaxOps` and `JaxTensorOps`: what the library needs from JAX arrays beyond ``+ - *``."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lca.arrays import ArrayOps, array_ops
from lca.frameworks import TensorOps, tensor_ops


class JaxOps(ArrayOps):
    """`lca.arrays.ArrayOps` for JAX arrays: everything but three methods is inherited.

    Reductions run in NumPy, on a CPU without a copy, and sum in float64 whether or not ``jax_enable_x64`` is
    set. A backend for accelerators overrides them, so that vectors stay on the device.

    >>> JaxOps().abs_total(jnp.array([1.0, -2.0]))
    3.0
    """

    def vector(self, array: np.ndarray, like: Array) -> Array:
        return jnp.asarray(np.asarray(array, like.dtype), device=like.device)  # NumPy keeps subnormals

    def to_numpy(self, array: Array | np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def snapshot(self, vector: Array) -> object:
        return vector  # arrays are immutable, so the vector itself is its snapshot

    def unchanged(self, snapshot: object, vector: Array) -> bool:
        return snapshot is vector


class JaxTensorOps(TensorOps):
    """`lca.frameworks.TensorOps` for JAX arrays, which index like NumPy arrays."""

    def concatenate(self, tensors: Sequence[Array]) -> Array:
        return jnp.concatenate(tensors)


_OPS, _TENSOR_OPS = JaxOps(), JaxTensorOps()
for _kind in (Array, jax.core.Tracer):  # a tracer stands for an array while JAX compiles a function
    array_ops.register(_kind, lambda vector: _OPS)
    tensor_ops.register(_kind, lambda leaf: _TENSOR_OPS)
