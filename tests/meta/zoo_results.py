"""Incorrect array operations: right on short vectors, on finite numbers, or until a result is written."""

import numpy as np

from lca.arrays import NumpyOps
from tests.meta.animals import Wrong
from tests.meta.zoo_arrays import subject_of


def _shared(memory, key, numbers):
    """``numbers`` in memory that every call shares."""
    kept = memory.setdefault((key, numbers.shape, numbers.dtype), np.empty_like(numbers))
    kept[...] = numbers
    return kept


class PositionsOfEightBits(NumpyOps):
    def take(self, vector, positions):
        return vector[np.asarray(positions).astype(np.int8)]


class EqualInTheFirstBlock(NumpyOps):
    def equal(self, a, b):
        return type(a) is type(b) and a.shape == b.shape and super().equal(a[:1000], b[:1000])


class MovedInTheFirstBlock(NumpyOps):
    def moved(self, start, end, parts):
        return super().moved(start, end, [slice(p.start, min(p.stop, p.start + 1000)) for p in parts])


class FiniteInTheFirstBlock(NumpyOps):
    def all_finite(self, vector):
        return super().all_finite(vector[:1000])


class LengthForgotten(NumpyOps):
    def unchanged(self, snapshot, vector):
        return np.array_equal(snapshot, vector[: len(snapshot)])


class SignsOfTheFirstBlock(NumpyOps):
    def signs(self, vector):
        found = super().signs(vector)
        found[1000:] = 1
        return found


class ChangesOfTheFirstBlock(NumpyOps):
    def changes(self, counts, last, signs):
        counts[:1000] += last[:1000] * signs[:1000] < 0
        np.copyto(last, signs, where=signs != 0)
        return counts, last


class RatiosOfTheFirstBlock(NumpyOps):
    def ratio(self, vector, divisor):
        found = super().ratio(vector, divisor)
        found[1000:] = vector[1000:]
        return found


class TotalsSingleLater(NumpyOps):
    def accumulated(self, total, vector):
        found = super().accumulated(total, vector)
        found[1000:] = found[1000:].astype(np.float32)
        return found


class ExtremesOfTheFirstBlock(NumpyOps):
    def extremes(self, vector, k):
        return super().extremes(vector[: max(k, 1000)], k)


class HistogramOfEightBits(NumpyOps):
    def magnitudes(self, vector, edges):
        return super().magnitudes(vector, edges).astype(np.uint8)


class LongProductsSingle(NumpyOps):
    def products(self, basis, vector):
        kind = np.float64 if len(vector) < 1000 else np.float32
        return (basis.astype(kind) @ vector.astype(kind)).astype(np.float64)


class InfinityDropped(NumpyOps):
    def magnitudes(self, vector, edges):
        return super().magnitudes(vector[np.isfinite(vector)], edges)


class InfinityDroppedTogether(NumpyOps):
    def sums_signs_and_magnitudes(self, vector, slices, edges):
        finite = vector[np.isfinite(vector)]
        return *self.sums_and_signs(vector, slices), super().magnitudes(finite, edges)


class SumsWithoutNan(NumpyOps):
    def sums(self, vector, slices):
        return super().sums(np.nan_to_num(vector), slices)

    def sums_and_signs(self, vector, slices):
        return super().sums_and_signs(np.nan_to_num(vector), slices)


class TotalsWithoutNan(NumpyOps):
    def accumulated(self, total, vector):
        return super().accumulated(total, np.nan_to_num(vector))


class FiniteMass(NumpyOps):
    def products_sum(self, weighted, start, end, *, overwrite=False):
        found, mass = super().products_sum(weighted, start, end, overwrite=overwrite)
        return found, mass if np.isfinite(mass) else 0.0


class FiniteRatios(NumpyOps):
    def ratio(self, vector, divisor):
        return np.nan_to_num(super().ratio(vector, divisor), posinf=0.0, neginf=0.0)


class EqualInAnyDtype(NumpyOps):
    def equal(self, a, b):
        return type(a) is type(b) and a.shape == b.shape and super().equal(a * 1.0, b * 1.0)


class EqualInAnyShape(NumpyOps):
    def equal(self, a, b):
        return type(a) is type(b) and super().equal(a.ravel(), b.ravel())


class OneZeroForAll(NumpyOps):
    """Hands out one vector of zeros wherever nothing moves."""

    def __init__(self):
        self._zeros = {}

    def times_movement(self, vector, start, end):
        if np.array_equal(start, end):
            return self._zeros.setdefault((vector.shape, vector.dtype), np.zeros_like(vector))
        return super().times_movement(vector, start, end)


class ScaledToOneZero(OneZeroForAll):
    def scaled(self, vector, factor):
        if factor == 0:
            return self._zeros.setdefault((vector.shape, vector.dtype), np.zeros_like(vector))
        return super().scaled(vector, factor)


class TotalsFromOneZero(OneZeroForAll):
    def accumulated(self, total, vector):
        if total is None and not vector.any():
            return self._zeros.setdefault(vector.shape, np.zeros(vector.shape))
        return super().accumulated(total, vector)


class StartItself(NumpyOps):
    def between(self, start, end, s):
        return start if s == 0 else super().between(start, end, s)


class OnePoint(OneZeroForAll):
    def between(self, start, end, s):
        return _shared(self._zeros, "point", super().between(start, end, s))


class OneProduct(OneZeroForAll):
    def products_sum(self, weighted, start, end, *, overwrite=False):
        found, mass = super().products_sum(weighted, start, end, overwrite=overwrite)
        return _shared(self._zeros, "product", found), mass


class OneRowOfSums(OneZeroForAll):
    def sums(self, vector, slices):
        return _shared(self._zeros, "sums", super().sums(vector, slices))


class OneTaken(OneZeroForAll):
    def take(self, vector, positions):
        return _shared(self._zeros, "taken", super().take(vector, positions))


COMPARED = "long_vectors_are_compared_to_their_end"
TREATED = "long_vectors_are_treated_to_their_end"
KEPT = "bad_entries_are_kept"
APART = "arrays_of_another_dtype_or_shape_are_not_equal"
OWN = "results_belong_to_the_caller"
_TABLE = [
    (EqualInTheFirstBlock, COMPARED, "equal() looks at the first 1,000 entries"),
    (MovedInTheFirstBlock, COMPARED, "moved() looks at the first 1,000 entries of a part"),
    (FiniteInTheFirstBlock, COMPARED, "all_finite() looks at the first 1,000 entries"),
    (LengthForgotten, COMPARED, "a longer vector is taken for the one of a snapshot"),
    (PositionsOfEightBits, TREATED, "positions of take() as int8"),
    (SignsOfTheFirstBlock, TREATED, "signs above index 1,000 are 1"),
    (ChangesOfTheFirstBlock, TREATED, "changes of sign above index 1,000 are not counted"),
    (RatiosOfTheFirstBlock, TREATED, "quotients above index 1,000 are not divided"),
    (TotalsSingleLater, TREATED, "running totals above index 1,000 rounded to float32"),
    (ExtremesOfTheFirstBlock, TREATED, "extremes of the first 1,000 entries"),
    (HistogramOfEightBits, TREATED, "counts of a histogram as uint8"),
    (LongProductsSingle, TREATED, "products of long vectors in float32"),
    (InfinityDropped, KEPT, "infinity left out of a histogram"),
    (InfinityDroppedTogether, KEPT, "infinity left out of a histogram that is taken with sums"),
    (SumsWithoutNan, KEPT, "NaN replaced by 0 in sums of tensors"),
    (TotalsWithoutNan, KEPT, "NaN replaced by 0 in running totals"),
    (FiniteMass, KEPT, "an absolute sum that is not finite is reported as 0"),
    (FiniteRatios, KEPT, "quotients that are not finite replaced by 0"),
    (EqualInAnyDtype, APART, "the same numbers in another dtype are equal"),
    (EqualInAnyShape, APART, "the same numbers in another shape are equal"),
    (OneZeroForAll, OWN, "one vector of zeros handed out for every product with no movement"),
    (ScaledToOneZero, OWN, "one vector of zeros handed out for a factor of 0"),
    (TotalsFromOneZero, OWN, "running totals of zeros begin in one vector"),
    (StartItself, OWN, "between() at 0 is the start itself, not a copy"),
    (OnePoint, OWN, "points between start and end share one buffer"),
    (OneProduct, OWN, "sums of products share one buffer"),
    (OneRowOfSums, OWN, "sums of tensors share one buffer"),
    (OneTaken, OWN, "entries that were taken share one buffer"),
]
WRONG_RESULTS = {kind.__name__: Wrong(bug, check, subject_of(kind)) for kind, check, bug in _TABLE}
