"""θ as a `tf.Tensor`: the reductions that the engine needs, summed in float64 on the tensor's own device."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from lca.vectors import Weighted, vector_ops

_CPU_BLOCK, _DEVICE_BLOCK = 2**16, 2**24
"""Entries a reduction works on at a time, so that no float64 copy has length K."""


class TensorFlowOps:
    """`lca.vectors.VectorOps` for eager tensors, which nothing can change in place.

    Each scalar that comes back waits for the device once.

    >>> TensorFlowOps().abs_total(tf.constant([1.0, -2.0]))
    3.0
    """

    def total(self, vector: tf.Tensor) -> float:
        return _sum(_wide(part) for (part,) in _blocks(vector))

    def abs_total(self, vector: tf.Tensor) -> float:
        return _sum(tf.abs(_wide(part)) for (part,) in _blocks(vector))

    def between(self, start: tf.Tensor, end: tf.Tensor, s: float) -> tf.Tensor:
        return start + s * (end - start)

    def movement_sums(self, weighted: Weighted, start: tf.Tensor, end: tf.Tensor) -> tuple[float, float]:
        weights, vectors = zip(*weighted, strict=True)
        total = abs_total = tf.zeros([], tf.float64)
        for a, b, *parts in _blocks(start, end, *vectors):
            part = _wide(sum(w * part for w, part in zip(weights, parts, strict=True)) * (b - a))
            total, abs_total = total + tf.reduce_sum(part), abs_total + tf.reduce_sum(tf.abs(part))
        return float(total), float(abs_total)

    def times_movement(self, vector: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        return vector * (end - start)

    def scaled(self, vector: tf.Tensor, factor: float) -> tf.Tensor:
        return factor * vector

    def add_scaled(self, total: tf.Tensor, factor: float, vector: tf.Tensor) -> tf.Tensor:
        return total + factor * vector

    def all_finite(self, vector: tf.Tensor) -> bool:
        return bool(tf.reduce_all(tf.math.is_finite(vector)))

    def eps(self, vector: tf.Tensor) -> float:
        return float(np.finfo(vector.dtype.as_numpy_dtype).eps)

    def to_numpy(self, vector: tf.Tensor) -> np.ndarray:
        numbers: np.ndarray = vector.numpy()
        return numbers

    def snapshot(self, vector: tf.Tensor) -> tf.Tensor:
        return vector

    def unchanged(self, snapshot: object, vector: tf.Tensor) -> bool:
        return snapshot is vector


def _blocks(*vectors: tf.Tensor) -> Iterator[tuple[tf.Tensor, ...]]:
    size = _CPU_BLOCK if "CPU" in vectors[0].device else _DEVICE_BLOCK
    flat = [tf.reshape(vector, [-1]) for vector in vectors]
    for start in range(0, int(flat[0].shape[0]), size):
        yield tuple(vector[start : start + size] for vector in flat)


def _wide(vector: tf.Tensor) -> tf.Tensor:
    return tf.cast(vector, tf.float64)


def _sum(parts: Iterator[tf.Tensor]) -> float:
    return float(tf.add_n([tf.reduce_sum(part) for part in parts]))


_OPS = TensorFlowOps()
# Only eager tensors hold numbers. To make one here, for its type, would end the time in which the user may
# set threads and devices.
vector_ops.register(tf.__internal__.EagerTensor, lambda vector: _OPS)
