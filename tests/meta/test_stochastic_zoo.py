"""The statistical checks accept correct estimators, and detect smaller errors with more samples."""

import pytest

from lca.testing import CheckFailure
from lca.testing._stochastic_checks import STOCHASTIC_CHECKS
from tests.meta.zoo_stochastic import RIGHT_STOCHASTIC, TwoPercentLow

CHECKS = {check.name: check for check in STOCHASTIC_CHECKS}


PAIRS = [
    pytest.param(estimator, check, id=f"{check.name}-{name}")
    for name, estimator in RIGHT_STOCHASTIC.items()
    for check in STOCHASTIC_CHECKS
    if check.applies(estimator)
]


@pytest.mark.parametrize(("estimator", "check"), PAIRS)
def test_right_ones_pass(estimator, check):
    for seed in range(2):
        check.run(estimator, seed=seed)


def test_a_small_bias_is_found_with_more_samples():
    check = CHECKS["mean_is_the_full_data_allocation"]
    check.run(TwoPercentLow(), samples=5)
    with pytest.raises(CheckFailure, match="standard errors from 0"):
        check.run(TwoPercentLow(), samples=100)
