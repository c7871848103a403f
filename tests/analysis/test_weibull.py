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
    assert seen.distance < 1.6 / math.sqrt(seen.count)


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
            "shape .208,. and block=5",
        ),
        (lambda: fit_weibull_histogram(EDGES[:9], np.ones((3, 8)), block=2), "at least two blocks"),
        (lambda: fit_weibull_histogram(np.logspace(0, 4, 9), 2.0 ** np.arange(8, 0, -1)), "a power law"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()
