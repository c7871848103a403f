"""What views need from `tf.Tensor`: on a CPU through NumPy; elsewhere on the device."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lca.reductions import Cut, HostReductions, reductions

_BLOCK = 2**24
"""Entries worked on at a time where copies in float64 are needed, so that none has length K."""


class TensorFlowReductions:
    """`lca.reductions.Reductions` for eager tensors on a device. Each result waits for it once.

    Here as everywhere, TensorFlow takes subnormal numbers for 0.

    >>> TensorFlowReductions().sums(tf.range(6.0), [Cut(0, 1, 2, 2), Cut(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    def size(self, vector: tf.Tensor) -> int:
        return int(vector.shape[0])

    def sums(self, vector: tf.Tensor, cuts: Sequence[Cut]) -> np.ndarray:
        parts = [tf.cast(_piece(vector, cut), tf.float64) for cut in cuts]
        return self.numpy(tf.concat([tf.reduce_sum(part, (0, 2)) for part in parts], 0))

    def sign_counts(self, vector: tf.Tensor, cuts: Sequence[Cut]) -> np.ndarray:
        parts = [_piece(vector, cut) for cut in cuts]
        below = tf.concat([tf.math.count_nonzero(part < 0, (0, 2)) for part in parts], 0)
        above = tf.concat([tf.math.count_nonzero(part > 0, (0, 2)) for part in parts], 0)
        return self.numpy(tf.stack([below, above]))

    def magnitudes(self, vector: tf.Tensor, edges: np.ndarray) -> np.ndarray:
        columns, limits = len(edges) + 1, tf.constant(edges, tf.float64)
        counts = np.zeros(2 * columns + 1, np.int64)
        for start in range(0, self.size(vector), _BLOCK):
            part = vector[start : start + _BLOCK]
            bins = tf.searchsorted(limits, tf.abs(tf.cast(part, tf.float64)), side="right")
            bins = tf.where(part == 0, 2 * columns, bins + columns * tf.cast(part > 0, bins.dtype))
            counts += self.numpy(tf.math.bincount(bins, minlength=len(counts)))
        return counts[:-1].reshape(2, -1)

    def take(self, vector: tf.Tensor, positions: np.ndarray) -> np.ndarray:
        return self.numpy(tf.gather(vector, positions))

    def extremes(self, vector: tf.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.numpy(tf.math.top_k(-vector, k).indices), self.numpy(tf.math.top_k(vector, k).indices)

    def products(self, basis: tf.Tensor, vector: tf.Tensor) -> np.ndarray:
        total, size = np.zeros(len(basis)), max(1, _BLOCK // len(basis))
        for start in range(0, self.size(vector), size):
            directions = tf.cast(basis[:, start : start + size], tf.float64)
            total += self.numpy(
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

    def numpy(self, array: tf.Tensor) -> np.ndarray:
        return _to_numpy(array)


def _piece(vector: tf.Tensor, cut: Cut) -> tf.Tensor:
    return tf.reshape(vector[cut.start : cut.stop], cut.shape)


def _to_numpy(array: tf.Tensor) -> np.ndarray:
    small = array.dtype in (tf.bfloat16, tf.float16)
    numbers: np.ndarray = (tf.cast(array, tf.float32) if small else array).numpy()
    return numbers


_HOST, _DEVICE = HostReductions(_to_numpy), TensorFlowReductions()
reductions.register(tf.__internal__.EagerTensor, lambda vector: _HOST if "CPU" in vector.device else _DEVICE)
