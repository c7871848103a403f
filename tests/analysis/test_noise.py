"""Helping tables and tails against hand-computed numbers and closed forms."""

import numpy as np
import pytest

from lca.analysis import helping_table, signs_by_parameter, tails, tails_from_histogram, transitions
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import EPS64, summed
from lca.views import HelpingCounts, Signs

ROWS = np.array([[-1.0, -2.0, 3.0, 0.0], [0.0, 0.0, 0.0, -1.0], [2.0, -1.0, -1.0, 0.0]])


def test_helping_table_has_mean_and_pooled_percentages():
    signs = Signs(np.array([[9, 0], [0, 0]]), np.array([[1, 0], [1, 2]]), np.array([[0, 2], [9, 0]]))
    first, second = helping_table(["a", "b"], signs)
    assert (first.name, first.helping_percent, first.zero_percent) == ("a", 45.0, 45.0)
    assert first.pooled_percent == pytest.approx(100 * 9 / 11)
    assert (second.helping_percent, second.zero_percent, second.steps_without) == (0.0, 50.0, 1)


def test_signs_by_parameter_count_each_column():
    signs = signs_by_parameter(ROWS)
    np.testing.assert_array_equal(signs.helping, [1, 2, 1, 1])
    np.testing.assert_array_equal(signs.hurting, [1, 0, 1, 0])
    np.testing.assert_array_equal(signs.zero, [1, 1, 1, 2])
    assert signs.helping_percent().tolist() == [50.0, 100.0, 50.0, 100.0]


def test_tables_by_step_and_by_parameter_count_the_same_entries():
    assert signs_by_parameter(ROWS).helping.sum() == (ROWS < 0).sum()
    assert signs_by_parameter(iter(ROWS)).zero.sum() == (ROWS == 0).sum()


def slow_gini(sizes):
    """The definition: half the mean difference of two entries, relative to the mean."""
    return np.abs(sizes[:, None] - sizes[None]).mean() / (2 * sizes.mean())


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).normal(size=200)
    assert abs(tails(values).gini - slow_gini(np.abs(values))) <= summed(200, EPS64)


def test_equal_sizes_have_no_inequality():
    seen = tails(np.array([1.0, -1.0, 1.0, -1.0]), top=0.25)
    assert abs(seen.gini) <= summed(4, EPS64)
    assert seen.top_share == pytest.approx(0.25)
    assert seen.kurtosis == -2.0  # two values of equal weight: the least there is


def test_one_entry_with_nearly_all_of_the_sum():
    values = np.array([1e-12] * 99 + [-1.0])
    seen = tails(values)
    assert seen.gini == pytest.approx(0.99)
    assert seen.top_share == pytest.approx(1.0)


def test_exact_zeros_are_skipped():
    assert tails(np.array([1.0, 0.0, -2.0, 0.0])) == tails(np.array([1.0, -2.0]))


@pytest.mark.parametrize(
    ("draw", "kurtosis", "limit", "gini"),  # limit: four standard errors of the kurtosis
    [
        (lambda rng, n: rng.uniform(-1, 1, size=n), -1.2, 0.02, 1 / 3),
        (lambda rng, n: rng.normal(size=n), 0.0, 0.045, np.sqrt(2) - 1),
        (lambda rng, n: rng.laplace(size=n), 3.0, 0.45, 0.5),
    ],
    ids=["uniform", "normal", "laplace"],
)
def test_known_distributions(draw, kurtosis, limit, gini):
    seen = tails(draw(np.random.default_rng(0), 200_000))
    assert seen.kurtosis == pytest.approx(kurtosis, abs=limit)
    assert seen.gini == pytest.approx(gini, abs=0.005)


def test_a_histogram_gives_nearly_the_same_tails():
    values = 1e-3 * np.random.default_rng(0).laplace(size=100_000)
    histogram = np.logspace(-12, 1, 13 * 8 + 1)
    helping, hurting = (np.histogram(-values, histogram)[0], np.histogram(values, histogram)[0])
    exact, binned = tails(values), tails_from_histogram(histogram, helping, hurting)
    assert binned.count == exact.count
    assert binned.gini == pytest.approx(exact.gini, abs=0.005)
    assert binned.top_share == pytest.approx(exact.top_share, rel=0.1)
    assert binned.kurtosis == pytest.approx(exact.kurtosis, rel=0.1)


def test_histograms_of_single_steps_are_added():
    edges = np.array([1.0, 10.0, 100.0])
    rows = np.array([[3, 1], [2, 2]])
    assert tails_from_histogram(edges, rows, rows) == tails_from_histogram(
        edges, rows.sum(axis=0), rows.sum(axis=0)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: helping_table(["a"], HelpingCounts().per_step()),
            r"\(steps, groups\), got shape \(0,\)",
        ),
        (
            lambda: helping_table(["a", "b"], HelpingCounts().per_group()),
            r"got 2 name\(s\) for 1 column\(s\)",
        ),
        (lambda: signs_by_parameter([]), "at least one row of allocations"),
        (lambda: tails(np.zeros(5)), "at least two non-zero allocations"),
        (lambda: tails(np.array([2.0, 2.0])), "differ from each other"),
        (lambda: tails(np.arange(5.0), top=1.0), "between 0 and 1 .* got 1.0"),
        (lambda: tails_from_histogram([0.0, 1.0], [1], [1]), "positive and strictly increasing"),
        (
            lambda: tails_from_histogram([1.0, 2.0], [1, 2], [1]),
            r"2 bin edges need counts ≥ 0 of shape \(1,\) or \(steps, 1\), got shape \(2,\)",
        ),
        (lambda: tails_from_histogram([1.0, 2.0], [-1], [1]), "with minimum -1"),
        (lambda: tails_from_histogram([1.0, 2.0, 3.0], [0, 0], [0, 0]), "at least two non-zero"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()


def correlated(seed, steps=400, share=0.9):
    """Counts of helping of 200 parameters, whose rate is an autoregression over the steps."""
    rng, rate = np.random.default_rng([9, seed]), np.zeros(steps)
    for step in range(1, steps):
        rate[step] = share * rate[step - 1] + 0.02 * rng.normal()
    helping = rng.binomial(200, np.clip(0.5 + rate, 0, 1))[:, None]
    return Signs(helping, 200 - helping, np.zeros_like(helping))


def test_the_error_of_the_helping_percentage_allows_for_correlated_steps():
    rows = [helping_table(["a"], correlated(seed))[0] for seed in range(200)]
    spread = np.std([row.helping_percent for row in rows], ddof=1)
    stated = np.mean([row.helping_stderr for row in rows])
    assert 0.75 * spread < stated < 1.1 * spread  # blocks of 40 steps leave a little of the correlation out
    assert np.isnan(helping_table(["a"], correlated(0, steps=63))[0].helping_stderr)


def scaled_rows(seed):
    """Every ten steps share a random scale."""
    rng = np.random.default_rng([10, seed])
    return np.repeat(np.exp(0.3 * rng.normal(size=(40, 1))), 10, axis=0) * rng.laplace(size=(400, 50))


def test_the_errors_of_the_tails_are_their_spread_over_runs():
    found = [tails(scaled_rows(seed), block=10) for seed in range(60)]
    for name in ("gini", "top_share", "kurtosis"):
        spread = np.std([getattr(one, name) for one in found], ddof=1)
        stated = np.mean([getattr(one, f"{name}_stderr") for one in found])
        assert 0.7 * spread < stated < 1.35 * spread, name
    assert np.isnan(tails(scaled_rows(0)).gini_stderr)


def test_errors_from_a_histogram_are_nearly_those_of_the_values():
    rows, edges = scaled_rows(1), np.logspace(-8, 3, 11 * 64 + 1)
    helping, hurting = (
        np.array([np.histogram(sign * row[sign * row > 0], edges)[0] for row in rows]) for sign in (-1, 1)
    )
    plain, binned = tails(rows, block=10), tails_from_histogram(edges, helping, hurting, block=10)
    assert binned.gini_stderr == pytest.approx(plain.gini_stderr, rel=0.02)
    with pytest.raises(LCAError, match="between 1 and half of the 400 steps, got 201"):
        tails(rows, block=201)


@pytest.mark.parametrize("count", [signs_by_parameter, transitions])
def test_a_row_that_was_not_measured_is_refused(count):
    with pytest.raises(NonFiniteError, match="nan"):
        count(np.array([[1.0, 2.0], [np.nan, 1.0]]))
