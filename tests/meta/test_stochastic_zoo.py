"""The statistical checks refuse what is wrong, let pass what is right, and see more with more samples."""

import pytest

from lca.testing.report import CheckFailure
from lca.testing.stochastic_checks import STOCHASTIC_CHECKS
from tests.meta.zoo_stochastic import RIGHT, WRONG, TwoPercentLow

CHECKS = {check.name: check for check in STOCHASTIC_CHECKS}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("estimator", WRONG, ids=lambda estimator: type(estimator).__name__)
def test_wrong_ones_are_refused_by_their_check(estimator, seed):
    with pytest.raises(CheckFailure):
        CHECKS[WRONG[estimator]].run(estimator, seed=seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("check", STOCHASTIC_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("estimator", RIGHT, ids=repr)
def test_right_ones_pass(estimator, check, seed):
    check.run(estimator, seed=seed)


def test_a_small_bias_is_found_with_more_samples():
    check = CHECKS["mean_is_the_full_data_allocation"]
    check.run(TwoPercentLow(), samples=5)
    with pytest.raises(CheckFailure, match="standard errors from 0"):
        check.run(TwoPercentLow(), samples=100)
