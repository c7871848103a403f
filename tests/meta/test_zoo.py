"""The kit under test: each wrong subject is refused by the check named for it, each right one passes."""

import pytest

from lca.testing.estimator_checks import ESTIMATOR_CHECKS
from lca.testing.objective_checks import OBJECTIVE_CHECKS
from lca.testing.report import CheckFailure
from tests.meta.right_estimators import RIGHT_ESTIMATORS
from tests.meta.zoo_estimators import WRONG_ESTIMATORS
from tests.meta.zoo_objectives import RIGHT_OBJECTIVES, WRONG_OBJECTIVES

CHECKS = {
    "estimator": {check.name: check for check in ESTIMATOR_CHECKS},
    "objective": {check.name: check for check in OBJECTIVE_CHECKS},
}
WRONG = {"estimator": WRONG_ESTIMATORS, "objective": WRONG_OBJECTIVES}
RIGHT = {"estimator": RIGHT_ESTIMATORS, "objective": RIGHT_OBJECTIVES}


def cases(zoo):
    return [pytest.param(kind, name, id=f"{kind}-{name}") for kind in zoo for name in zoo[kind]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "name"), cases(WRONG))
def test_wrong_ones_are_refused_by_their_check(kind, name, seed):
    wrong = WRONG[kind][name]
    with pytest.raises(CheckFailure):
        CHECKS[kind][wrong.check].run(wrong.make(), seed=seed, shrink=False)


@pytest.mark.parametrize(("kind", "name"), cases(RIGHT))
def test_right_ones_pass_every_check(kind, name):
    subject = RIGHT[kind][name]
    for check in CHECKS[kind].values():
        if check.applies(subject):
            check.run(subject, samples=2)  # many more cases in validation/conformance


@pytest.mark.parametrize("kind", CHECKS)
def test_every_check_has_an_animal_that_only_a_bug_explains(kind):
    named = {wrong.check for wrong in WRONG[kind].values()}
    assert named == set(CHECKS[kind])


@pytest.mark.parametrize("kind", CHECKS)
def test_every_animal_says_what_it_stands_for(kind):
    bugs = [wrong.bug for wrong in WRONG[kind].values()]
    assert all(bugs)
    assert len(set(bugs)) == len(bugs) >= 25
