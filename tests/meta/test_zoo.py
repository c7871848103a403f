"""The kit under test: each wrong subject is refused by the check named for it, each right one passes."""

import pytest

from lca.testing.report import CheckFailure
from tests.meta.zoo import ZOO

# Seen by a test of its own, in tests/test_backend_conformance.py: it takes an installed package.
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
def test_every_check_has_an_animal_that_only_a_bug_explains(kind):
    named = {wrong.check for wrong in kind.wrong.values()}
    assert named == {check.name for check in kind.checks} - ELSEWHERE


@pytest.mark.parametrize("kind", ZOO.values(), ids=list(ZOO))
def test_every_animal_says_what_it_stands_for(kind):
    bugs = [wrong.bug for wrong in kind.wrong.values()]
    assert all(bugs)
    assert len(set(bugs)) == len(bugs) > 0


def test_the_zoo_is_large():
    assert all(len(ZOO[title].wrong) >= 25 for title in ("estimators", "objectives"))
