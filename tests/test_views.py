"""Views against slow, obvious twins: loops over steps and parameters in plain Python."""

import math
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from lca import Layout, LCAError, StepAllocation
from lca.arrays import NumpyOps, array_ops
from lca.tolerances import EPS64, summed
from lca.views import GroupTotals, HelpingCounts, LogHistogram, Signs, Trace

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((2, 2), (2,), (3,)))
GROUPS = LAYOUT.groups("layer")


def allocation(values, **kwargs):
    change = float(np.sum(values, dtype=np.float64))
    return StepAllocation(values, 1.0, 1.0 + change, residual=0.0, mass=abs(change), **kwargs)


def fed(view, rows):
    for row in rows:
        view.update(allocation(row))
    return view


def runs(dtype, most=1e3):
    """(T, K) values with many exact zeros, and now and then a step of nothing else."""
    number = st.floats(-most, most, width=32) | st.just(0.0) | st.just(-0.0)
    row = arrays(dtype, LAYOUT.size, elements=number) | st.just(np.zeros(LAYOUT.size, dtype))
    return st.lists(row, min_size=1, max_size=6)


both_dtypes = st.sampled_from([np.float32, np.float64]).flatmap(runs)


@given(both_dtypes)
def test_group_totals_are_sums_over_the_entries_of_each_group(rows):
    view = fed(GroupTotals(GROUPS), rows)
    assert view.rows.shape == (len(rows), 2)
    for row, got in zip(rows, view.rows, strict=True):
        for g in range(2):
            mine = [float(v) for v, group in zip(row, GROUPS.index, strict=True) if group == g]
            assert abs(got[g] - math.fsum(mine)) <= summed(math.fsum(map(abs, mine)), EPS64)


@given(both_dtypes)
def test_run_totals_add_up_to_everything_allocated(rows):
    view = fed(GroupTotals(GROUPS), rows)
    everything = np.concatenate(rows).astype(np.float64)
    tolerance = summed(math.fsum(np.abs(everything)), EPS64)
    assert abs(view.totals.sum() - math.fsum(everything)) <= tolerance
    assert np.abs(view.totals - view.rows.sum(axis=0)).max() <= tolerance
    assert view.by_name() == dict(zip(("a", "b"), view.totals, strict=True))


def test_group_totals_without_rows_keep_the_totals():
    rows = np.random.default_rng(0).normal(size=(5, LAYOUT.size))
    view = fed(GroupTotals(GROUPS, keep_rows=False), rows)
    assert view.rows.shape == (0, 2)
    np.testing.assert_array_equal(view.totals, fed(GroupTotals(GROUPS), rows).totals)


def test_float32_values_are_summed_in_float64():
    layout = Layout(("w",), ((3,),))
    view = fed(GroupTotals(layout.groups("tensor")), [np.array([1.0, 1e-10, -1.0], np.float32)])
    assert abs(view.totals[0] - np.float32(1e-10)) <= summed(2.0, EPS64)


@given(both_dtypes)
def test_signs_count_helping_hurting_and_exact_zeros_apart(rows):
    per_group, per_step = (
        f(fed(HelpingCounts(GROUPS), rows)) for f in (HelpingCounts.per_group, HelpingCounts.per_step)
    )
    for t, row in enumerate(rows):
        for g in range(2):
            mine = [v for v, group in zip(row, GROUPS.index, strict=True) if group == g]
            expected = (sum(v < 0 for v in mine), sum(v > 0 for v in mine), sum(v == 0 for v in mine))
            assert (per_group.helping[t, g], per_group.hurting[t, g], per_group.zero[t, g]) == expected
        assert (per_step.helping[t], per_step.zero[t]) == ((row < 0).sum(), (row == 0).sum())
    alone = fed(HelpingCounts(), rows).per_step()
    for name in ("helping", "hurting", "zero"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(per_step, name))


def test_the_smallest_movement_counts_and_minus_zero_does_not():
    signs = fed(HelpingCounts(), [np.array([-5e-324, 5e-324, -0.0, 0.0])]).per_step()
    assert (signs.helping.tolist(), signs.hurting.tolist(), signs.zero.tolist()) == ([1], [1], [2])


def test_helping_percent_is_the_mean_over_steps_not_over_all_entries():
    signs = Signs(np.array([9, 0]), np.array([0, 1]), np.array([1, 9]))
    assert signs.helping_percent().tolist() == [100.0, 0.0]
    assert signs.mean_helping_percent() == 50.0  # 9 of 10 entries would be 90
    assert signs.mean_zero_percent() == 50.0


def test_a_step_of_zeros_has_no_percentage_and_is_left_out_of_the_mean():
    signs = fed(HelpingCounts(), [np.zeros(3), np.array([-1.0, -1.0, 0.0])]).per_step()
    assert np.isnan(signs.helping_percent()[0])
    assert (signs.mean_helping_percent(), signs.steps_without_percent()) == (100.0, 1)
    nothing = fed(HelpingCounts(), [np.zeros(3)]).per_step()
    assert np.isnan(nothing.mean_helping_percent())
    assert nothing.mean_zero_percent() == 100.0


@given(both_dtypes)
def test_histogram_puts_each_entry_into_the_bin_whose_edges_enclose_it(rows):
    view = fed(LogHistogram(low=-3, high=2, bins_per_decade=2), rows)
    values = np.concatenate(rows).astype(np.float64)
    for sign, counts in ((-1, view.helping), (1, view.hurting)):
        sizes = sign * values[sign * values > 0]
        bins = zip(view.edges[:-1], view.edges[1:], strict=True)
        assert counts.tolist() == [int(((lo <= sizes) & (sizes < hi)).sum()) for lo, hi in bins]
    counted = view.helping.sum() + view.hurting.sum() + view.zero + view.below + view.above
    assert counted == values.size  # nothing is dropped


def test_histogram_counts_what_lies_outside():
    edges = LogHistogram(low=-3, high=2).edges
    view = fed(LogHistogram(low=-3, high=2), [np.array([-1e-9, 5e-324, 0.0, edges[0], edges[-1], -1e300])])
    assert (view.below, view.above, view.zero) == (2, 2, 1)
    assert (view.hurting[0], view.helping.sum()) == (1, 0)


@pytest.mark.parametrize("bad", [{"low": 2, "high": 2}, {"bins_per_decade": 0}])
def test_histogram_without_bins_is_refused(bad):
    with pytest.raises(LCAError, match="low < high and bins_per_decade"):
        LogHistogram(**bad)


def test_trace_rebuilds_the_loss_from_totals_and_state_changes():
    trace = Trace()
    trace.update(
        StepAllocation(np.array([-1.0, 0.25]), 3.0, 2.5, residual=0.125, mass=1.25, state_change=0.125)
    )
    trace.update(StepAllocation(np.array([0.5]), 2.5, 3.0, residual=0.0, mass=0.5, step=1, converged=False))
    assert trace.losses().tolist() == [3.0, 2.5, 3.0]
    assert trace.rebuilt().tolist() == [3.0, 2.375, 2.875]
    assert trace.rows["converged"].tolist() == [True, False]
    assert trace.rows["step"].tolist() == [0, 1]


def all_views():
    return [GroupTotals(GROUPS), HelpingCounts(GROUPS), LogHistogram(), Trace()]


@pytest.mark.parametrize("view", all_views(), ids=lambda view: type(view).__name__)
def test_views_keep_no_vector_of_a_step(view):
    values = np.ones(LAYOUT.size)
    gone = weakref.ref(values)
    view.update(allocation(values))
    del values
    assert gone() is None


class ForeignVector:
    """Another framework's vector: nothing but its registered `ArrayOps` can read it."""

    def __init__(self, numbers):
        self.numbers = numbers


class ForeignOps(NumpyOps):
    def to_numpy(self, vector):
        return vector.numbers

    def total(self, vector):
        return float(vector.numbers.sum())


array_ops.register(ForeignVector, lambda vector: ForeignOps())


def test_views_read_vectors_of_other_backends():
    numbers = np.array([-1.0, 2.0, 0.0, 0.0, 1.0, 1.0, -4.0, 0.0, 0.5])
    step = StepAllocation(ForeignVector(numbers), 1.0, 0.5, residual=0.0, mass=9.5)
    totals, counts, histogram, trace = all_views()
    for view in (totals, counts, histogram, trace):
        view.update(step)
    assert totals.by_name() == {"a": 3.0, "b": -3.5}
    assert counts.per_step().helping.tolist() == [2]
    assert (histogram.helping.sum(), histogram.hurting.sum(), histogram.zero) == (2, 4, 3)
    assert trace.rows["total"].tolist() == [-0.5]
