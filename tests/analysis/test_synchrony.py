"""Learning peaks and the circular-shift test: planted peaks are found; chance gives uniform p-values.

Statistical checks have fixed seeds; with random seeds each would have a false-alarm rate of 1e-4.
"""

import math
from itertools import product

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import kstest

from lca.analysis import count_coincidences, learning_peaks, synchrony_test
from lca.analysis._synchrony import _block_edges, _coincidences_by_shift
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import EPS64, summed

FALSE_ALARM = 1e-4
STEPS, LAYERS, RUNS = 300, 3, 400


def p_values(make, *, top=None, block=None):
    """One p-value per seed, for series of shape (STEPS, LAYERS) from ``make(rng)``."""
    return np.array(
        [
            synchrony_test(
                learning_peaks(make(np.random.default_rng([11, seed])), top=top),
                permutations=499,
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


def slow_coincidences_by_shift(peaks):
    """The direct computation: roll and count."""
    steps, layers, _ = peaks.shape
    return [
        [int((peaks[:, one] & np.roll(peaks[:, other], -s, axis=0)).sum()) for s in range(steps)]
        for one in range(layers)
        for other in range(one + 1, layers)
    ]


def test_table_of_shifts_equals_the_direct_computation():
    peaks = np.random.default_rng(3).random((17, 4, 2)) < 0.4
    np.testing.assert_array_equal(_coincidences_by_shift(peaks), slow_coincidences_by_shift(peaks))


def test_coincidences_from_the_table_equal_those_of_rotated_layers():
    rng = np.random.default_rng(4)
    peaks = rng.random((13, 3, 2)) < 0.4
    table = _coincidences_by_shift(peaks)
    for shifts in rng.integers(13, size=(20, 3)):
        rolled = np.stack([np.roll(peaks[:, layer], shifts[layer], axis=0) for layer in range(3)], axis=1)
        pairs = [(0, 1), (0, 2), (1, 2)]
        looked_up = sum(table[row, (shifts[a] - shifts[b]) % 13] for row, (a, b) in enumerate(pairs))
        assert looked_up == count_coincidences(rolled)


def test_the_p_value_of_two_layers_is_that_of_all_shifts():
    """With two layers only the relative shift counts, so the exact p-value is a mean over T of them."""
    peaks = learning_peaks(np.random.default_rng(8).normal(size=(60, 2)))
    table = np.array(slow_coincidences_by_shift(peaks[..., None])[0])
    exact, tries = np.mean(table >= count_coincidences(peaks)), 40_000
    test = synchrony_test(peaks, permutations=tries)
    assert abs(test.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / tries)
    assert test.expected == pytest.approx(table.mean(), rel=summed(60, EPS64))


def test_the_p_value_is_that_of_all_rotations():
    """Four layers of seven steps have 7³ relative rotations, few enough to enumerate."""
    peaks = np.random.default_rng(1).random((7, 4)) < 0.4
    everything = [
        count_coincidences(np.stack([peaks[:, 0], *map(np.roll, peaks.T[1:], shifts)], axis=1))
        for shifts in product(range(7), repeat=3)
    ]
    exact, tries = np.mean(np.array(everything) >= count_coincidences(peaks)), 100_000
    assert 0.1 < exact < 0.9
    seen = synchrony_test(peaks, permutations=tries).p_value
    assert abs(seen - exact) < 4 * math.sqrt(exact * (1 - exact) / tries)


def test_expected_is_the_product_of_the_rates_within_each_block():
    peaks = np.zeros((10, 2), dtype=bool)
    peaks[[1, 3, 7], 0] = True
    peaks[[2, 6, 8], 1] = True
    assert synchrony_test(peaks, permutations=9).expected == pytest.approx(3 * 3 / 10)
    assert synchrony_test(peaks, permutations=9, block=5).expected == pytest.approx(2 * 1 / 5 + 1 * 2 / 5)
    assert _block_edges(11, 5) == [0, 5, 11]  # the remainder is merged with the last block


@pytest.mark.parametrize("make", [white, autocorrelated])
def test_independent_layers_give_uniform_p_values(make):
    seen = p_values(make)
    assert kstest(seen, "uniform").pvalue > FALSE_ALARM
    assert np.mean(seen <= 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / RUNS)


def test_a_common_decay_is_mistaken_for_synchrony_unless_shifts_stay_within_blocks():
    """The limitation stated in docs/analysis.md, and its remedy."""
    assert np.mean(p_values(decaying, top=20) <= 0.05) > 0.3
    in_blocks = p_values(decaying, top=20, block=30)
    assert kstest(in_blocks, "uniform").pvalue > FALSE_ALARM
    assert np.mean(in_blocks <= 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / RUNS)


def test_all_minima_are_robust_to_a_common_decay():
    assert kstest(p_values(decaying), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("block", [None, 50])
def test_common_peaks_are_detected(block):
    rng = np.random.default_rng(0)
    rows = white(rng)
    common = rng.choice(np.arange(1, STEPS - 1), size=20, replace=False)
    rows[common] -= 10
    test = synchrony_test(learning_peaks(rows, top=20), block=block)
    assert test.p_value == 1 / (1 + test.permutations)
    assert test.ratio > 5


def test_classes_are_paired_only_with_themselves_and_shifted_together():
    rng = np.random.default_rng(1)
    per_class = rng.normal(size=(STEPS, 1, 5)) + 0.5 * rng.normal(size=(STEPS, LAYERS, 5))
    assert synchrony_test(learning_peaks(per_class)).p_value == 1e-4
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
    monkeypatch.setattr("lca.analysis._synchrony.CHUNK", 100)
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
            "between 2 and 9, the number of steps, got 10",
        ),
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
