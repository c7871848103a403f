"""The Weibull fit recovers planted parameters, and its errors match the spread of repeated draws.

Statistical checks have fixed seeds and limits at four standard errors (false-alarm rate 6e-5 each).
"""

import math

import numpy as np
import pytest
from scipy.stats import weibull_min

from lca.analysis import fit_weibull, fit_weibull_histogram
from lca.errors import LCAError

EDGES = np.logspace(-24, 2, 26 * 8 + 1)  # those of LogHistogram
BRENT = 1e-11  # ten times the tolerance of the root in ln k
PLANTED = [(0.4, 1e-6), (0.6, 1e-3), (1.0, 1.0), (2.5, 1e-2)]


def draws(shape, scale, count, seed):
    return scale * np.random.default_rng([5, seed]).weibull(shape, size=count)


def counts(values, edges=EDGES):
    return np.histogram(values, edges)[0]


@pytest.mark.parametrize(("shape", "scale"), PLANTED)
@pytest.mark.parametrize("fit", [fit_weibull, lambda v: fit_weibull_histogram(EDGES, counts(v))])
def test_a_planted_weibull_is_recovered_within_its_errors(fit, shape, scale):
    seen = fit(draws(shape, scale, 20_000, seed=0))
    assert abs(seen.shape - shape) < 4 * seen.shape_stderr < 0.05 * shape
    assert abs(seen.scale - scale) < 4 * seen.scale_stderr < 0.15 * scale
    assert seen.distance < 1.2 * seen.distance_limit


def test_the_fit_equals_that_of_scipy():
    values = draws(0.6, 1e-3, 5_000, seed=1)
    shape, _, scale = weibull_min.fit(values, floc=0)
    seen = fit_weibull(-values)  # of either sign
    assert seen.shape == pytest.approx(shape, rel=1e-4)  # scipy's simplex search stops there
    assert seen.scale == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("fit", [fit_weibull, lambda v: fit_weibull_histogram(EDGES, counts(v))])
def test_errors_match_the_spread_of_repeated_draws(fit):
    fits = [fit(draws(0.6, 1e-3, 1_000, seed)) for seed in range(300)]
    for value, error in (("shape", "shape_stderr"), ("scale", "scale_stderr")):
        spread = np.std([getattr(f, value) for f in fits], ddof=1)
        stated = np.mean([getattr(f, error) for f in fits])
        assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 300))


def test_closed_form_errors_are_the_limit_of_fine_bins():
    values = draws(0.6, 1e-3, 50_000, seed=4)
    edges = np.logspace(-14, 0, 14 * 200 + 1)
    plain, binned = fit_weibull(values), fit_weibull_histogram(edges, counts(values, edges))
    assert binned.shape_stderr == pytest.approx(plain.shape_stderr, rel=0.005)
    assert binned.scale_stderr == pytest.approx(plain.scale_stderr, rel=0.005)


def test_bins_that_miss_both_tails_do_not_bias_the_fit():
    values = draws(0.6, 1e-3, 50_000, seed=2)
    edges = np.logspace(-4, -2, 17)
    seen = fit_weibull_histogram(edges, counts(values, edges))
    assert seen.count < 40_000
    assert abs(seen.shape - 0.6) < 4 * seen.shape_stderr
    assert abs(seen.scale - 1e-3) < 4 * seen.scale_stderr


def test_errors_between_blocks_agree_when_steps_are_independent():
    rows = np.array([counts(draws(0.6, 1e-3, 100, seed)) for seed in range(400)])
    whole, blocks = fit_weibull_histogram(EDGES, rows), fit_weibull_histogram(EDGES, rows, block=5)
    assert (whole.shape, whole.scale) == (blocks.shape, blocks.scale)
    assert blocks.shape_stderr == pytest.approx(whole.shape_stderr, rel=4 / math.sqrt(2 * 80))


def dependent_rows(seed):
    """Every ten steps share a random scale, so the entries are far from independent."""
    rng = np.random.default_rng([6, seed])
    scales = np.repeat(np.exp(0.3 * rng.normal(size=40)), 10)
    return np.array([counts(scale * rng.weibull(0.6, size=50)) for scale in scales])


def test_errors_between_blocks_are_right_for_dependent_steps():
    seen = [fit_weibull_histogram(EDGES, dependent_rows(seed), block=10) for seed in range(200)]
    naive = [fit_weibull_histogram(EDGES, dependent_rows(seed)).scale_stderr for seed in range(20)]
    spread = np.std([f.scale for f in seen], ddof=1)
    assert np.mean([f.scale_stderr for f in seen]) == pytest.approx(spread, rel=4 / math.sqrt(2 * 200))
    assert np.mean(naive) < 0.7 * spread  # assuming independence underestimates the errors


def mixture_rows(seed, steps=100):
    """Entries of two widely different scales in every step: independent, but no Weibull distribution."""
    rng = np.random.default_rng([8, seed])
    scales = np.where(rng.random((steps, 50)) < 0.5, 1.0, 1e-3)
    return np.array([counts(row) for row in scales * rng.weibull(1.5, size=scales.shape)])


def test_errors_between_blocks_are_right_for_another_distribution():
    seen = [fit_weibull_histogram(EDGES, mixture_rows(seed), block=1) for seed in range(300)]
    for value, error in (("shape", "shape_stderr"), ("scale", "scale_stderr")):
        spread = np.std([getattr(f, value) for f in seen], ddof=1)
        stated = np.mean([getattr(f, error) for f in seen])
        assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 300))


def test_one_sample_in_twenty_is_farther_than_the_limit():
    beyond = []
    for seed in range(600):
        found = fit_weibull(draws(0.6, 1e-3, 300, seed))
        beyond.append(found.distance > found.distance_limit)
    assert abs(np.mean(beyond) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 600)


def test_the_limit_finds_that_a_gamma_distribution_is_no_weibull():
    fits = [fit_weibull(np.random.default_rng(seed).gamma(3.0, size=5_000)) for seed in range(40)]
    assert all(fit.distance > fit.distance_limit for fit in fits)


@pytest.mark.parametrize("values", [[1e-300, 1e300], [1.0, 1.0 + 1e-15], [1.0] * 10_000 + [1e-12]])
def test_extreme_spreads_are_fitted(values):
    found = fit_weibull(np.array(values))
    assert found.shape > 0
    assert found.scale > 0


def test_the_distance_reveals_data_that_are_not_weibull():
    values = np.exp(np.random.default_rng(0).normal(size=20_000))
    assert fit_weibull(values).distance > 0.03
    assert fit_weibull_histogram(EDGES, counts(values)).distance > 0.03


def test_units_change_only_the_scale():
    values = draws(0.6, 1.0, 1_000, seed=3)
    plain, tiny = fit_weibull(values), fit_weibull(1e-200 * values)
    assert tiny.shape == pytest.approx(plain.shape, rel=BRENT)
    assert tiny.scale == pytest.approx(1e-200 * plain.scale, rel=BRENT / plain.shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_weibull(np.zeros(4)), "at least two different magnitudes"),
        (lambda: fit_weibull(np.ones(4)), "at least two different magnitudes"),
        (lambda: fit_weibull_histogram([1, 2, 3], [5, 5]), "at least three filled bins"),
        (
            lambda: fit_weibull_histogram(EDGES, counts(draws(1, 1, 99, 0)), block=5),
            r"block needs counts of shape \(steps, bins\), got shape \(208,\)",
        ),
        (
            lambda: fit_weibull_histogram(EDGES[:9], np.ones((3, 8)), block=2),
            "block must lie between 1 and half of the 3 steps, got 2",
        ),
        (lambda: fit_weibull_histogram(np.logspace(0, 4, 9), 2.0 ** np.arange(8, 0, -1)), "a power law"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()
