"""Incorrect array operations: those of NumPy with one defect, and a right array class of its own."""

import numpy as np

from lca.arrays import ArrayOps, NumpyOps, array_ops
from lca.testing._array_subject import ArraySubject
from tests.meta.animals import Wrong


def subject_of(kind):
    """The subject of a class of operations on NumPy arrays."""
    return lambda: ArraySubject(np.array, kind())


class AlwaysUnchanged(NumpyOps):
    def unchanged(self, snapshot, vector):
        return True


class SnapshotByReference(NumpyOps):
    def snapshot(self, vector):
        return vector


class SnapshotByIdentity(NumpyOps):
    def snapshot(self, vector):
        return id(vector)

    def unchanged(self, snapshot, vector):
        return snapshot == id(vector)


class SnapshotBySum(NumpyOps):
    def snapshot(self, vector):
        return float(vector.sum(dtype=np.float64))

    def unchanged(self, snapshot, vector):
        return snapshot == float(vector.sum(dtype=np.float64))


class SnapshotOfTheHead(NumpyOps):
    def snapshot(self, vector):
        return vector[:4].copy()

    def unchanged(self, snapshot, vector):
        return np.array_equal(snapshot, vector[:4])


class NeverUnchanged(NumpyOps):
    """Costs a gradient a step: the end of one step is not recognised as the start of the next."""

    def unchanged(self, snapshot, vector):
        return False


class TotalInFloat16(NumpyOps):
    def total(self, vector):
        return float(vector.astype(np.float16).sum(dtype=np.float64))


class TotalInOwnDtype(NumpyOps):
    def total(self, vector):
        return float(vector.sum())


class NoMovement(NumpyOps):
    def movement_sums(self, weighted, start, end):
        return 0.0, 0.0


class AbsoluteOfTheSum(NumpyOps):
    def movement_sums(self, weighted, start, end):
        signed, _ = super().movement_sums(weighted, start, end)
        return signed, abs(signed)


class FirstTermOnly(NumpyOps):
    def movement_sums(self, weighted, start, end):
        return super().movement_sums(weighted[:1], start, end)


class MassOfTheSum(NumpyOps):
    def products_sum(self, weighted, start, end, *, overwrite=False):
        found, _ = super().products_sum(weighted, start, end)
        return found, float(np.abs(found).sum())


class ProductsOfTheStep(NumpyOps):
    def products_sum(self, weighted, start, end, *, overwrite=False):
        return super().products_sum([(weight, vector, None) for weight, vector, _ in weighted], start, end)


class SumsOfOtherProducts(NumpyOps):
    def products_and_sums(self, weighted, start, end, slices):
        values, mass = self.products_sum(weighted, start, end)
        return values, mass, self.sums(self.products_sum(weighted[:1], start, end)[0], slices)


class RemembersSums(NumpyOps):
    """The sums of the last products, whatever the slices."""

    last = None

    def products_and_sums(self, weighted, start, end, slices):
        self.last = None
        values, mass, sums = super().products_and_sums(weighted, start, end, slices)
        self.last = values, sums
        return values, mass, sums

    def sums(self, vector, slices):
        known = self.last is not None and self.last[0] is vector
        return self.last[1] if known else super().sums(vector, slices)


class WritesTheEnd(NumpyOps):
    def times_movement(self, vector, start, end):
        end -= start
        vector *= end
        return vector


class BetweenFromTheEnd(NumpyOps):
    def between(self, start, end, s):
        return end + s * (start - end)


class BetweenWritesTheStart(NumpyOps):
    def between(self, start, end, s):
        start += s * (end - start)
        return start


class WideProduct(NumpyOps):
    def scaled(self, vector, factor):
        return vector * np.float64(factor)


class FirstBlockOnly(NumpyOps):
    """Processes the first block of a long vector."""

    def add_scaled(self, total, factor, vector):
        total[:32768] += factor * vector[:32768]
        return total


class FiniteOnTheWhole(NumpyOps):
    def all_finite(self, vector):
        return bool(np.isfinite(np.nansum(vector)))


class OneEpsilon(NumpyOps):
    def eps(self, vector):
        return 2.0**-23


class CloseIsEqual(NumpyOps):
    def equal(self, a, b):
        return type(a) is type(b) and a.shape == b.shape and np.allclose(a, b, equal_nan=True)


class MovedAnywhere(NumpyOps):
    def moved(self, start, end, parts):
        return [not np.array_equal(start, end) for _ in parts]


class SmallIsZero(NumpyOps):
    def signs(self, vector):
        return np.where(np.abs(vector) < 1e-12, 0, np.sign(vector)).astype(np.int8)


class UnsortedExtremes(NumpyOps):
    def extremes(self, vector, k):
        smallest, largest = super().extremes(vector, k)
        return np.sort(smallest), np.sort(largest)


class ZerosCounted(NumpyOps):
    def sums_and_signs(self, vector, slices):
        sums, signs = super().sums_and_signs(vector, slices)
        signs[1] += np.array(
            [part.outer * part.inner for part in slices for _ in range(part.width)]
        ) - signs.sum(0)
        return sums, signs


class SumsSwapped(NumpyOps):
    def sums(self, vector, slices):
        return super().sums(vector, slices)[::-1]


class EdgesOpenBelow(NumpyOps):
    def magnitudes(self, vector, edges):
        return super().magnitudes(vector, np.nextafter(edges, np.inf))


class TakenInOrder(NumpyOps):
    def take(self, vector, positions):
        return vector[np.sort(positions)]


class AccumulatedInOwnDtype(NumpyOps):
    def accumulated(self, total, vector):
        return vector.copy() if total is None else total + vector


class ProductsInOwnDtype(NumpyOps):
    def products(self, basis, vector):
        return (basis.astype(np.float32) @ vector.astype(np.float32)).astype(np.float64)


class ZeroOverZeroIsOne(NumpyOps):
    def ratio(self, vector, divisor):
        return np.where(divisor == 0, 1, super().ratio(vector, divisor)).astype(vector.dtype)


class ZerosForgetTheSign(NumpyOps):
    def changes(self, counts, last, signs):
        counts, _ = super().changes(counts, last.copy(), signs)
        return counts, signs


class RoundedForNumpy(NumpyOps):
    def to_numpy(self, array):
        with np.errstate(over="ignore"):
            return np.round(array, 3) if array.dtype.kind == "f" else array


class VectorsOfDouble(NumpyOps):
    def vector(self, array, like):
        return array.astype(np.float64)


SNAPSHOT, MOVEMENT, VECTORS = (
    "a_snapshot_recognises_its_vector",
    "movement_sums_are_those_of_the_product",
    "vectors_are_those_of_numpy",
)
WRONG_ARRAYS: dict[str, Wrong] = {
    "vectors of double precision": Wrong(
        "vector() ignores the dtype", "vectors_are_made_like_others", subject_of(VectorsOfDouble)
    ),
    "always unchanged": Wrong("unchanged() is always True", SNAPSHOT, subject_of(AlwaysUnchanged)),
    "snapshot by reference": Wrong(
        "the snapshot of a mutable vector is the vector", SNAPSHOT, subject_of(SnapshotByReference)
    ),
    "snapshot by identity": Wrong("a snapshot is an id", SNAPSHOT, subject_of(SnapshotByIdentity)),
    "snapshot by sum": Wrong("a snapshot is a sum", SNAPSHOT, subject_of(SnapshotBySum)),
    "snapshot of the head": Wrong("a snapshot holds four entries", SNAPSHOT, subject_of(SnapshotOfTheHead)),
    "never unchanged": Wrong("a vector is not recognised", SNAPSHOT, subject_of(NeverUnchanged)),
    "total in float16": Wrong(
        "a sum of float16 numbers", "totals_are_summed_in_float64", subject_of(TotalInFloat16)
    ),
    "total in own dtype": Wrong(
        "a float32 vector summed in float32", "totals_are_summed_in_float64", subject_of(TotalInOwnDtype)
    ),
    "no movement": Wrong("movement_sums() returns 0, 0", MOVEMENT, subject_of(NoMovement)),
    "absolute of the sum": Wrong("|Σ a| instead of Σ |a|", MOVEMENT, subject_of(AbsoluteOfTheSum)),
    "first term only": Wrong("one of several weighted vectors", MOVEMENT, subject_of(FirstTermOnly)),
    "mass of the sum": Wrong(
        "|Σ_k a_k| instead of Σ_k |a_k|", "products_are_summed", subject_of(MassOfTheSum)
    ),
    "products of the step": Wrong(
        "a factor is taken for the movement", "products_are_summed", subject_of(ProductsOfTheStep)
    ),
    "sums of other products": Wrong(
        "the sums of the first product", "products_come_with_their_sums", subject_of(SumsOfOtherProducts)
    ),
    "remembers sums": Wrong(
        "the sums of a vector over other slices", "products_come_with_their_sums", subject_of(RemembersSums)
    ),
    "writes the end": Wrong("a difference computed in the end-point", VECTORS, subject_of(WritesTheEnd)),
    "writes the start": Wrong("a point computed in the start", VECTORS, subject_of(BetweenWritesTheStart)),
    "wide product": Wrong("float32 times a float64 scalar", VECTORS, subject_of(WideProduct)),
    "first block only": Wrong("only the first block is updated", VECTORS, subject_of(FirstBlockOnly)),
    "finite on the whole": Wrong(
        "NaN left out of the test of finiteness", "one_bad_entry_is_not_finite", subject_of(FiniteOnTheWhole)
    ),
    "one epsilon": Wrong("eps of float32 for all", "eps_is_that_of_the_dtype", subject_of(OneEpsilon)),
    "close is equal": Wrong(
        "allclose() as equality", "arrays_are_equal_in_every_number", subject_of(CloseIsEqual)
    ),
    "moved anywhere": Wrong(
        "moved() of the whole vector for each part",
        "movement_is_reported_for_each_part",
        subject_of(MovedAnywhere),
    ),
    "small is zero": Wrong(
        "signs() with a threshold", "changes_of_sign_skip_the_zeros", subject_of(SmallIsZero)
    ),
    "zeros forget the sign": Wrong(
        "a zero between two signs resets the count",
        "changes_of_sign_skip_the_zeros",
        subject_of(ZerosForgetTheSign),
    ),
    "unsorted extremes": Wrong(
        "extremes() in order of position", "extremes_come_in_order", subject_of(UnsortedExtremes)
    ),
    "zeros counted": Wrong(
        "zeros counted as positive", "sums_and_signs_are_those_of_a_loop", subject_of(ZerosCounted)
    ),
    "sums swapped": Wrong(
        "sums() in another order than sums_and_signs()",
        "long_sums_and_signs_are_those_of_numpy",
        subject_of(SumsSwapped),
    ),
    "edges open below": Wrong(
        "a number at an edge counted below it",
        "magnitudes_are_counted_between_their_edges",
        subject_of(EdgesOpenBelow),
    ),
    "taken in order": Wrong(
        "take() in ascending order", "entries_are_taken_by_position", subject_of(TakenInOrder)
    ),
    "accumulated in own dtype": Wrong(
        "a running total in float32",
        "accumulated_totals_are_float64",
        subject_of(AccumulatedInOwnDtype),
    ),
    "products in float32": Wrong(
        "a projection in float32", "products_are_those_of_a_loop", subject_of(ProductsInOwnDtype)
    ),
    "0/0 is 1": Wrong(
        "a ratio with 0 as divisor is 1",
        "ratios_are_those_of_numpy_and_0_over_0",
        subject_of(ZeroOverZeroIsOne),
    ),
    "rounded for NumPy": Wrong(
        "to_numpy() rounds", "numpy_sees_the_same_numbers", subject_of(RoundedForNumpy)
    ),
    "from the end": Wrong(
        "the segment runs backwards", "a_segment_begins_and_ends_at_its_ends", subject_of(BetweenFromTheEnd)
    ),
}


class Reals:
    """A right array class of its own: immutable, without a base class, with arithmetic by operators."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)
        self.numbers.flags.writeable = False

    dtype = property(lambda self: self.numbers.dtype)
    shape = property(lambda self: self.numbers.shape)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, key):
        return Reals(self.numbers[key])

    def __add__(self, other):
        return Reals(self.numbers + getattr(other, "numbers", other))

    def __sub__(self, other):
        return Reals(self.numbers - getattr(other, "numbers", other))

    def __mul__(self, other):
        return Reals(self.numbers * getattr(other, "numbers", other))

    __rmul__ = __mul__
    __radd__ = __add__


class RealsOps(ArrayOps):
    """What an immutable array class needs: four methods."""

    def to_numpy(self, array):
        return getattr(array, "numbers", array)

    def vector(self, array, like):
        return Reals(array.astype(like.dtype))

    def snapshot(self, vector):
        return vector

    def unchanged(self, snapshot, vector):
        return snapshot is vector


array_ops.register(Reals, lambda vector: RealsOps())


class FactorsAsScratch(NumpyOps):
    """With ``overwrite``, products are written into the factors, and sums are taken in another order."""

    def products_sum(self, weighted, start, end, *, overwrite=False):
        if not overwrite:
            return super().products_sum(weighted, start, end)
        total, mass = np.zeros_like(start), 0.0
        for weight, vector, factor in weighted:
            product = vector * (end - start) if factor is None else np.multiply(vector, factor, out=factor)
            mass += abs(weight) * float(np.abs(product).sum())
            total = total + weight * product
        return total, mass


RIGHT_ARRAYS = {
    "NumPy": ArraySubject(np.array, NumpyOps()),
    "own class": ArraySubject(Reals),
    "factors as scratch": ArraySubject(np.array, FactorsAsScratch()),
}
