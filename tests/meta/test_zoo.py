"""The kit under test: the named check rejects each incorrect subject, and correct ones pass every check."""

import pytest

from lca.testing import CheckFailure
from tests.meta.zoo import ZOO

# Tested in tests/test_backend_conformance.py, because it needs an installed package.
ELSEWHERE = {"loads_no_other_framework"}


def cases(which):
    return [
        pytest.param(kind, name, id=f"{title}-{name}")
        for title, kind in ZOO.items()
        for name in getattr(kind, which)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "name"), cases("wrong"))
def test_wrong_ones_are_refused_by_their_check(kind, name, seed):
    wrong = kind.wrong[name]
    with pytest.raises(CheckFailure):
        kind.check(wrong.check).run(wrong.make(), seed=seed, shrink=False)


@pytest.mark.parametrize(("kind", "name"), cases("right"))
def test_right_ones_pass_every_check(kind, name):
    subject = kind.right[name]
    for check in kind.checks:
        if check.applies(subject):
            check.run(subject, samples=2)  # many more cases in validation/conformance


@pytest.mark.parametrize("kind", ZOO.values(), ids=list(ZOO))
def test_every_check_rejects_a_subject_named_for_it(kind):
    named = {wrong.check for wrong in kind.wrong.values()}
    assert named == {check.name for check in kind.checks} - ELSEWHERE


@pytest.mark.parametrize("kind", ZOO.values(), ids=list(ZOO))
def test_every_incorrect_subject_has_a_description_of_its_own(kind):
    bugs = [wrong.bug for wrong in kind.wrong.values()]
    assert all(bugs)
    assert len(set(bugs)) == len(bugs) > 0


def test_the_zoo_has_enough_subjects():
    assert all(len(ZOO[title].wrong) >= 25 for title in ("estimators", "objectives"))
