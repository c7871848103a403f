"""Quadrature rules: moments in exact fractions, textbook forms, observed order, and every refusal."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from scipy.special import roots_legendre

from lca import BOOLE, LEFT, MIDPOINT, RIGHT, RK4, SIMPSON, TRAPEZOID, tolerances
from lca.errors import RuleError
from lca.quadrature import RULES, QuadratureRule, composite, gauss_legendre, gauss_lobatto
from lca.testing.strategies import rules

PLAIN = [LEFT, RIGHT, MIDPOINT, TRAPEZOID, SIMPSON, BOOLE]
COUNTS = [
    (LEFT, 1),
    (RIGHT, 1),
    (MIDPOINT, 1),
    (TRAPEZOID, 1),
    (SIMPSON, 2),
    (BOOLE, 4),
    *[(composite(SIMPSON, n), 2 * n) for n in (1, 2, 5)],
    *[(composite(LEFT, n), n) for n in (2, 3)],
    *[(composite(RIGHT, n), n) for n in (2, 3)],
    *[(composite(MIDPOINT, n), n) for n in (2, 3)],
    *[(gauss_legendre(n), n) for n in (1, 2, 5)],
    *[(gauss_lobatto(n), n - 1) for n in (2, 3, 6)],
]


def moment_error(rule: QuadratureRule, power: int) -> float:
    """``|Σ w c^d - 1/(d+1)|`` without any rounding of its own."""
    pairs = zip(rule.weights, rule.nodes, strict=True)
    moment = sum(Fraction(w) * Fraction(c) ** power for w, c in pairs)
    return abs(float(moment - Fraction(1, power + 1)))


@given(rules())
def test_moments_hold_exactly_up_to_the_degree_and_no_further(rule):
    tolerance = tolerances.moments(sum(map(abs, rule.weights)))
    for power in range(rule.degree + 1):
        assert moment_error(rule, power) <= tolerance
    assert moment_error(rule, rule.degree + 1) > tolerance


@pytest.mark.parametrize("name", RULES)
def test_every_named_rule_declares_its_full_degree_and_describes_itself(name):
    rule = RULES[name]
    tolerance = tolerances.moments(1.0)
    assert max(moment_error(rule, power) for power in range(rule.degree + 1)) <= tolerance
    assert moment_error(rule, rule.degree + 1) > tolerance
    assert rule.description


def test_a_description_is_no_part_of_a_rule():
    assert QuadratureRule("left", (0.0,), (1.0,), 0) == LEFT
    assert "description" not in repr(LEFT)


@pytest.mark.parametrize(
    ("rule", "weights"),
    [(TRAPEZOID, (1, 1)), (SIMPSON, (1, 4, 1)), (BOOLE, (7, 32, 12, 32, 7))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_newton_cotes_weights_are_the_textbook_ones(rule, weights):
    assert rule.weights == tuple(w / sum(weights) for w in weights)
    assert rule.nodes == tuple(k / (len(weights) - 1) for k in range(len(weights)))


def test_rk4_is_simpson():
    assert RK4 is SIMPSON


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_composite_simpson_has_weights_1_4_2_4_1(n):
    inner = [4, 2] * n
    expected = np.array([1, *inner[:-1], 1]) / (6 * n)
    rule = composite(SIMPSON, n)
    assert np.abs(np.array(rule.weights) - expected).max() <= tolerances.moments(1.0)
    assert np.abs(np.array(rule.nodes) - np.arange(2 * n + 1) / (2 * n)).max() <= tolerances.moments(1.0)


def test_composite_of_an_open_rule_merges_nothing():
    assert composite(MIDPOINT, 2).nodes == (0.25, 0.75)
    assert composite(MIDPOINT, 2).weights == (0.5, 0.5)


def test_composite_of_one_panel_is_the_rule_itself():
    assert composite(BOOLE, 1) == BOOLE


@pytest.mark.parametrize("n", range(1, 51))
def test_gauss_legendre_equals_scipy(n):
    nodes, weights = roots_legendre(n)
    rule = gauss_legendre(n)
    assert np.abs(np.array(rule.nodes) - (1 + nodes) / 2).max() <= tolerances.moments(1.0)
    assert np.abs(np.array(rule.weights) - weights / 2).max() <= tolerances.moments(1.0)
    assert rule.degree == 2 * n - 1


LOBATTO_INNER = {
    3: [0.0],
    4: [-1 / math.sqrt(5), 1 / math.sqrt(5)],
    5: [-math.sqrt(3 / 7), 0, math.sqrt(3 / 7)],
}
LOBATTO_WEIGHTS = {
    3: [1 / 6, 4 / 6, 1 / 6],
    4: [1 / 12, 5 / 12, 5 / 12, 1 / 12],
    5: [1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20],
}


@pytest.mark.parametrize("n", [3, 4, 5])
def test_gauss_lobatto_equals_the_closed_forms(n):
    rule = gauss_lobatto(n)
    nodes = (1 + np.array([-1.0, *LOBATTO_INNER[n], 1.0])) / 2
    assert np.abs(np.array(rule.nodes) - nodes).max() <= tolerances.moments(1.0)
    assert np.abs(np.array(rule.weights) - LOBATTO_WEIGHTS[n]).max() <= tolerances.moments(1.0)
    assert rule.degree == 2 * n - 3


@pytest.mark.parametrize("n", [2, 3, 7, 8, 20])
def test_gauss_lobatto_uses_both_ends_and_is_symmetric(n):
    rule = gauss_lobatto(n)
    assert (rule.nodes[0], rule.nodes[-1], len(rule.nodes)) == (0.0, 1.0, n)
    nodes, weights = np.array(rule.nodes), np.array(rule.weights)
    assert np.abs(nodes + nodes[::-1] - 1).max() <= tolerances.moments(1.0)
    assert np.abs(weights - weights[::-1]).max() <= tolerances.moments(1.0)


@pytest.mark.parametrize(
    "rule", [*PLAIN, gauss_legendre(2), gauss_legendre(3), gauss_lobatto(4)], ids=lambda rule: rule.name
)
def test_error_of_a_composite_rule_falls_at_the_declared_order(rule):
    errors = []
    for panels in (4, 8):
        fine = composite(rule, panels)
        integral = sum(w * math.exp(2 * c) for w, c in zip(fine.weights, fine.nodes, strict=True))
        errors.append(abs(integral - (math.exp(2) - 1) / 2))
    assert round(math.log2(errors[0] / errors[1])) == rule.degree + 1


@pytest.mark.parametrize(("rule", "count"), COUNTS, ids=lambda value: getattr(value, "name", ""))
def test_new_gradients_count_a_shared_end_once(rule, count):
    assert rule.new_gradients == count


@given(rules())
def test_a_rule_is_closed_when_it_looks_at_an_end(rule):
    assert rule.closed == bool({0.0, 1.0} & set(rule.nodes))


def test_nodes_and_weights_from_arrays_become_plain_floats():
    rule = QuadratureRule("arrays", np.array([0, 1]), np.array([0.5, 0.5], np.float32), 1)
    assert rule == QuadratureRule("arrays", (0.0, 1.0), (0.5, 0.5), 1)
    assert {type(number) for number in (*rule.nodes, *rule.weights)} == {float}


WRONG_MOMENTS = [
    # captum's trapezoid of five nodes: the inner step is 1/5 where four panels need 1/4
    (("captum", (0.0, 0.25, 0.5, 0.75, 1.0), (0.1, 0.2, 0.2, 0.2, 0.1), 1), 0, "0.(8|79)"),
    (("twice", (0.5,), (2.0,), 0), 0, "2.0"),
    (("lopsided", (0.0, 1.0), (0.25, 0.75), 1), 1, "0.75"),
    (("too proud", (0.0, 1.0), (0.5, 0.5), 2), 2, "0.5"),
    (("not a number", (0.5,), (math.nan,), 0), 0, "nan"),
]


@pytest.mark.parametrize(("rule", "power", "moment"), WRONG_MOMENTS)
def test_a_missed_moment_is_refused_and_named(rule, power, moment):
    name, _, _, degree = rule
    expected = rf"rule '{name}' declares degree {degree} but does not integrate s\^{power}: .* = {moment}"
    with pytest.raises(RuleError, match=expected):
        QuadratureRule(*rule)


def test_the_message_states_the_degree_that_would_hold():
    with pytest.raises(RuleError, match=r"expected 0\.333.*; correct the weights or declare degree 1\."):
        QuadratureRule("too proud", (0.0, 1.0), (0.5, 0.5), 2)


@pytest.mark.parametrize(
    "nodes", [(-0.1, 1.0), (0.0, 1.1), (1.0, 0.0), (0.5, 0.5), (math.nan, 1.0), (0.0, math.nan)]
)
def test_nodes_outside_or_out_of_order_are_refused(nodes):
    with pytest.raises(RuleError, match=r"rule 'odd': nodes must increase strictly within \[0, 1\], got"):
        QuadratureRule("odd", nodes, (0.5, 0.5), 0)


@pytest.mark.parametrize(("nodes", "weights"), [((), ()), ((0.0, 1.0), (1.0,)), ((0.5,), (0.5, 0.5))])
def test_a_weight_too_few_or_too_many_is_refused(nodes, weights):
    counts = f"got {len(nodes)} nodes and {len(weights)} weights"
    with pytest.raises(
        RuleError, match=f"rule 'odd' needs one weight a node and at least one node, {counts}"
    ):
        QuadratureRule("odd", nodes, weights, 0)


@pytest.mark.parametrize("degree", [-1, 0.5])
def test_a_degree_that_would_skip_the_constant_is_refused(degree):
    with pytest.raises(RuleError, match=f"rule 'odd': the degree must be a whole number ≥ 0, got {degree}"):
        QuadratureRule("odd", (0.5,), (2.0,), degree)


def test_weights_that_miss_the_constant_are_not_excused_by_a_lower_degree():
    with pytest.raises(RuleError, match=r"s\^0: .*; the weights must sum to 1\."):
        QuadratureRule("twice", (0.5,), (2.0,), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gauss_legendre(0), "Gauss-Legendre rule needs n ≥ 1 nodes, got 0"),
        (lambda: gauss_lobatto(1), r"Gauss-Lobatto rule needs n ≥ 2 nodes \(both ends\), got 1"),
        (lambda: composite(SIMPSON, 0), "composite rule needs n ≥ 1 panels, got 0"),
    ],
)
def test_too_few_nodes_or_panels_are_refused(make, message):
    with pytest.raises(RuleError, match=message):
        make()
