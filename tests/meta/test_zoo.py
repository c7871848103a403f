"""The kit under test: the named check rejects each incorrect subject, and correct ones pass every check."""

import pytest

from lca.testing import CheckFailure
from lca.testing._stochastic_checks import STOCHASTIC_CHECKS
from tests.meta.zoo import ZOO
from tests.meta.zoo_rare import NAMED
from tests.meta.zoo_stochastic import RIGHT_STOCHASTIC

# Tested in tests/test_backend_conformance.py, because it needs an installed package.
ELSEWHERE = {"loads_no_other_framework"}
# Take long, and are tested with more cases and models in tests/lca_torch and tests/lca_tensorflow.
WHOLE_BACKENDS = {("backends", "torch"), ("backends", "tensorflow"), ("objectives", "tensorflow backend")}
# The same cases are those of tests/estimators/test_registry.py.
REGISTERED = {(title, name) for title in ("estimators", "stochastic estimators") for name in NAMED}
# The first nearly always refuses; another version of hypothesis draws other cases. Each of 20 must refuse in
# validation/conformance.
SEEDS = 3
ESTIMATORS = ("estimators", "stochastic estimators")


def cases(which):
    return [
        pytest.param(kind, name, id=f"{title}-{name}")
        for title, kind in ZOO.items()
        for name in getattr(kind, which)
        if (title, name) not in WHOLE_BACKENDS | REGISTERED
    ]


def refuses(check, subject, seed):
    try:
        check.run(subject, seed=seed, shrink=False)
    except CheckFailure:
        return True
    return False


@pytest.mark.parametrize(("kind", "name"), cases("wrong"))
def test_wrong_ones_are_refused_by_their_check(kind, name):
    wrong, check = kind.wrong[name], kind.check(kind.wrong[name].check)
    assert check.applies(wrong.make())
    assert any(refuses(check, wrong.make(), seed) for seed in range(SEEDS))


@pytest.mark.parametrize(("kind", "name"), cases("right"))
def test_right_ones_pass_every_check(kind, name):
    subject = kind.right[name]
    # tests/meta/test_stochastic_zoo.py has these with more runs
    elsewhere = STOCHASTIC_CHECKS if name in RIGHT_STOCHASTIC else []
    for check in kind.checks:
        if check not in elsewhere and check.applies(subject):
            check.run(subject, samples=1)  # many more cases in validation/conformance


@pytest.mark.parametrize("title", ZOO)
def test_every_check_rejects_a_subject_named_for_it(title):
    kind = ZOO[title]
    named = {wrong.check for wrong in kind.wrong.values()}
    if "estimators" in title:  # both kinds are checked by one list
        named = {wrong.check for other in ESTIMATORS for wrong in ZOO[other].wrong.values()}
    assert named == {check.name for check in kind.checks} - ELSEWHERE


def test_every_check_of_an_estimator_says_to_which_it_applies():
    silent = {check.name for check in ZOO["estimators"].checks if not check.condition}
    assert silent == {"declarations_are_complete"}, "all others do not apply to some estimators"


@pytest.mark.parametrize("kind", ZOO.values(), ids=list(ZOO))
def test_every_incorrect_subject_has_a_description_of_its_own(kind):
    bugs = [wrong.bug for wrong in kind.wrong.values()]
    assert all(bugs)
    assert len(set(bugs)) == len(bugs) > 0


def test_the_zoo_has_enough_subjects():
    assert all(len(ZOO[title].wrong) >= 25 for title in ("estimators", "objectives"))
