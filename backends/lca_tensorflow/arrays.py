"""`TensorFlowOps`: the array operations for eager tensors, with sums in float64 on the tensor's own device."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from lca.arrays import ArrayOps, Slices, WeightedVectors, array_ops

_CPU_BLOCK, _DEVICE_BLOCK = 2**16, 2**24
"""Entries a reduction works on at a time, so that no float64 copy has length K."""


class TensorFlowOps(ArrayOps):
    """`lca.arrays.ArrayOps` for eager tensors, which cannot change in place; on a CPU, reductions are NumPy's.

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

    def movement_sums(
        self, weighted: WeightedVectors, start: tf.Tensor, end: tf.Tensor
    ) -> tuple[float, float]:
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

    def to_numpy(self, array: tf.Tensor | np.ndarray) -> np.ndarray:
        if isinstance(array, np.ndarray):
            return array
        small = array.dtype in (tf.bfloat16, tf.float16)
        numbers: np.ndarray = (tf.cast(array, tf.float32) if small else array).numpy()
        return numbers

    def snapshot(self, vector: tf.Tensor) -> tf.Tensor:
        return vector

    def unchanged(self, snapshot: object, vector: tf.Tensor) -> bool:
        return snapshot is vector


class TensorFlowDeviceOps(TensorFlowOps):
    """`TensorFlowOps` with the reductions on the tensor's device.

    TensorFlow treats subnormal numbers as 0.

    >>> TensorFlowDeviceOps().sums(tf.range(6.0), [Slices(0, 1, 2, 2), Slices(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    def size(self, vector: tf.Tensor) -> int:
        return int(vector.shape[0])

    def sums(self, vector: tf.Tensor, slices: Sequence[Slices]) -> np.ndarray:
        parts = [tf.cast(_piece(vector, part), tf.float64) for part in slices]
        return self.to_numpy(tf.concat([tf.reduce_sum(part, (0, 2)) for part in parts], 0))

    def sign_counts(self, vector: tf.Tensor, slices: Sequence[Slices]) -> np.ndarray:
        parts = [_piece(vector, part) for part in slices]
        below = tf.concat([tf.math.count_nonzero(part < 0, (0, 2)) for part in parts], 0)
        above = tf.concat([tf.math.count_nonzero(part > 0, (0, 2)) for part in parts], 0)
        return self.to_numpy(tf.stack([below, above]))

    def magnitudes(self, vector: tf.Tensor, edges: np.ndarray) -> np.ndarray:
        columns, limits = len(edges) + 1, tf.constant(edges, tf.float64)
        counts = np.zeros(2 * columns + 1, np.int64)
        for start in range(0, self.size(vector), _DEVICE_BLOCK):
            part = vector[start : start + _DEVICE_BLOCK]
            bins = tf.searchsorted(limits, tf.abs(tf.cast(part, tf.float64)), side="right")
            bins = tf.where(part == 0, 2 * columns, bins + columns * tf.cast(part > 0, bins.dtype))
            counts += self.to_numpy(tf.math.bincount(bins, minlength=len(counts)))
        return counts[:-1].reshape(2, -1)

    def take(self, vector: tf.Tensor, positions: np.ndarray) -> np.ndarray:
        return self.to_numpy(tf.gather(vector, positions))

    def extremes(self, vector: tf.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.to_numpy(tf.math.top_k(-vector, k).indices), self.to_numpy(
            tf.math.top_k(vector, k).indices
        )

    def products(self, basis: tf.Tensor, vector: tf.Tensor) -> np.ndarray:
        total, size = np.zeros(len(basis)), max(1, _DEVICE_BLOCK // len(basis))
        for start in range(0, self.size(vector), size):
            directions = tf.cast(basis[:, start : start + size], tf.float64)
            total += self.to_numpy(
                tf.linalg.matvec(directions, tf.cast(vector[start : start + size], tf.float64))
            )
        return total

    def native(self, array: np.ndarray, like: tf.Tensor) -> tf.Tensor:
        with tf.device(like.device):
            return tf.constant(array)

    def accumulated(self, total: tf.Tensor | None, vector: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(vector, tf.float64)
        return wide if total is None else total + wide

    def signs(self, vector: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.sign(vector), tf.int8)

    def changes(self, counts: tf.Tensor, last: tf.Tensor, signs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        counts += tf.cast(last * signs < 0, counts.dtype)
        return counts, tf.where(signs != 0, signs, last)

    def ratio(self, vector: tf.Tensor, divisor: tf.Tensor) -> tf.Tensor:
        return tf.math.divide_no_nan(vector, divisor)


def _piece(vector: tf.Tensor, part: Slices) -> tf.Tensor:
    return tf.reshape(vector[part.start : part.stop], part.shape)


def _blocks(*vectors: tf.Tensor) -> Iterator[tuple[tf.Tensor, ...]]:
    size = _CPU_BLOCK if "CPU" in vectors[0].device else _DEVICE_BLOCK
    flat = [tf.reshape(vector, [-1]) for vector in vectors]
    for start in range(0, int(flat[0].shape[0]), size):
        yield tuple(vector[start : start + size] for vector in flat)


def _wide(vector: tf.Tensor) -> tf.Tensor:
    return tf.cast(vector, tf.float64)


def _sum(parts: Iterator[tf.Tensor]) -> float:
    return float(tf.add_n([tf.reduce_sum(part) for part in parts]))


_CPU, _DEVICE = TensorFlowOps(), TensorFlowDeviceOps()
# Registered for eager tensors, which alone hold numbers, by their type: to make one here would end the time in
# which the user may set threads and devices.
array_ops.register(tf.__internal__.EagerTensor, lambda vector: _CPU if "CPU" in vector.device else _DEVICE)
