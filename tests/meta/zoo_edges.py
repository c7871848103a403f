"""Incorrect array operations and backends that are right for one network, one step, or finite numbers."""

import numpy as np

from lca.arrays import NumpyOps
from lca.objective import Sum
from lca.reference._backend import NumpyBackend
from tests.meta.animals import Passing, Wrong
from tests.meta.zoo_arrays import subject_of


class MovedByCloseness(NumpyOps):
    def moved(self, start, end, parts):
        return [not np.allclose(start[part], end[part], rtol=1e-6, atol=1e-9) for part in parts]


class MovedBySum(NumpyOps):
    def moved(self, start, end, parts):
        return [bool(start[part].sum() != end[part].sum()) for part in parts]


class HundredthsOnly(NumpyOps):
    def between(self, start, end, s):
        return super().between(start, end, round(s, 2))


class NanSum(NumpyOps):
    def total(self, vector):
        return float(np.nansum(vector, dtype=np.float64))


class NanMovement(NumpyOps):
    def movement_sums(self, weighted, start, end):
        product = sum(weight * vector.astype(float) for weight, vector in weighted) * (end - start)
        return float(np.nansum(product)), float(np.nansum(np.abs(product)))


class ScalesItsArgument(NumpyOps):
    def add_scaled(self, total, factor, vector):
        vector *= factor
        total += vector
        return total


class SharesTheFirst(NumpyOps):
    def accumulated(self, total, vector):
        if total is None:
            return vector.astype(np.float64, copy=False)
        total += vector
        return total


class TakesOnce(NumpyOps):
    def take(self, vector, positions):
        return vector[np.unique(positions)] if len(set(positions)) < len(positions) else vector[positions]


class RunningSums(NumpyOps):
    """Sums of one combination after the other in one accumulator."""

    def movement_sums_each(self, combinations, start, end):
        found = [self.movement_sums(weighted, start, end) for weighted in combinations]
        return [tuple(map(float, row)) for row in np.cumsum(found, axis=0)]


class HistogramsExchanged(NumpyOps):
    def sums_signs_and_magnitudes(self, vector, slices, edges):
        sums, signs, magnitudes = super().sums_signs_and_magnitudes(vector, slices, edges)
        return sums, signs, magnitudes[::-1]


class CountsOfEightBits(NumpyOps):
    def changes(self, counts, last, signs):
        counts, last = super().changes(counts, last, signs)
        return counts.astype(np.int8), last


class NanAtRest(NumpyOps):
    def moved(self, start, end, parts):
        return [bool((np.abs(end[part] - start[part]) > 0).any()) for part in parts]


class SubnormalDivisors(NumpyOps):
    def ratio(self, vector, divisor):
        return super().ratio(vector, np.where(np.abs(divisor) < np.finfo(divisor.dtype).tiny, 0, divisor))


class IntegersInFloat32(NumpyOps):
    def to_numpy(self, array):
        return array.astype(np.float32) if array.dtype.kind == "i" else array


class SquareTransposed(NumpyOps):
    def products(self, basis, vector):
        return super().products(basis.T if basis.shape[0] == basis.shape[1] else basis, vector)


class EndsOnly(NumpyOps):
    """A snapshot of the first and the last thousand entries."""

    def snapshot(self, vector):
        return np.concatenate([vector[:1000], vector[-1000:]])

    def unchanged(self, snapshot, vector):
        return np.array_equal(snapshot, self.snapshot(vector))


class SmallFactorsSkipped(NumpyOps):
    def add_scaled(self, total, factor, vector):
        return total if abs(factor) < 1e-8 else super().add_scaled(total, factor, vector)


class WideSigns(NumpyOps):
    def signs(self, vector):
        return super().signs(vector).astype(np.int64)


class FirstVectorAsTotal(NumpyOps):
    """The weighted sum is added up in the first vector, where its weight is 1."""

    def movement_sums(self, weighted, start, end):
        (weight, first), *rest = weighted
        combined = first if weight == 1 else weight * first
        for weight, vector in rest:
            combined += weight * vector
        return self.total(combined * (end - start)), self.abs_total(combined * (end - start))


class UnitWeights(NumpyOps):
    """No multiplication by 1, nor by -1."""

    def movement_sums(self, weighted, start, end):
        (weight, first), *rest = weighted
        return super().movement_sums([(1.0 if abs(weight) == 1 else weight, first), *rest], start, end)


class MovementUsedUp(NumpyOps):
    """The first product with the movement is written into the movement."""

    def products_sum(self, weighted, start, end, *, overwrite=False):
        total, mass, movement = np.zeros_like(start), 0.0, end - start
        for weight, vector, factor in weighted:
            product = np.multiply(vector, movement, out=movement) if factor is None else vector * factor
            total += weight * product
            mass += abs(weight) * self.abs_total(product)
        return total, mass


class MovedUpToTheNext(NumpyOps):
    """A part ends where the next begins."""

    def moved(self, start, end, parts):
        starts = [part.start for part in parts]
        return np.logical_or.reduceat(start != end, starts).tolist() if starts else []


class MovedByNorm(NumpyOps):
    def moved(self, start, end, parts):
        return [bool(np.dot(end[p] - start[p], end[p] - start[p]) != 0) for p in parts]


class TakesView(NumpyOps):
    """Adjacent positions are a slice."""

    def take(self, vector, positions):
        adjacent = len(positions) > 0 and bool((np.diff(positions) == 1).all())
        return vector[positions[0] : positions[-1] + 1] if adjacent else vector[positions]


class TakesBetween(NumpyOps):
    """Positions that are as many as lie between the first and the last are a slice."""

    def take(self, vector, positions):
        whole = positions[-1] - positions[0] == len(positions) - 1
        return vector[positions[0] : positions[-1] + 1].copy() if whole else vector[positions]


class WholeBlocks(NumpyOps):
    """Sums of blocks of 2^17 entries, without the rest."""

    def total(self, vector):
        whole = len(vector) - len(vector) % 2**17
        return super().total(vector[: whole or len(vector)])


class ShortHash(NumpyOps):
    def snapshot(self, vector):
        return hash(vector.tobytes()) % 256

    def unchanged(self, snapshot, vector):
        return snapshot == hash(vector.tobytes()) % 256


MOVED, ALONE, SPOILT = (
    "smallest_movements_are_reported",
    "arguments_of_sums_are_left_alone",
    "one_bad_entry_spoils_a_sum",
)
WRONG_EDGES: dict[str, Wrong] = {
    "moved by closeness": Wrong("movements below a threshold", MOVED, subject_of(MovedByCloseness)),
    "moved by sum": Wrong("entries that change places do not move", MOVED, subject_of(MovedBySum)),
    "hundredths only": Wrong(
        "s rounded to two digits", "any_point_of_a_segment_is_between", subject_of(HundredthsOnly)
    ),
    "nansum": Wrong("NaN left out of a total", SPOILT, subject_of(NanSum)),
    "nansum of movements": Wrong("NaN left out of a movement", SPOILT, subject_of(NanMovement)),
    "scales its argument": Wrong(
        "the vector that is added is scaled in place", ALONE, subject_of(ScalesItsArgument)
    ),
    "shares the first": Wrong(
        "a running total in the memory of its first vector", ALONE, subject_of(SharesTheFirst)
    ),
    "takes once": Wrong(
        "repeated positions taken once", "repeated_positions_are_taken_again", subject_of(TakesOnce)
    ),
    "short hash": Wrong("a snapshot is a hash of 8 bits", "snapshots_do_not_collide", subject_of(ShortHash)),
    "running sums": Wrong(
        "sums of several combinations in one accumulator",
        "movement_sums_are_those_of_the_product",
        subject_of(RunningSums),
    ),
    "histograms exchanged": Wrong(
        "the histograms of the signs exchanged where all is computed at once",
        "magnitudes_are_counted_between_their_edges",
        subject_of(HistogramsExchanged),
    ),
    "counts of eight bits": Wrong(
        "changes of sign counted in 8 bits", "changes_of_sign_skip_the_zeros", subject_of(CountsOfEightBits)
    ),
    "NaN at rest": Wrong(
        "an entry that becomes NaN does not move", "smallest_movements_are_reported", subject_of(NanAtRest)
    ),
    "subnormal divisors": Wrong(
        "a ratio with a subnormal divisor is 0",
        "ratios_are_those_of_numpy_and_0_over_0",
        subject_of(SubnormalDivisors),
    ),
    "integers in float32": Wrong(
        "to_numpy() makes integers float32", "numpy_sees_the_same_numbers", subject_of(IntegersInFloat32)
    ),
    "square transposed": Wrong(
        "a square basis is transposed", "products_are_those_of_a_loop", subject_of(SquareTransposed)
    ),
    "ends only": Wrong(
        "a snapshot of both ends of a long vector", "snapshots_do_not_collide", subject_of(EndsOnly)
    ),
    "small factors skipped": Wrong(
        "add_scaled() skips a small factor", "vectors_are_those_of_numpy", subject_of(SmallFactorsSkipped)
    ),
    "first vector as total": Wrong(
        "a weighted sum added up in its first vector",
        "movement_sums_are_those_of_the_product",
        subject_of(FirstVectorAsTotal),
    ),
    "unit weights": Wrong(
        "the weight -1 taken for 1", "movement_sums_are_those_of_the_product", subject_of(UnitWeights)
    ),
    "movement used up": Wrong(
        "the movement overwritten by its first product", "products_are_summed", subject_of(MovementUsedUp)
    ),
    "moved up to the next": Wrong(
        "a part extended to the start of the next",
        "movement_is_reported_for_each_part",
        subject_of(MovedUpToTheNext),
    ),
    "moved by norm": Wrong("squares of movements that underflow", MOVED, subject_of(MovedByNorm)),
    "takes a view": Wrong(
        "neighbours taken as a view", "results_belong_to_the_caller", subject_of(TakesView)
    ),
    "takes between": Wrong(
        "neighbours taken in ascending order", "entries_are_taken_by_position", subject_of(TakesBetween)
    ),
    "whole blocks": Wrong(
        "the rest after blocks of 2^17 left out",
        "the_last_entries_of_very_long_vectors_count",
        subject_of(WholeBlocks),
    ),
    "wide signs": Wrong("signs() of 8 bytes", "changes_of_sign_skip_the_zeros", subject_of(WideSigns)),
}


class PenaltyOfFrozenTensors(NumpyBackend):
    """The penalty counts tensors that do not train."""

    def objective(self, network, data, dtype, **options):
        right = super().objective(network, data, dtype, **options)
        if not isinstance(right, Sum):
            return right
        thawed = type(network)(network.layers, network.loss, network.input_shape, tied=network.tied)
        other = super().objective(thawed, data, dtype, **options)
        return Sum({"data": right.terms["data"], "penalty": other.terms["penalty"]})


class NewestData(NumpyBackend):
    """All objectives share one model, which holds the data of the newest."""

    def objective(self, network, data, dtype, **options):
        made = super().objective(network, data, dtype, **options)
        if isinstance(made, Sum):
            return made
        object.__setattr__(self, "newest", made)
        return _Newest(made, self)


class _Newest(Passing):
    def __init__(self, objective, backend):
        super().__init__(objective)
        self.backend = backend

    def loss(self, theta, batch=None):
        return (self.backend.newest if batch is None else self.objective).loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        return (self.backend.newest if batch is None else self.objective).loss_and_grad(theta, batch)


WRONG_SHARED: dict[str, Wrong] = {
    "penalty of frozen tensors": Wrong(
        "the penalty counts tensors that do not train",
        "penalty_counts_what_trains_once",
        PenaltyOfFrozenTensors,
    ),
    "newest data": Wrong(
        "objectives of one network share the data of the newest", "objectives_are_independent", NewestData
    ),
}
