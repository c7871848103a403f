"""A row holds what plain loops give, and reduces the values once for all that read it."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given

from lca import SIMPSON, Layout, PathIntegral, Record, StepAllocation, Trajectory
from lca.arrays import NumpyOps, array_ops
from lca.errors import LayoutError
from lca.live import TensorBoard
from lca.live._outputs import LiveOutputs
from lca.reference import Quadratic
from lca.row import BIN_EDGES, Row, rows_of
from lca.summary import RunViews
from lca.testing.strategies import dtypes, seeds
from lca.tolerances import EPS64, summed
from lca.tracking import Session
from lca.views import GroupTotals, HelpingCounts, LogHistogram, RowView, Trace
from lca.views._view import reader_of

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((2, 3), (2,), (4, 2)))
GROUPS = ("tensor", "layer", "neuron")


def allocation(seed, dtype=np.float64, **kwargs):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=LAYOUT.size) * 10.0 ** rng.integers(-20, 3, LAYOUT.size)).astype(dtype)
    values[rng.random(LAYOUT.size) < 0.2] = 0
    return StepAllocation(values, 2.0, 1.5, residual=0.25, mass=3.0, **kwargs)


@pytest.mark.parametrize(("tolerance", "column"), [(None, math.nan), (0.5, 0.5)])
def test_an_estimator_without_a_tolerance_has_nan_in_its_column(tolerance, column):
    row = Row(allocation(0, tolerance=tolerance), LAYOUT)
    np.testing.assert_equal(row.scalars["tolerance"], column)


@given(seeds, dtypes())
def test_a_row_is_what_loops_give(seed, dtype):
    found = allocation(seed, dtype)
    row, values = Row(found, LAYOUT), found.values.astype(np.float64)
    assert abs(row.total - math.fsum(values)) <= summed(math.fsum(abs(values)), EPS64)
    for by in GROUPS:
        index = LAYOUT.groups(by).index
        for group, total in enumerate(row.totals(by)):
            mine = values[index == group]
            assert abs(total - math.fsum(mine)) <= summed(math.fsum(abs(mine)), EPS64), by
            if by != "neuron":
                counts = [int(count[group]) for count in row.signs(by)]
                assert counts == [(mine < 0).sum(), (mine > 0).sum(), (mine == 0).sum()], by
    bins = np.searchsorted(BIN_EDGES, abs(values), side="right")
    expected = [np.bincount(bins[sign * values > 0], minlength=len(BIN_EDGES) + 1) for sign in (-1, 1)]
    np.testing.assert_array_equal(row.magnitudes, expected)


@given(seeds, dtypes())
def test_the_views_of_a_run_hold_what_views_hold_that_are_fed_one_by_one(seed, dtype):
    run, found = RunViews.of(LAYOUT), allocation(seed, dtype)
    tensors, layers = LAYOUT.groups("tensor"), LAYOUT.groups("layer")
    alone = Trace(), GroupTotals(tensors), GroupTotals(layers), HelpingCounts(tensors), LogHistogram()
    for view in (run, *alone):
        view.update(found)
    trace, of_tensors, of_layers, signs, histogram = alone
    np.testing.assert_array_equal(run.tensors.rows, of_tensors.rows)
    np.testing.assert_array_equal(run.layers.rows, of_layers.rows)
    np.testing.assert_array_equal(run.signs.per_group().helping, signs.per_group().helping)
    np.testing.assert_array_equal(run.signs.per_group().zero, signs.per_group().zero)
    np.testing.assert_array_equal(run.histogram.helping, histogram.helping)
    assert (run.histogram.zero, run.histogram.below) == (histogram.zero, histogram.below)
    mine, theirs = run.trace.rows[0], trace.rows[0]
    assert abs(mine["total"] - theirs["total"]) <= summed(float(abs(found.values).sum()), EPS64)
    mine["total"] = theirs["total"]
    assert mine == theirs


def test_the_standard_error_is_that_of_the_mean_of_the_replicates():
    rng = np.random.default_rng(0)
    copies = {t: list(rng.normal(size=(m, LAYOUT.size))) for t, m in ((0.0, 4), (1.0, 3))}
    row = Row(allocation(0, replicates=copies), LAYOUT)
    for by in GROUPS:
        index = LAYOUT.groups(by).index
        for group, error in enumerate(row.stderr(by)):
            nodes = [np.array([c[index == group].sum() for c in found]) for found in copies.values()]
            variance = sum(sums.var(ddof=1) / len(sums) for sums in nodes)
            assert abs(error - math.sqrt(variance)) <= summed(math.sqrt(variance), EPS64), by
    assert np.isnan(Row(allocation(0), LAYOUT).stderr("layer")).all()
    single = allocation(0, replicates={0.0: copies[0.0], 1.0: copies[1.0][:1]})
    assert np.isnan(Row(single, LAYOUT).stderr("neuron")).all()


def test_terms_follow_their_loss():
    term = allocation(1)
    rows = rows_of({"train": allocation(0, terms={"penalty": term}), "heldout": allocation(2)}, LAYOUT)
    assert list(rows) == ["train", "train/penalty", "heldout"]
    assert rows["train/penalty"].allocation is term


def test_values_of_another_layout_are_refused():
    with pytest.raises(LayoutError, match=r"values of step 0: expected shape \(17,\)"):
        Row(allocation(0), Layout(("w",), ((17,),)))


def test_a_view_of_ones_own_is_shown_the_allocation_and_a_row_view_the_row():
    seen = []

    class Mine:
        def update(self, found):
            seen.append(found)

    class Reader(RowView):
        def read(self, row):
            seen.append(row)

    row = Row(allocation(0), LAYOUT)
    reader_of(Mine())(row)
    reader_of(Reader(LAYOUT))(row)
    assert seen == [row.allocation, row]
    Reader(LAYOUT).update(row.allocation)
    assert isinstance(seen[-1], Row)


# --- passes over K ---------------------------------------------------------------------------------------


class Counted(np.ndarray):
    """A NumPy array whose operations are counted."""


class CountingOps(NumpyOps):
    def __init__(self):
        self.calls = Counter()

    def __getattribute__(self, name):
        together = "sums_signs_and_magnitudes"  # its two parts are counted
        if not name.startswith("_") and name not in ("calls", "to_numpy", "size", together):
            self.calls[name] += 1
        return super().__getattribute__(name)


COUNTING = CountingOps()
array_ops.register(Counted, lambda vector: COUNTING)


def counted(row_reader):
    """The operations on the values of one step that a reader makes of its allocation."""
    found = allocation(0)
    object.__setattr__(found, "values", found.values.view(Counted))
    COUNTING.calls.clear()
    row_reader(found)
    return dict(COUNTING.calls)


ONE_PASS_EACH = {"sums_and_signs": 1, "sums": 1, "magnitudes": 1}


def test_all_readers_of_a_row_share_three_reductions(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    views, live = RunViews.of(LAYOUT), LiveOutputs(log_to=TensorBoard(tmp_path / "logs"))
    with Record(tmp_path / "run.zarr", LAYOUT) as record:

        def read(found):
            rows = rows_of({"train": found}, LAYOUT)
            reader_of(views)(rows["train"])
            record.write(rows)
            live.read(rows)

        assert counted(read) == ONE_PASS_EACH
    live.close()


def test_what_is_read_twice_is_reduced_once():
    def read(found):
        row = Row(found, LAYOUT)
        for _ in range(2):
            assert row.magnitudes.any()
            assert row.scalars["total"] == row.total
            assert [len(row.totals(by)) for by in GROUPS] == [len(LAYOUT.groups(by)) for by in GROUPS]
            assert row.signs("tensor").zero.sum() == row.signs("layer").zero.sum()

    assert counted(read) == ONE_PASS_EACH
    assert LAYOUT.groups("neuron") is LAYOUT.groups("neuron")  # whose labels are slow to make


def test_without_neurons_and_histogram_one_reduction_is_left(tmp_path):
    with Record(tmp_path / "run.zarr", LAYOUT, neurons=False, histogram=False) as record:
        assert counted(record.update) == {"sums_and_signs": 1}


def test_the_default_views_alone_need_two_reductions():
    assert counted(RunViews.of(LAYOUT).update) == {"sums_and_signs": 1, "magnitudes": 1}


def test_a_session_makes_one_row_for_its_views_and_its_record(tmp_path):
    points = np.array([[1.0, 1.0], [0.5, 0.0]]).view(Counted)
    session = Session(Quadratic(np.eye(2)), PathIntegral(SIMPSON), record=tmp_path / "run.zarr")
    COUNTING.calls.clear()
    for step in Trajectory(points):
        session.measure(step)
    session.close()
    assert session.summary()["train"]["steps"] == 1
    assert {name: COUNTING.calls[name] for name in ONE_PASS_EACH} == ONE_PASS_EACH
