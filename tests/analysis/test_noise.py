"""Helping tables and tails against hand-computed numbers and closed forms."""

import numpy as np
import pytest

from lca.analysis import helping_table, signs_by_parameter, tails, tails_from_histogram
from lca.errors import LCAError
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
