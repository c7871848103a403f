"""Sign changes and alternation against hand-made series and series of known period."""

import numpy as np
import pytest
import xarray as xr

import lca
from lca.analysis import dominant_half_period, mean_gradient, sign_changes, transitions
from lca.errors import LCAError
from lca.views import Oscillation


def test_a_square_wave_has_its_half_period():
    wave = np.sign(np.sin(np.pi * (np.arange(70) + 0.5) / 7))[:, None] * [1.0, -3.0]
    seen = sign_changes(wave)
    assert seen.changes.tolist() == [9, 9]
    assert seen.elapsed.tolist() == [69, 69]
    np.testing.assert_array_equal(seen.runs, [0] * 7 + [16])  # 8 complete runs a series
    np.testing.assert_array_equal(seen.half_periods(), [69 / 9, 69 / 9])


def test_complete_runs_are_counted_by_length():
    series = np.array([1, 1, 1, -1, 1, 1, -1, -1, -1, -1, 1.0])[:, None]
    np.testing.assert_array_equal(sign_changes(series).runs, [0, 1, 1, 0, 1])


def test_zero_and_nan_have_no_sign_but_count_as_steps():
    seen = sign_changes(np.array([1.0, -1.0, 0.0, np.nan, -1.0, 1.0, 0.0])[:, None])
    assert (seen.changes.tolist(), seen.elapsed.tolist()) == ([2], [5])
    np.testing.assert_array_equal(seen.runs, [0, 0, 0, 0, 1])  # from step 1 to step 5


WAVE = np.sign(np.sin(np.pi * (np.arange(600) + 0.5) / 30))[:, None]  # a half-period of 30 steps


def test_a_parameter_that_moves_every_third_step_has_its_half_period_in_steps():
    moves = WAVE * (np.arange(600) % 3 == 0)[:, None]
    assert sign_changes(moves).half_period() == 597 / 19  # the last move is at step 597


@pytest.mark.parametrize("labels", ["argument", "coordinate"])
def test_the_half_period_of_every_tenth_step_is_in_steps(labels):
    rows, steps = WAVE[::10], np.arange(0, 600, 10)
    if labels == "coordinate":
        seen = sign_changes(xr.DataArray(rows, dims=("step", "layer"), coords={"step": steps}))
    else:
        seen = sign_changes(rows, steps=steps)
    assert seen.half_period() == 590 / 19
    assert np.flatnonzero(seen.runs).tolist() == [30]


def test_nothing_is_counted_across_a_hole():
    """600 to 699 were not measured: the parts before and after are two records."""
    rows, steps = np.concatenate([WAVE, -WAVE]), [*range(600), *range(700, 1_300)]
    seen, parts = sign_changes(rows, steps=steps), [sign_changes(WAVE), sign_changes(-WAVE)]
    assert seen.changes == sum(part.changes for part in parts)
    assert seen.elapsed == sum(part.elapsed for part in parts)
    np.testing.assert_array_equal(seen.runs, sum(part.runs for part in parts))
    both = transitions(rows, steps=steps).counts
    np.testing.assert_array_equal(both, transitions(WAVE).counts + transitions(-WAVE).counts)


@pytest.mark.parametrize(("half", "every"), [(4.0, 1), (12.0, 1), (17.0, 1), (30.0, 3)])
def test_the_spectrum_finds_an_oscillation_that_noise_hides_from_the_sign_changes(half, every):
    steps, rng = np.arange(0, 1_200, every), np.random.default_rng(7)
    phases = rng.uniform(0, 2 * np.pi, size=50)
    noisy = np.sin(np.pi * steps[:, None] / half + phases) + 1.5 * rng.normal(size=(len(steps), 50))
    assert sign_changes(noisy, steps=steps).half_period() < 0.7 * half
    assert dominant_half_period(noisy, steps=steps) == pytest.approx(half, rel=0.06)


def test_random_signs_have_a_half_period_of_two():
    seen = sign_changes(np.random.default_rng(0).normal(size=(2_000, 50)))
    assert seen.half_period() == pytest.approx(2.0, abs=4 * 2 / np.sqrt(100_000))
    lengths = np.arange(len(seen.runs))
    share = seen.runs / seen.runs.sum()
    assert share[1:5] == pytest.approx(0.5 ** lengths[1:5], abs=0.01)  # geometric


def test_the_half_period_of_a_short_record_is_unbiased():
    """A mean over complete runs would see only the short ones."""
    rng = np.random.default_rng(1)
    stays = rng.random(size=(40, 5_000)) < 1 - 1 / 30
    signs = np.cumprod(np.where(stays, 1, -1), axis=0)
    seen = sign_changes(signs)
    complete = (seen.runs * np.arange(len(seen.runs))).sum() / seen.runs.sum()
    assert seen.half_period() == pytest.approx(30, rel=0.05)
    assert complete < 15


def test_a_series_without_sign_changes_has_an_infinite_half_period():
    seen = sign_changes(np.ones((5, 2)))
    assert seen.half_period() == np.inf
    assert seen.half_periods().tolist() == [np.inf, np.inf]
    assert seen.runs.tolist() == [0]


def test_an_iterator_of_rows_gives_the_result_of_the_array():
    rows = np.random.default_rng(2).normal(size=(30, 4))
    np.testing.assert_array_equal(sign_changes(iter(rows)).runs, sign_changes(rows).runs)
    np.testing.assert_array_equal(transitions(iter(rows)).counts, transitions(rows).counts)


def test_transitions_are_counted_by_origin_and_destination():
    seen = transitions(np.array([[-1.0], [-1.0], [3.0], [0.0], [2.0], [-5.0], [1.0]]))
    np.testing.assert_array_equal(seen.counts[..., 0], [[1, 2], [1, 1]])
    assert seen.alternating_percent() == pytest.approx(60.0)


def test_strict_alternation_and_no_alternation():
    flip = np.where(np.arange(101) % 2, 1.0, -1.0)[:, None]
    assert transitions(flip).alternating_percent() == 100.0
    assert transitions(flip).expected_alternating_percent() == pytest.approx(50.0)
    assert transitions(-np.ones((9, 2))).alternating_percent() == 0.0
    assert transitions(-np.ones((9, 2))).expected_alternating_percent() == 0.0


def test_independent_steps_alternate_as_expected_whatever_the_rate_of_helping():
    rng = np.random.default_rng(3)
    rates = rng.uniform(0.1, 0.9, size=200)
    seen = transitions(np.where(rng.random(size=(1_000, 200)) < rates, -1.0, 1.0))
    limit = 4 * 50 / np.sqrt(200_000)
    assert seen.alternating_percent() == pytest.approx(seen.expected_alternating_percent(), abs=limit)
    assert seen.expected_alternating_percent() == pytest.approx(
        100 * (2 * rates * (1 - rates)).mean(), abs=2 * limit
    )


def test_without_pairs_there_is_no_percentage():
    assert np.isnan(transitions(np.zeros((3, 2))).alternating_percent())
    assert np.isnan(transitions(np.zeros((3, 2))).expected_alternating_percent())


def test_an_allocation_changes_sign_when_one_of_movement_and_gradient_does():
    rng = np.random.default_rng(4)
    movement, gradient = rng.normal(size=(2, 300, 5))
    values = movement * gradient
    np.testing.assert_array_equal(np.sign(mean_gradient(values, movement)), np.sign(gradient))
    turns, crossings = np.diff(np.sign(movement), axis=0) != 0, np.diff(np.sign(gradient), axis=0) != 0
    np.testing.assert_array_equal(sign_changes(values).changes, (turns ^ crossings).sum(axis=0))


def test_the_streaming_view_counts_the_same():
    rng = np.random.default_rng(5)
    movement = rng.normal(size=(40, 6)) * (rng.random(size=(40, 6)) < 0.7)  # some stand still at times
    values = movement * rng.normal(size=(40, 6))
    view, start = Oscillation(), np.zeros(6)
    for t, (move, a) in enumerate(zip(movement, values, strict=True)):
        step = lca.Step(start, start + move, t)
        view.update(lca.StepAllocation(a, 0.0, 0.0, residual=0.0, mass=0.0, source=step))
    np.testing.assert_array_equal(sign_changes(movement).changes, view.turns)
    np.testing.assert_array_equal(sign_changes(mean_gradient(values, movement)).changes, view.sign_changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_changes([]), "at least one row"),
        (lambda: transitions([]), "at least one row"),
        (lambda: sign_changes(np.zeros(5)), r"vectors of shape \(K,\), got a row of shape \(\)"),
        (
            lambda: sign_changes(np.zeros((3, 1)), steps=[0, 1]),
            "one increasing integer for each of the 3 rows",
        ),
        (lambda: sign_changes(np.zeros((3, 1)), steps=[0, 2, 1]), "one increasing integer"),
        (lambda: dominant_half_period(np.zeros((20, 1))), "a series that varies"),
        (lambda: dominant_half_period(np.zeros((9, 1))), "at least 16 rows, got 9"),
        (
            lambda: dominant_half_period(np.eye(20), steps=[*range(15), *range(50, 55)]),
            r"which are 1 and 36 here \(a gap follows step 14\)",
        ),
        (lambda: mean_gradient(np.zeros(2), np.zeros(3)), r"the same shape, got \(2,\) and \(3,\)"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()
