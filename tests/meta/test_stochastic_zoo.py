"""The statistical checks accept correct estimators, and detect smaller errors with more samples."""

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np
import pytest

from lca.testing import CheckFailure, ConformanceError, check_estimator
from lca.testing._sampled_runs import kit_rng
from lca.testing._stochastic_checks import STOCHASTIC_CHECKS
from tests.meta.zoo_stochastic import FOUR, RIGHT_STOCHASTIC, Changed, Leaking, RandomPoints

CHECKS = {check.name: check for check in STOCHASTIC_CHECKS}


PAIRS = [
    pytest.param(estimator, check, id=f"{check.name}-{name}")
    for name, estimator in RIGHT_STOCHASTIC.items()
    for check in STOCHASTIC_CHECKS
    if check.applies(estimator)
]


@pytest.mark.parametrize(("estimator", "check"), PAIRS)
def test_right_ones_pass(estimator, check):
    check.run(estimator, samples=4)


def test_a_small_bias_is_found_with_more_samples():
    check, small = CHECKS["mean_is_the_full_data_allocation"], Leaking(inner=FOUR, part=0.08)
    check.run(small, samples=5)
    with pytest.raises(CheckFailure, match="standard errors from 0"):
        check.run(small, samples=40)


@dataclass(frozen=True)
class Unseeded(Changed):
    """Draws other numbers in every run, whatever its seed."""

    runs: ClassVar = count()

    def start(self, objective):
        return self.inner.reseeded(1_000 + next(self.runs)).start(objective)


def test_numbers_without_a_seed_are_named_before_what_follows_from_them():
    checks = ("other_fields_change_nothing", "same_seed_same_values")
    report = check_estimator(Unseeded(inner=RandomPoints()), samples=2, only=checks, on_fail=None)
    assert [r.check.name for r in report.failed] == list(checks)
    with pytest.raises(
        ConformanceError, match="failed: same_seed_same_values, other_fields_change_nothing. Mend"
    ):
        report.raise_if_failed()
    assert "draws numbers that do not follow from its seed" in str(report)


def test_a_biased_mean_is_told_in_parts_of_the_value():
    with pytest.raises(CheckFailure, match=r"[+-]\d+% of .* standard errors from 0"):
        CHECKS["mean_is_the_full_data_allocation"].run(Leaking(inner=FOUR, part=2.0), samples=10)


def test_a_check_of_a_mean_states_what_it_would_have_found():
    few, many = (CHECKS["mean_is_the_full_data_allocation"].law(FOUR, n, 0) for n in (4, 16))
    assert few.startswith("40 runs; finds a bias of")
    assert few.endswith("with a probability of 99%; false alarms 1e-06")

    def found(text):
        return float(text.split("bias of ")[1].split()[0])

    assert 1.5 < found(few) / found(many) < 3  # four times the runs, half the bias


def test_no_stream_of_the_kit_is_that_of_an_estimator_with_the_same_seed():
    """An estimator that draws by ``default_rng(seed)`` must not repeat the training batches of the kit."""
    kit, estimator = kit_rng(0, 1, 0).random(8), np.random.default_rng(0).random(8)
    assert not np.isin(kit, estimator).any()


def test_error_bars_are_checked_only_where_there_are_some():
    bars = ("standard_errors_are_calibrated", "standard_errors_of_sums_are_calibrated")
    applied = {
        name: [CHECKS[check].applies(RIGHT_STOCHASTIC[name]) for check in bars]
        for name in ("probe", "four micro-batches", "probe, one sample")
    }
    assert applied == {
        "probe": [True, True],
        "four micro-batches": [True, False],
        "probe, one sample": [False, False],
    }
