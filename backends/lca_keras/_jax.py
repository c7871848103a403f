"""`lca_keras._engine.Engine` of JAX, compiled by `jax.jit`; and the operations of its arrays.

Reductions over vectors run in NumPy: on a CPU without a copy, elsewhere with one copy to the host each.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import Array

from lca.arrays import ArrayOps, array_ops
from lca.errors import LCAError
from lca.frameworks import TensorOps, tensor_ops
from lca_keras._engine import LossOf, Tensors

KIND = Array
PASSED_ON: tuple[type[Exception], ...] = ()


class JaxOps(ArrayOps):
    """`lca.arrays.ArrayOps` for JAX arrays, which cannot change in place."""

    def vector(self, array: np.ndarray, like: Array) -> Array:
        return jnp.asarray(np.asarray(array, like.dtype), device=like.device)  # NumPy keeps subnormals

    def to_numpy(self, array: Array | np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def snapshot(self, vector: Array) -> object:
        return vector

    def unchanged(self, snapshot: object, vector: Array) -> bool:
        return snapshot is vector


class JaxTensorOps(TensorOps):
    """`lca.frameworks.TensorOps` for JAX arrays, which index like NumPy arrays.

    On a CPU, NumPy takes the rows: JAX compiles that for each number of rows, several times.
    """

    def take(self, tensor: Array, index: np.ndarray) -> Array:
        return _indexed(tensor, index)

    def rows(self, tensor: Array, part: slice) -> Array:
        return _indexed(tensor, part)

    def concatenate(self, tensors: Sequence[Array]) -> Array:
        return jnp.concatenate(tensors)


def _indexed(tensor: Array, index: slice | np.ndarray) -> Array:
    if isinstance(tensor, jax.core.Tracer) or [device.platform for device in tensor.devices()] != ["cpu"]:
        return tensor[index]
    device = tensor.device if tensor.committed else None
    taken: Array = jax.device_put(np.asarray(tensor)[index], device)
    return taken


_OPS, _TENSOR_OPS = JaxOps(), JaxTensorOps()
for _kind in (Array, jax.core.Tracer):  # a tracer stands for an array while JAX compiles a function
    array_ops.register(_kind, lambda vector: _OPS)
    tensor_ops.register(_kind, lambda leaf: _TENSOR_OPS)


def attach(model: keras.Model) -> None:
    """In an epoch of ``fit``, Keras on JAX keeps the values of variables beside the model."""
    model.jax_state_sync()


def read(variable: keras.Variable) -> Array:
    value: Array = variable.value
    return value


def copy(tensor: Array) -> Array:
    return jnp.array(tensor, copy=True)  # training lets XLA reuse the memory of its own


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def compiles_training(model: keras.Model) -> bool:
    return bool(model.jit_compile) and not model.run_eagerly


def traced(function: Callable[[], Array]) -> None:
    jax.eval_shape(function)


def fingerprint(function: Callable[..., Any], *inputs: Any) -> str:
    text = function.lower(*inputs).as_text()  # type: ignore[attr-defined]
    return hashlib.sha256(text.encode()).hexdigest()


def value(function: Callable[[], Array], *, gradients: bool) -> Array:
    return function()


def differentiate(loss: LossOf, tensors: Tensors) -> tuple[Array, dict[int, Array | None]]:
    found, grads = jax.value_and_grad(loss)(dict(tensors))
    return found, grads


def unreached(loss: LossOf, tensors: Tensors, live: Tensors) -> set[Hashable]:
    keys, values = list(tensors), list(tensors.values())

    def derivative(at: list[Array], along: list[Array]) -> Array:
        slope: Array = jax.jvp(lambda given: loss(dict(zip(keys, given, strict=True))), (at,), (along,))[1]
        return slope

    traced = jax.make_jaxpr(derivative)(values, values)
    if any(constant is tensor for constant in traced.consts for tensor in live.values()):
        raise LCAError(
            "the loss reads the array behind a weight of the model, so it cannot be evaluated at other "
            "weights; use the Keras variable itself, as in self.kernel."
        )
    used = {id(variable) for variable in traced.jaxpr.outvars}
    for equation in reversed(traced.jaxpr.eqns):
        if any(id(variable) in used for variable in equation.outvars):
            used |= {id(variable) for variable in equation.invars}
    along = traced.jaxpr.invars[len(keys) :]
    return {key for key, variable in zip(keys, along, strict=True) if id(variable) not in used}


def enable_float64() -> None:
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]


@contextmanager
def private_generators() -> Iterator[Callable[[], bool]]:
    """JAX has no global generator."""
    yield lambda: False
