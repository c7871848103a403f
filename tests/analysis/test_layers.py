"""T-tests over seeds keep their level and their coverage; a planted lag is recovered.

Statistical checks have fixed seeds and limits at four standard errors (false-alarm rate 6e-5 each).
"""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest, ttest_1samp, ttest_rel

from lca import Layout
from lca.analysis import holm_correction, paired_t_test, phase_lag, t_test_over_seeds
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import EPS64, summed
from tests.nightly import cases

NAMES = ["fc1", "fc2", "fc3"]
LAYOUT = Layout(("a.weight", "b.weight"), ((3,), (2,)))
LAYERS = LAYOUT.groups("layer")
B = np.array([0, 0, 0, 1, 1])  # the entries of the second layer


def test_t_and_p_are_those_of_scipy():
    totals = np.random.default_rng(0).normal(loc=[0, 1, -2], size=(6, 3))
    expected = ttest_1samp(totals, 0)
    for row, t, p in zip(t_test_over_seeds(NAMES, totals), expected.statistic, expected.pvalue, strict=True):
        assert row.t == pytest.approx(t, rel=summed(6, EPS64))
        assert row.p_value == pytest.approx(p, rel=summed(100, EPS64))
    other = totals + np.random.default_rng(1).normal(size=(6, 3))
    expected = ttest_rel(other, totals)
    seen = [row.p_value for row in paired_t_test(NAMES, other, totals)]
    assert seen == pytest.approx(expected.pvalue, rel=summed(100, EPS64))


@pytest.mark.parametrize("seeds", cases(2, 5, at_night=[20]))
def test_the_interval_covers_the_mean_and_p_is_uniform_under_the_null(seeds):
    runs = 2_000
    rng = np.random.default_rng([1, seeds])
    rows = [
        t_test_over_seeds(["layer"], rng.normal(loc=0.0, scale=0.3, size=(seeds, 1)))[0] for _ in range(runs)
    ]
    covered = np.mean([row.low <= 0.0 <= row.high for row in rows])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)
    assert kstest([row.p_value for row in rows], "uniform").pvalue > 1e-4


def test_the_coverage_follows_the_confidence_level():
    rng = np.random.default_rng(2)
    rows = [t_test_over_seeds(["l"], rng.normal(size=(4, 1)), confidence=0.5)[0] for _ in range(1_000)]
    assert abs(np.mean([r.low <= 0 <= r.high for r in rows]) - 0.5) < 4 * math.sqrt(0.25 / 1_000)


def test_a_layer_that_hurts_a_little_is_found_among_larger_ones():
    rng = np.random.default_rng(3)
    totals = np.array([-1.8, -0.4, 0.02]) + 0.005 * rng.normal(size=(5, 3))
    rows = {row.name: row for row in t_test_over_seeds(NAMES, totals)}
    assert rows["fc3"].low > 0
    assert rows["fc3"].p_adjusted < 0.01
    assert rows["fc1"].mean < rows["fc2"].mean < 0


def test_a_frozen_layer_neither_helps_nor_hurts():
    totals = np.stack([np.zeros(3), [1.0, 1.1, 0.9]], axis=1)
    frozen, other = t_test_over_seeds(["frozen", "other"], totals)
    assert (frozen.mean, frozen.t, frozen.p_value, frozen.low, frozen.high) == (0.0, 0.0, 1.0, 0.0, 0.0)
    assert other.p_value < 0.01


def test_a_layer_that_cannot_move_does_not_count_as_tested():
    rng = np.random.default_rng(10)
    totals = rng.normal(loc=[-1, 0.5, 2], size=(5, 3))
    frozen = np.concatenate([totals, np.zeros((5, 20))], axis=1)
    alone, beside = t_test_over_seeds(NAMES, totals), t_test_over_seeds([*"abcdefghijklmnopqrstuvw"], frozen)
    for one, other in zip(alone, beside[:3], strict=True):
        assert (one.p_adjusted, one.low_adjusted) == (other.p_adjusted, other.low_adjusted)
    assert {row.p_adjusted for row in beside[3:]} == {1.0}


def test_adjusted_intervals_hold_together():
    runs, rng = 1_000, np.random.default_rng(11)
    rows = [t_test_over_seeds([*"abcde"], rng.normal(size=(4, 5))) for _ in range(runs)]
    together = np.mean([all(r.low_adjusted <= 0 <= r.high_adjusted for r in row) for row in rows])
    assert together > 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)
    assert np.mean([all(r.low <= 0 <= r.high for r in row) for row in rows]) < 0.9


def test_the_tests_are_a_list_and_a_table():
    totals = np.random.default_rng(16).normal(size=(4, 3))
    found = t_test_over_seeds(NAMES, totals, confidence=0.9)
    frame = found.to_frame()
    assert frame.index.tolist() == NAMES
    assert frame["mean upper"].tolist() == pytest.approx([row.high for row in found], rel=summed(2, EPS64))
    assert frame["p (Holm)"].tolist() == [row.p_adjusted for row in found]
    assert "90 % interval" in found.table().caption
    assert found.to_latex().startswith(r"\begin{tabular}")


def slow_sign_flip(values):
    means = [
        abs(np.mean([s * v for s, v in zip(signs, values, strict=True)]))
        for signs in product([1, -1], repeat=len(values))
    ]
    return np.mean(np.array(means) >= abs(np.mean(values)) * (1 - summed(9, EPS64)))


@pytest.mark.parametrize("seeds", [2, 5, 9])
def test_the_sign_flip_test_equals_its_slow_twin(seeds):
    totals = np.random.default_rng(12).normal(loc=0.5, size=(seeds, 3))
    for row, column in zip(t_test_over_seeds(NAMES, totals), totals.T, strict=True):
        assert row.p_sign_flip == slow_sign_flip(column)


def test_the_sign_flip_test_keeps_its_level_where_the_t_test_does_not():
    """A symmetric distribution with heavy tails; many seeds are flipped at random."""
    rng, runs = np.random.default_rng(13), 500
    for seeds in (8, 20):
        p = [
            t_test_over_seeds(["a"], rng.standard_cauchy(size=(seeds, 1)))[0].p_sign_flip for _ in range(runs)
        ]
        assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_interval_for_skewed_totals_ends_where_its_test_says(seeds):
    """0 is at an end of the interval of level 1 - p; symmetric totals give the t-test."""
    totals = np.random.default_rng(3).exponential(size=(seeds, 4)) - 0.4
    for row in t_test_over_seeds([*"abcd"], totals):
        [column] = [c for c in totals.T if c.mean() == row.mean]
        ends = t_test_over_seeds(["a"], column[:, None], confidence=1 - row.p_skewed)[0]
        end = ends.low_skewed if row.mean > 0 else ends.high_skewed
        assert abs(end) <= summed(10_000, EPS64) * np.abs(column).max()
    symmetric = np.array([[-1.0], [0.5], [2.0]])
    [row] = t_test_over_seeds(["a"], symmetric)
    limit = summed(30, EPS64)
    assert (row.low_skewed, row.high_skewed) == pytest.approx((row.low, row.high), rel=limit)
    assert row.p_skewed == pytest.approx(row.p_value, rel=limit)


def test_the_correction_for_skewness_errs_less_for_skewed_totals():
    rng, runs = np.random.default_rng(14), 1_000
    rows = t_test_over_seeds([str(i) for i in range(runs)], rng.exponential(size=(10, runs)) - 1)
    usual, corrected = (np.mean([getattr(r, what) <= 0.05 for r in rows]) for what in ("p_value", "p_skewed"))
    assert corrected < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs) < usual


def test_runs_are_paired_by_seed():
    changed, unchanged = {0: [0.9], 1: [2.1], 2: [2.8]}, {2: [2.9], 0: [1.0], 1: [2.3]}
    by_seed = paired_t_test(["loss"], changed, unchanged)
    assert by_seed == paired_t_test(["loss"], [[0.9], [2.1], [2.8]], [[1.0], [2.3], [2.9]])
    with pytest.raises(LCAError, match="there is only one of 2, 3"):
        paired_t_test(["loss"], {0: [1.0], 2: [2.0]}, {0: [1.0], 3: [2.0]})


def test_pairing_removes_the_variation_between_seeds():
    rng = np.random.default_rng(4)
    seeds = rng.normal(size=(8, 1))
    unchanged = seeds + 0.01 * rng.normal(size=(8, 1))
    changed = seeds - 0.05 + 0.01 * rng.normal(size=(8, 1))
    [row] = paired_t_test(["heldout loss"], changed, unchanged)
    assert row.p_value < 1e-4
    assert row.low < -0.05 < row.high


def test_holm_keeps_the_family_wise_error():
    runs, tests = 2_000, 5
    p = np.random.default_rng(5).random(size=(runs, tests))
    wrong = np.mean([(holm_correction(row) <= 0.05).any() for row in p])
    assert wrong < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert np.mean((p <= 0.05).any(axis=1)) > 0.15  # without the correction it is not kept


def test_holm_adjusts_upwards_and_keeps_the_order():
    p = np.array([0.5, 0.01, 0.9, 0.02])
    np.testing.assert_allclose(holm_correction(p), [1.0, 0.04, 1.0, 0.06], rtol=summed(1, EPS64))


def test_a_lag_at_the_edge_and_one_that_is_none_are_told():
    rng = np.random.default_rng(14)
    gradient, movement = rng.normal(size=(2, 300, 5))
    movement[6:, :3] = -gradient[:-6, :3]
    assert phase_lag(gradient, movement, LAYERS, max_lag=6).remarks() == ("at the edge", "no peak")
    assert phase_lag(gradient, movement, LAYERS, max_lag=9).remarks() == ("", "no peak")


def test_lags_are_in_steps_where_every_third_was_recorded():
    gradient = np.random.default_rng(15).normal(size=(100, 5))
    movement, steps = -np.roll(gradient, 2, axis=0), np.arange(0, 300, 3)
    assert phase_lag(gradient, movement, LAYERS, max_lag=5, steps=steps).best_lag().tolist() == [6, 6]
    with pytest.raises(LCAError, match="the phase lag needs rows at equal distances"):
        phase_lag(gradient, movement, LAYERS, steps=[*range(50), *range(90, 140)])


@pytest.mark.parametrize("lag", [0, 1, 4])
def test_a_planted_lag_is_recovered_in_each_group(lag):
    rng = np.random.default_rng(6)
    gradient = rng.normal(size=(400, 5))
    movement = np.zeros((400, 5))
    movement[lag:, :3] = -0.1 * gradient[: 400 - lag, :3]
    movement[2:, 3:] = -7.0 * gradient[:-2, 3:]
    movement += 0.05 * rng.normal(size=movement.shape)
    seen = phase_lag(gradient, movement, LAYERS, max_lag=10)
    assert seen.names == ("a", "b")
    assert seen.best_lag().tolist() == [lag, 2]
    at_zero = np.flatnonzero(seen.lags == 0)[0]
    others = np.delete(seen.correlation[:, 0], at_zero + lag)
    assert np.abs(others).max() < 4.5 / math.sqrt(3 * 390)  # 20 normal numbers, 3 parameters, 390 steps


def test_gradient_descent_has_correlation_one_at_delay_zero():
    gradient = np.random.default_rng(7).normal(size=(50, 5))
    seen = phase_lag(gradient, -0.3 * gradient, LAYERS, max_lag=3)
    assert np.abs(seen.correlation[3] - 1).max() <= summed(50, EPS64)
    np.testing.assert_array_equal(seen.lags, range(-3, 4))


def test_momentum_spreads_the_movement_over_later_delays():
    """Δ_{t+d} contains -lr μ^d g_t, so with white-noise gradients the correlation decays as μ^d."""
    rng = np.random.default_rng(8)
    gradient, velocity, movement = rng.normal(size=(20_000, 5)), np.zeros(5), []
    for g in gradient:
        velocity = 0.8 * velocity + g
        movement.append(-0.1 * velocity)
    seen = phase_lag(gradient, np.array(movement), LAYERS, max_lag=4)
    later, earlier = seen.correlation[4:], seen.correlation[:4]
    assert later == pytest.approx(np.outer(0.6 * 0.8 ** np.arange(5), [1, 1]), abs=0.03)  # 0.6 = √(1 - 0.8²)
    assert np.abs(earlier).max() < 0.03


def slow_correlation(gradient, movement, lag):
    """The formula for one group, written out."""
    pairs = [(t, t + lag) for t in range(len(gradient)) if 0 <= t + lag < len(gradient)]
    cross = np.mean([-gradient[t] @ movement[u] for t, u in pairs])
    return cross / np.sqrt(np.mean((gradient**2).sum(axis=1)) * np.mean((movement**2).sum(axis=1)))


def test_phase_lag_equals_its_slow_twin():
    gradient, movement = np.random.default_rng(9).normal(size=(2, 12, 5))
    seen = phase_lag(gradient, movement, LAYERS, max_lag=5)
    for row, lag in zip(seen.correlation, seen.lags, strict=True):
        for column, part in enumerate((slice(0, 3), slice(3, 5))):
            slow = slow_correlation(gradient[:, part], movement[:, part], lag)
            assert abs(row[column] - slow) <= summed(12 * 3, EPS64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_test_over_seeds(NAMES, np.ones((1, 3))), "at least 2 rows, got 1"),
        (lambda: t_test_over_seeds(NAMES, np.ones(3)), r"must have 2 axes, got an array of shape \(3,\)"),
        (lambda: t_test_over_seeds(NAMES, np.ones((3, 2))), r"pass totals\.T"),
        (
            lambda: t_test_over_seeds(NAMES, [[1.0, 2, 0], [3, 4, 0], [1 + 1e-9, 2 - 1e-9, 0]]),
            "rows 0 and 2 of the totals over seeds agree",
        ),
        (lambda: paired_t_test(["a"], {0: [1.0]}, [[1.0]]), "mappings from seeds to rows for both"),
        (lambda: t_test_over_seeds(NAMES, np.ones((2, 2))), r"got 3 name\(s\) for 2 column\(s\)"),
        (lambda: t_test_over_seeds(["a", "b"], np.array([[1.0, 2], [3, 2]])), "the same total for 'b'"),
        (lambda: t_test_over_seeds(["a"], np.zeros((2, 1)), confidence=95), "between 0 and 1, got 95"),
        (lambda: paired_t_test(["a"], np.zeros((2, 1)), np.zeros((3, 1))), "same seeds and quantities"),
        (lambda: phase_lag(np.ones((9, 5)), np.ones((9, 4)), LAYERS, max_lag=1), r"shape \(steps, 5\)"),
        (
            lambda: phase_lag(np.ones((9, 5)), np.ones((9, 5)), LAYERS, max_lag=9),
            "the gradients must have at least 10 rows, got 9",
        ),
        (
            lambda: phase_lag(np.ones((9, 5)), np.ones((9, 5)) * B, LAYERS, max_lag=0),
            "group 'a' is 0 in every",
        ),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()


def test_a_diverged_seed_is_refused():
    with pytest.raises(NonFiniteError, match="totals over seeds contain inf in row 1"):
        t_test_over_seeds(["a"], np.array([[1.0], [np.inf]]))
