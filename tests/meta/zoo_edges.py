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
