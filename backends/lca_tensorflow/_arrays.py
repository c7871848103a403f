"""`TensorFlowOps` and `TensorFlowDeviceOps`: the array operations for eager tensors, with sums in float64."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from scipy.linalg.blas import dasum, sasum

from lca.arrays import ArrayOps, NumpyOps, Slices, WeightedProducts, WeightedVectors, array_ops
from lca.arrays import _host as host
from lca.arrays._host import blocks
from lca.arrays._types import Division

_ABSOLUTE_SUM = {np.dtype(np.float32): sasum, np.dtype(np.float64): dasum}
_HALF = {tf.bfloat16.as_datatype_enum, tf.float16.as_datatype_enum}
"""Compared as numbers: to compare two `tf.DType` takes a microsecond."""
_NUMPYS = {tf.float32.as_datatype_enum, tf.float64.as_datatype_enum}
_BLOCK = 2**16
"""Entries of which products are formed at a time; the few blocks that this takes fit the cache of a core."""
_ALIGNMENT = 64
"""Bytes; TensorFlow ends the program where a tensor is not aligned."""
_DEVICE_BLOCK = 2**24
"""Entries a reduction on a device processes at a time, so that no float64 copy has length K."""


class TensorFlowOps(ArrayOps):
    """`lca.arrays.ArrayOps` for eager tensors in the memory of the CPU: arithmetic and sums are NumPy's.

    NumPy reads the memory of the tensor without a copy, writes its results where a tensor takes them over,
    and keeps subnormal numbers, which TensorFlow's own arithmetic treats as 0. It goes through a vector once,
    in blocks that fit the cache; an eager operation makes a new vector each. Eager tensors cannot change in
    place, so a snapshot is the tensor itself. Half precision is left to TensorFlow.

    >>> TensorFlowOps().abs_total(tf.constant([1.0, -2.0]))
    3.0
    """

    one_pass = True

    def total(self, vector: tf.Tensor) -> float:
        return _HOST.total(self.to_numpy(vector))

    def abs_total(self, vector: tf.Tensor) -> float:
        return _HOST.abs_total(self.to_numpy(vector))

    def between(self, start: tf.Tensor, end: tf.Tensor, s: float) -> tf.Tensor:
        if not _is_numpys(start):
            return start + s * (end - start)
        a, b = self.to_numpy(start), self.to_numpy(end)
        out = _aligned(a)
        for at in blocks(len(out)):
            part = np.subtract(b[at], a[at], out=out[at])
            part *= s
            part += a[at]
        return _tensor(out)

    def movement_sums(
        self, weighted: WeightedVectors, start: tf.Tensor, end: tf.Tensor
    ) -> tuple[float, float]:
        numbers = [(weight, self.to_numpy(vector)) for weight, vector in weighted]
        return _HOST.movement_sums(numbers, self.to_numpy(start), self.to_numpy(end))

    def times_movement(self, vector: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        if not _is_numpys(vector):
            return vector * (end - start)
        v, a, b = map(self.to_numpy, (vector, start, end))
        out = _aligned(v)
        for at in blocks(len(out)):
            part = np.subtract(b[at], a[at], out=out[at])
            part *= v[at]
        return _tensor(out)

    def products_sum(
        self, weighted: WeightedProducts, start: tf.Tensor, end: tf.Tensor, *, overwrite: bool = False
    ) -> tuple[tf.Tensor, float]:
        if not _is_numpys(start):
            return super().products_sum(weighted, start, end)
        products = _Products(weighted, start, end)
        products.form(0, len(products.out))
        return _tensor(products.out), products.mass

    def products_and_sums(
        self, weighted: WeightedProducts, start: tf.Tensor, end: tf.Tensor, slices: Sequence[Slices]
    ) -> tuple[tf.Tensor, float, np.ndarray]:
        division = Division.of(slices)
        runs, sums = division.runs, []
        if not _is_numpys(start) or [run.start for run in runs] != [0, *(run.stop for run in runs[:-1])]:
            return super().products_and_sums(weighted, start, end, slices)
        products = _Products(weighted, start, end)
        for run in runs:
            products.form(run.start, run.stop)
            sums.append(host.run_sums(products.out[run.start : run.stop], run))
        products.form(runs[-1].stop, len(products.out))
        values, found = _tensor(products.out), host.joined(division, sums)
        values._lca_sums = division, found  # no entry of an eager tensor can change, nor a division
        return values, products.mass, found

    def sums(self, vector: tf.Tensor, slices: Sequence[Slices]) -> np.ndarray:
        known: tuple[Division, np.ndarray] | None = getattr(vector, "_lca_sums", None)
        return known[1].copy() if known and known[0] is slices else super().sums(vector, slices)

    def sums_and_signs(self, vector: tf.Tensor, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
        return self.sums(vector, slices), host.sign_counts(self.to_numpy(vector), slices)

    def scaled(self, vector: tf.Tensor, factor: float) -> tf.Tensor:
        if not _is_numpys(vector):
            return factor * vector
        v = self.to_numpy(vector)
        return _tensor(np.multiply(v, factor, out=_aligned(v)))

    def add_scaled(self, total: tf.Tensor, factor: float, vector: tf.Tensor) -> tf.Tensor:
        if not _is_numpys(total):
            return total + factor * vector
        t, v = self.to_numpy(total), self.to_numpy(vector)
        out = _aligned(t)
        for at in blocks(len(out)):
            part = np.multiply(v[at], factor, out=out[at])
            part += t[at]
        return _tensor(out)

    def all_finite(self, vector: tf.Tensor) -> bool:
        return _HOST.all_finite(self.to_numpy(vector))

    def eps(self, vector: tf.Tensor) -> float:
        return float(np.finfo(vector.dtype.as_numpy_dtype).eps)

    def vector(self, array: np.ndarray, like: tf.Tensor) -> tf.Tensor:
        with tf.device(like.device):
            return tf.constant(array, like.dtype)

    def to_numpy(self, array: tf.Tensor | np.ndarray) -> np.ndarray:
        if isinstance(array, np.ndarray):
            return array
        if array.dtype.as_datatype_enum in _HALF:
            array = tf.cast(array, tf.float32)
        # `array.numpy()` copies even in the memory of the CPU.
        return np.asarray(memoryview(array) if "CPU" in array.device else array.numpy())

    def snapshot(self, vector: tf.Tensor) -> tf.Tensor:
        return vector

    def unchanged(self, snapshot: object, vector: tf.Tensor) -> bool:
        return snapshot is vector


class TensorFlowDeviceOps(TensorFlowOps):
    """`TensorFlowOps` with the reductions on the tensor's own device; each result is copied to the host once.

    Signs, counts, histograms and extremes are exact: they compare the bits of the numbers. Sums, products and
    ratios are TensorFlow's, which treats subnormal operands and results as 0, so each entry may be off by
    the smallest normal number of its dtype (1.2e-38 in float32).

    >>> TensorFlowDeviceOps().sums(tf.range(6.0), [Slices(0, 1, 2, 2), Slices(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    one_pass = False

    def total(self, vector: tf.Tensor) -> float:
        return _sum(_wide(part) for (part,) in _blocks(vector))

    def abs_total(self, vector: tf.Tensor) -> float:
        return _sum(tf.abs(_wide(part)) for (part,) in _blocks(vector))

    def movement_sums(
        self, weighted: WeightedVectors, start: tf.Tensor, end: tf.Tensor
    ) -> tuple[float, float]:
        weights, vectors = zip(*weighted, strict=True)
        total = abs_total = tf.zeros([], tf.float64)
        for a, b, *parts in _blocks(start, end, *vectors):
            part = _wide(sum(w * part for w, part in zip(weights, parts, strict=True)) * (b - a))
            total, abs_total = total + tf.reduce_sum(part), abs_total + tf.reduce_sum(tf.abs(part))
        return float(total), float(abs_total)

    def between(self, start: tf.Tensor, end: tf.Tensor, s: float) -> tf.Tensor:
        return start + s * (end - start)

    def times_movement(self, vector: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        return vector * (end - start)

    def products_sum(
        self, weighted: WeightedProducts, start: tf.Tensor, end: tf.Tensor, *, overwrite: bool = False
    ) -> tuple[tf.Tensor, float]:
        return ArrayOps.products_sum(self, weighted, start, end)

    def products_and_sums(
        self, weighted: WeightedProducts, start: tf.Tensor, end: tf.Tensor, slices: Sequence[Slices]
    ) -> tuple[tf.Tensor, float, np.ndarray]:
        return ArrayOps.products_and_sums(self, weighted, start, end, slices)

    def scaled(self, vector: tf.Tensor, factor: float) -> tf.Tensor:
        return factor * vector

    def add_scaled(self, total: tf.Tensor, factor: float, vector: tf.Tensor) -> tf.Tensor:
        return total + factor * vector

    def all_finite(self, vector: tf.Tensor) -> bool:
        return bool(tf.reduce_all(tf.math.is_finite(vector)))

    def equal(self, a: tf.Tensor, b: tf.Tensor) -> bool:
        if type(a) is not type(b) or (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        same = a == b
        if a.dtype.is_floating:
            same |= tf.math.is_nan(a) & tf.math.is_nan(b)
        return bool(tf.reduce_all(same))

    def moved(self, start: tf.Tensor, end: tf.Tensor, parts: Sequence[slice]) -> list[bool]:
        # Bits are compared, as TensorFlow takes a subnormal number for 0; -0.0 and 0.0 then differ.
        flags = [tf.reduce_any(_bits(start[part]) != _bits(end[part])) for part in parts]
        found: list[bool] = self.to_numpy(tf.stack(flags)).tolist() if flags else []
        return found

    def size(self, vector: tf.Tensor) -> int:
        return int(vector.shape[0])

    def sums(self, vector: tf.Tensor, slices: Sequence[Slices]) -> np.ndarray:
        return self.to_numpy(_slice_sums(vector, slices))

    def sums_and_signs(self, vector: tf.Tensor, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
        signs = self.signs(vector)
        # Counts are exact in float64, so everything is copied to the host at once.
        found = self.to_numpy(tf.stack([_slice_sums(v, slices) for v in (vector, signs < 0, signs > 0)]))
        return found[0], found[1:].astype(np.int64)

    def magnitudes(self, vector: tf.Tensor, edges: np.ndarray) -> np.ndarray:
        columns, limits = len(edges) + 1, tf.constant(_least_at(edges, vector.dtype))
        counts = np.zeros(2 * columns + 1, np.int64)
        for start in range(0, self.size(vector), _DEVICE_BLOCK):
            bits = _bits(vector[start : start + _DEVICE_BLOCK])
            size = tf.bitwise.bitwise_and(bits, bits.dtype.max)  # of |v|
            bins = tf.searchsorted(limits, size, side="right")
            bins = tf.where(size == 0, 2 * columns, bins + columns * tf.cast(bits > 0, bins.dtype))
            counts += self.to_numpy(tf.math.bincount(bins, minlength=len(counts)))
        return counts[:-1].reshape(2, -1)

    def take(self, vector: tf.Tensor, positions: np.ndarray) -> np.ndarray:
        return self.to_numpy(tf.gather(vector, positions))

    def extremes(self, vector: tf.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        bits = _bits(vector)
        flips = tf.bitwise.right_shift(bits, tf.constant(8 * bits.dtype.size - 1, bits.dtype))
        order = tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(flips, bits.dtype.max))  # as the numbers'
        smallest, largest = (tf.math.top_k(o, k).indices for o in (tf.bitwise.invert(order), order))
        return self.to_numpy(smallest), self.to_numpy(largest)

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
        bits = _bits(vector)
        positive, negative = bits > 0, (bits < 0) & (bits != bits.dtype.min)  # the least one is -0.0
        return tf.cast(positive, tf.int8) - tf.cast(negative, tf.int8)

    def changes(self, counts: tf.Tensor, last: tf.Tensor, signs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        counts += tf.cast(last * signs < 0, counts.dtype)
        return counts, tf.where(signs != 0, signs, last)

    def ratio(self, vector: tf.Tensor, divisor: tf.Tensor) -> tf.Tensor:
        return tf.math.divide_no_nan(vector, divisor)


class _Products:
    """``out = Σ_k w_k v_k ∘ f_k`` as in `ArrayOps.products_sum`, formed from range to range."""

    def __init__(self, weighted: WeightedProducts, start: tf.Tensor, end: tf.Tensor) -> None:
        numpy = _CPU.to_numpy
        equal = len({weight for weight, _, _ in weighted}) == 1
        self._scale = weighted[0][0] if equal else 1.0  # equal weights cost one multiplication
        self._terms = [
            (1.0 if equal else weight, numpy(vector), None if factor is None else numpy(factor))
            for weight, vector, factor in weighted
        ]
        self._start, self._end = numpy(start), numpy(end)
        self._asum = _ABSOLUTE_SUM[self._start.dtype]
        self.out, self.mass = _aligned(self._start), 0.0
        size = min(len(self.out), _BLOCK)
        self._movement, self._product = np.empty((2, size), self.out.dtype)

    def form(self, first: int, stop: int) -> None:
        """Form the entries of a range, and add their absolute products to ``mass``."""
        for at in range(first, stop, _BLOCK):
            block = slice(at, min(at + _BLOCK, stop))
            into = self.out[block]
            movement, product = self._movement[: len(into)], self._product[: len(into)]
            np.subtract(self._end[block], self._start[block], out=movement)
            for k, (weight, vector, factor) in enumerate(self._terms):
                part = product if k else into
                np.multiply(vector[block], movement if factor is None else factor[block], out=part)
                self.mass += abs(weight * self._scale) * self._asum(part)
                if weight != 1:
                    part *= weight
                if k:
                    into += part
            if self._scale != 1:
                into *= self._scale


def _is_numpys(vector: tf.Tensor) -> bool:
    """Whether NumPy computes in the dtype of the vector."""
    return vector.dtype.as_datatype_enum in _NUMPYS


def _aligned(like: np.ndarray) -> np.ndarray:
    """An empty array of this length and dtype, which begins where TensorFlow lets its tensors begin."""
    memory = np.empty(like.nbytes + _ALIGNMENT, np.uint8)
    first = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[first : first + like.nbytes].view(like.dtype)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """An `_aligned` array as a tensor in the same memory."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _slice_sums(vector: tf.Tensor, slices: Sequence[Slices]) -> tf.Tensor:
    """The sums of all slices, concatenated; float64, on the device."""
    pieces = [tf.reshape(vector[part.start : part.stop], part.shape) for part in slices]
    return tf.concat([tf.reduce_sum(_wide(piece), (0, 2)) for piece in pieces], 0)


def _bits(vector: tf.Tensor) -> tf.Tensor:
    """The numbers of ``vector`` as signed integers of the same width; for |v| they have the same order."""
    return tf.bitcast(vector, {2: tf.int16, 4: tf.int32, 8: tf.int64}[vector.dtype.size])


def _least_at(edges: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """The bits of the smallest number of ``dtype`` at or above each edge, so that |v| ≥ edge is compared."""
    with np.errstate(over="ignore"):  # an edge beyond the largest number becomes infinity
        nearest = edges.astype(dtype.as_numpy_dtype)
    bits: np.ndarray = nearest.view(f"i{dtype.size}")
    bits += nearest.astype(np.float64) < edges
    return bits


def _blocks(*vectors: tf.Tensor) -> Iterator[tuple[tf.Tensor, ...]]:
    flat = [tf.reshape(vector, [-1]) for vector in vectors]
    for start in range(0, int(flat[0].shape[0]), _DEVICE_BLOCK):
        yield tuple(vector[start : start + _DEVICE_BLOCK] for vector in flat)


def _wide(vector: tf.Tensor) -> tf.Tensor:
    return tf.cast(vector, tf.float64)


def _sum(parts: Iterator[tf.Tensor]) -> float:
    return float(tf.add_n([tf.reduce_sum(part) for part in parts]))


_HOST, _CPU, _DEVICE = NumpyOps(), TensorFlowOps(), TensorFlowDeviceOps()
# Registered for the type of eager tensors, which alone hold numbers. Creating one here to ask for its type
# would initialise TensorFlow, after which the user could no longer configure threads and devices.
array_ops.register(tf.__internal__.EagerTensor, lambda vector: _CPU if "CPU" in vector.device else _DEVICE)
