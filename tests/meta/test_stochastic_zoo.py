"""The statistical checks let pass what is right at full power, and see more with more samples."""

import pytest

from lca.testing.report import CheckFailure
from lca.testing.stochastic_checks import STOCHASTIC_CHECKS
from tests.meta.zoo_stochastic import RIGHT_STOCHASTIC, TwoPercentLow

CHECKS = {check.name: check for check in STOCHASTIC_CHECKS}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("check", STOCHASTIC_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("estimator", RIGHT_STOCHASTIC.values(), ids=list(RIGHT_STOCHASTIC))
def test_right_ones_pass(estimator, check, seed):
    check.run(estimator, seed=seed)


def test_a_small_bias_is_found_with_more_samples():
    check = CHECKS["mean_is_the_full_data_allocation"]
    check.run(TwoPercentLow(), samples=5)
    with pytest.raises(CheckFailure, match="standard errors from 0"):
        check.run(TwoPercentLow(), samples=100)
