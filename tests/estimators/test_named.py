"""Estimators by name: each name gives what it says, and takes the tolerance."""

import pytest

from lca import BOOLE, LEFT, MIDPOINT, RIGHT, SIMPSON, TRAPEZOID, Adaptive, LCAError, PathIntegral
from lca.errors import UnknownNameError
from lca.estimators.named import ESTIMATORS, make_estimator

PLAIN = {
    "left": LEFT,
    "right": RIGHT,
    "midpoint": MIDPOINT,
    "trapezoid": TRAPEZOID,
    "simpson": SIMPSON,
    "rk4": SIMPSON,
    "boole": BOOLE,
}


@pytest.mark.parametrize(("name", "rule"), PLAIN.items())
def test_a_rule_by_its_name(name, rule):
    assert make_estimator(name, tol=0.5) == PathIntegral(rule, tol=0.5)


@pytest.mark.parametrize(("family", "sizes"), [("gauss", (2, 3, 4, 5)), ("lobatto", (4, 5, 6))])
def test_families_end_in_their_number_of_nodes(family, sizes):
    for n in sizes:
        assert len(make_estimator(f"{family}{n}").rule.nodes) == n


def test_adaptive_takes_the_tolerance():
    assert make_estimator("adaptive", tol=0.5) == Adaptive(tol=0.5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_listed_name_is_known_and_checks_its_tolerance(name):
    make_estimator(name)
    with pytest.raises(LCAError, match="tol must be positive"):
        make_estimator(name, tol=-1.0)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown estimator 'rk5'; known: .*adaptive.*rk4.*trapezoid"):
        make_estimator("rk5")
