"""Learning peaks and the tests of synchrony: planted peaks are found; chance gives few small p-values.

Statistical checks have fixed seeds; with random seeds each would have a false-alarm rate of 1e-4.
"""

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy.signal import lfilter

from lca.analysis import count_coincidences, learning_peaks, synchrony_test, synchrony_test_over_runs
from lca.analysis._synchrony import _block_edges, _check_shift
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import EPS64, summed

STEPS, LAYERS, RUNS = 300, 3, 400


def p_values(make, *, top=None, block=None):
    """One p-value per seed, for series of shape (STEPS, LAYERS) from ``make(rng)``."""
    return np.array(
        [
            synchrony_test(
                learning_peaks(make(np.random.default_rng([11, seed])), top=top),
                permutations=199,
                block=block,
                seed=seed,
            ).p_value
            for seed in range(RUNS)
        ]
    )


def white(rng):
    return rng.normal(size=(STEPS, LAYERS))


def autocorrelated(rng):
    return lfilter([1.0], [1.0, -0.9], rng.normal(size=(STEPS + 100, LAYERS)), axis=0)[100:]


def decaying(rng):
    """Independent layers whose allocations all shrink over time, as in a real run."""
    return white(rng) * np.exp(-np.arange(STEPS) / 100)[:, None]


def falling(rng):
    """Independent noise on a common fall, which leaves fewer minima where it is steep."""
    return 0.05 * white(rng) - 3 * np.exp(-np.arange(STEPS) / 30)[:, None]


def rhythmic(rng):
    """Layers with one period, each in its own phase."""
    phase = rng.uniform(0, 2 * np.pi, LAYERS)
    return np.cos(2 * np.pi * np.arange(STEPS)[:, None] / 7.3 + phase) + 0.2 * white(rng)


def test_planted_peaks_are_found():
    rows = np.zeros((12, 2))
    rows[[2, 5, 9], 0] = [-1.0, -3.0, -2.0]
    rows[4, 1] = -1.0
    found = learning_peaks(rows)
    assert [np.flatnonzero(found[:, layer]).tolist() for layer in (0, 1)] == [[2, 5, 9], [4]]
    assert np.flatnonzero(learning_peaks(rows, top=2)[:, 0]).tolist() == [5, 9]


def test_flat_stretches_and_ends_have_no_peak():
    assert not learning_peaks(np.array([-9.0, 0.0, -1.0, -1.0, 0.0, -9.0])).any()


def test_of_equal_peaks_the_earlier_ones_are_kept():
    assert np.flatnonzero(learning_peaks(np.array([0, -1, 0, -1, 0, -1, 0.0]), top=2)).tolist() == [1, 3]


def test_peaks_do_not_depend_on_the_scale_of_a_layer():
    rows = white(np.random.default_rng(0))
    np.testing.assert_array_equal(learning_peaks(rows * [1.0, 1e-6, 1e6]), learning_peaks(rows))


def test_each_class_is_a_separate_series():
    rows = np.random.default_rng(0).normal(size=(50, 2, 3))
    for c in range(3):
        np.testing.assert_array_equal(
            learning_peaks(rows, top=5)[..., c], learning_peaks(rows[..., c], top=5)
        )


def rotated(peaks, shifts):
    return np.stack([np.roll(layer, shift) for layer, shift in zip(peaks.T, shifts, strict=True)], axis=1)


def moved(peaks, shifts, longest):
    """Each layer moved by its shift, at the steps that every shift fills; the ends are no peaks."""
    steps = range(1 + longest, len(peaks) - 1 - longest)
    return np.array([[peaks[t + s, layer] for layer, s in enumerate(shifts)] for t in steps])


def share_reached(surrogates, observed):
    return np.mean([count_coincidences(one) >= observed for one in surrogates])


def assert_p_value(seen, exact, tries):
    assert 0.02 < exact < 0.98
    assert abs(seen - exact) < 4 * math.sqrt(exact * (1 - exact) / tries)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_p_value_is_that_of_all_shifts(layers):
    peaks = learning_peaks(np.random.default_rng(8).normal(size=(30, layers)))
    shifts, tries = list(product(range(-3, 4), repeat=layers)), 40_000
    everything = [moved(peaks, chosen, 3) for chosen in shifts]
    observed = count_coincidences(moved(peaks, (0,) * layers, 3))
    test = synchrony_test(peaks, max_shift=3, permutations=tries)
    assert test.coincidences == observed
    assert_p_value(test.p_value, share_reached(everything, observed), tries)
    mean = np.mean([count_coincidences(one) for one in everything])
    assert test.expected == pytest.approx(mean, rel=summed(len(shifts), EPS64))


def test_the_p_value_is_that_of_all_rotations():
    """Four layers of seven steps have 7³ relative rotations, few enough to enumerate."""
    peaks = np.random.default_rng(1).random((7, 4)) < 0.4
    everything = [rotated(peaks, (0, *shifts)) for shifts in product(range(7), repeat=3)]
    exact, tries = share_reached(everything, count_coincidences(peaks)), 100_000
    assert_p_value(synchrony_test(peaks, permutations=tries, block=7).p_value, exact, tries)


def test_the_first_and_the_last_step_are_no_peaks_and_stay_where_they_are():
    peaks = learning_peaks(np.random.default_rng(3).normal(size=(22, 2)))
    everything = [rotated(peaks[1:-1], (0, shift)) for shift in range(20)]
    test = synchrony_test(peaks, permutations=9, block=20)
    mean = np.mean([count_coincidences(one) for one in everything])
    assert test.expected == pytest.approx(mean, rel=summed(20, EPS64))


def test_expected_is_the_product_of_the_rates_within_each_block():
    peaks = np.zeros((10, 2), dtype=bool)
    peaks[[0, 3, 7], 0] = True
    peaks[[2, 6, 8], 1] = True
    assert synchrony_test(peaks, permutations=9, block=10).expected == pytest.approx(3 * 3 / 10)
    assert synchrony_test(peaks, permutations=9, block=5).expected == pytest.approx(2 * 1 / 5 + 1 * 2 / 5)
    assert _block_edges(11, 5) == [0, 5, 11]  # the remainder is merged with the last block


def test_few_layers_are_shifted_further():
    assert [_check_shift(None, 300, layers) for layers in (2, 3, 4, 5, 50)] == [50, 16, 5, 3, 2]
    assert [_check_shift(None, steps, 5) for steps in (5, 12, 23, 24)] == [1, 2, 3, 3]


@pytest.mark.parametrize("make", [white, autocorrelated, decaying, falling, rhythmic])
@pytest.mark.parametrize("top", [None, 20])
def test_independent_layers_give_few_small_p_values(make, top):
    seen = p_values(make, top=top)
    assert np.mean(seen <= 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / RUNS)
    assert np.mean(seen <= 0.5) > 0.3  # not by being useless


def test_rotations_mistake_a_common_trend_for_synchrony():
    """The limitation stated in docs/analysis.md."""
    assert np.mean(p_values(decaying, top=20, block=STEPS - 2) <= 0.05) > 0.3


@pytest.mark.parametrize("options", [{}, {"block": 50}])
def test_common_peaks_are_detected(options):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(STEPS, 5))
    common = rng.choice(np.arange(1, STEPS - 1), size=20, replace=False)
    rows[common] -= 10
    test = synchrony_test(learning_peaks(rows, top=20), **options)
    assert test.p_value < 0.001
    assert test.ratio > 4


def test_the_p_value_over_runs_is_that_of_all_permutations():
    peaks = np.stack([learning_peaks(white(np.random.default_rng(seed))[:25]) for seed in range(3)])
    orders = list(permutations(range(3)))
    everything = [
        sum(
            count_coincidences(np.stack([peaks[i, :, 0], peaks[j, :, 1], peaks[k, :, 2]], axis=1))
            for i, j, k in zip(range(3), second, third, strict=True)
        )
        for second, third in product(orders, repeat=2)
    ]
    observed = sum(map(count_coincidences, peaks))
    test = synchrony_test_over_runs(peaks, permutations=40_000)
    assert test.coincidences == observed
    assert_p_value(test.p_value, np.mean(np.array(everything) >= observed), 40_000)
    assert test.expected == pytest.approx(np.mean(everything), rel=summed(36, EPS64))


def test_what_all_runs_have_in_common_is_no_synchrony_over_runs():
    """Peaks at the same steps of every run, as by the order of batches: exactly as many as expected."""
    one = learning_peaks(
        white(np.random.default_rng(0)) + 3 * np.random.default_rng(1).normal(size=(STEPS, 1))
    )
    assert synchrony_test(one).p_value < 0.001
    test = synchrony_test_over_runs(np.stack([one] * 4))
    assert test.p_value == 1.0
    assert test.ratio == pytest.approx(1.0, rel=summed(STEPS, EPS64))


def test_classes_are_paired_only_with_themselves_and_shifted_together():
    rng = np.random.default_rng(1)
    per_class = rng.normal(size=(STEPS, 1, 5)) + 0.5 * rng.normal(size=(STEPS, LAYERS, 5))
    assert synchrony_test(learning_peaks(per_class)).p_value < 0.001
    # Classes that peak together within independent layers are no synchrony of layers.
    within = np.repeat(rng.normal(size=(STEPS, LAYERS, 1)), 5, axis=2)
    test, alone = synchrony_test(learning_peaks(within)), synchrony_test(learning_peaks(within[..., 0]))
    assert test.coincidences == 5 * alone.coincidences
    assert test.p_value == alone.p_value  # five equal copies are not more evidence than one


def test_the_chunk_size_does_not_change_the_draws(monkeypatch):
    peaks = learning_peaks(white(np.random.default_rng(5)))
    whole = synchrony_test(peaks, permutations=999)
    assert synchrony_test(peaks, permutations=999) == whole  # same seed, same answer
    assert synchrony_test(peaks, permutations=999, seed=1) != whole
    monkeypatch.setattr("lca.analysis._synchrony.CHUNK", 100 * STEPS)
    assert synchrony_test(peaks, permutations=999).p_value == whole.p_value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learning_peaks(np.zeros((2, 3))), "at least 3 rows, got 2"),
        (lambda: learning_peaks(np.zeros((4, 3)), top=0), "top must be at least 1"),
        (lambda: synchrony_test(np.zeros((9, 2))), "booleans of shape .* from learning_peaks, got float64"),
        (lambda: synchrony_test(np.zeros((9, 2), bool)), "at least two layers with a peak, got 0"),
        (lambda: synchrony_test(np.eye(9, dtype=bool)[:, :1]), "got 1"),
        (lambda: synchrony_test(np.eye(9, dtype=bool), permutations=0), "permutations must be at least 1"),
        (
            lambda: synchrony_test(np.eye(9, dtype=bool), block=10),
            "between 2 and 9, the number of steps that can be peaks, got 10",
        ),
        (lambda: synchrony_test(np.eye(9, dtype=bool), max_shift=5), "max_shift must lie between 1 and 4"),
        (lambda: synchrony_test(np.eye(9, dtype=bool), max_shift=2, block=3), "pass one of them"),
        (lambda: synchrony_test_over_runs(np.eye(9, dtype=bool)), r"\(runs, steps, layers\)"),
        (lambda: synchrony_test_over_runs(np.eye(9, dtype=bool)[None]), "at least two runs"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(LCAError, match=message):
        call()


def test_a_step_that_was_not_measured_is_refused():
    rows = np.zeros((5, 2))
    rows[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="nan in row 3; drop the steps"):
        learning_peaks(rows)
