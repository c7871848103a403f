"""`PathIntegral`: against `scipy.integrate.quad` and a slow loop, with its costs, flags and conventions."""

import tracemalloc
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from lca import LEFT, MIDPOINT, RIGHT, SIMPSON, TRAPEZOID, Adaptive, Cost, PathIntegral, Trajectory, allocate
from lca.errors import LCAError
from lca.layout import Layout
from lca.quadrature import QuadratureRule, composite, gauss_legendre
from lca.reference import Batch, DatasetLoss, L2Penalty, Quartic, bowl, mlp
from lca.testing import problems, tolerances
from lca.testing._instruments import CountingObjective
from lca.testing.strategies import rules, seeds, smooth_problems

Array = np.ndarray


def run(objective, points: Array, estimator) -> list:
    return list(allocate(objective, Trajectory(points), estimator, check=False))


def quad_allocation(objective, start: Array, end: Array, cuts: list[float]) -> tuple[Array, float]:
    """``Δ_i ∫ ∂_i L`` by Gauss-Kronrod between ``cuts``, parameter by parameter, and its tolerance."""
    delta = end - start
    slope = cache(lambda s: delta * objective.loss_and_grad(start + s * delta)[1])
    mass = max(float(np.abs(slope(s)).sum()) for s in np.linspace(0, 1, 17))
    tolerance = tolerances.scipy_quadrature(mass)
    pieces = list(zip([0.0, *cuts], [*cuts, 1.0], strict=True))
    share = tolerance / 4 / len(pieces)
    values = [
        sum(quad(lambda s, i=i: float(slope(s)[i]), a, b, epsabs=share, epsrel=0)[0] for a, b in pieces)
        for i in range(len(delta))
    ]
    return np.array(values), tolerance


# --- an independent oracle -------------------------------------------------------------------------------


@settings(max_examples=5)
@given(seed=seeds)
def test_a_high_order_rule_equals_quad_on_tanh_networks(seed):
    problem = problems.network(seed, sizes=(2, 2, 2), steps=1)
    expected, tolerance = quad_allocation(problem.objective, *problem.points, [])
    [a] = run(problem.objective, problem.points, PathIntegral(gauss_legendre(24)))
    assert np.abs(a.values - expected).max() <= tolerance


@settings(max_examples=5)
@given(seed=seeds)
def test_adaptive_within_its_nested_tolerance_of_quad_on_tanh_networks(seed):
    problem = problems.network(seed, sizes=(2, 2, 2), steps=1)
    expected, tolerance = quad_allocation(problem.objective, *problem.points, [])
    adaptive = Adaptive(tol=1e-7, nested_tol=1e-6, audit=1, max_gradients=2_000)
    [a] = run(problem.objective, problem.points, adaptive)
    assert a.converged
    assert np.abs(a.values - expected).sum() <= 1e-6 * np.abs(expected).sum() + tolerance


def one_hidden_relu_layer(seed: int) -> tuple[DatasetLoss, Array, Array, list[float]]:
    """A small ReLU network, a step, and the places along it where a unit switches on some example.

    The hidden layer's inputs are linear in θ, hence in s, so each switches where a line crosses zero.
    """
    rng = np.random.default_rng(seed)
    batch = Batch(rng.normal(size=(3, 2)), rng.integers(2, size=3))
    model = mlp((2, 2, 2), activation="relu")
    start, end = rng.normal(size=(2, model.layout.size))
    inputs = []
    for theta in (start, end):
        tensors = model.layout.unflatten(theta)
        inputs.append((batch.x @ tensors["fc1.weight"].T + tensors["fc1.bias"]).ravel())
    crossing = inputs[0] * inputs[1] < 0
    kinks = (inputs[0] / (inputs[0] - inputs[1]))[crossing]
    return DatasetLoss(model, batch.x, batch.y), start, end, sorted(kinks.tolist())


@settings(max_examples=4)
@given(seed=seeds)
def test_adaptive_within_its_nested_tolerance_of_quad_on_relu_networks(seed):
    objective, start, end, kinks = one_hidden_relu_layer(seed)
    expected, tolerance = quad_allocation(objective, start, end, kinks)
    adaptive = Adaptive(tol=1e-5, nested_tol=1e-4, audit=1, max_gradients=2_000)
    [a] = run(objective, np.array([start, end]), adaptive)
    assert a.converged
    # Next to a jump the nested difference is 3/4 of the error at least (see `Panel`), so twice bounds it.
    assert np.abs(a.values - expected).sum() <= 2e-4 * np.abs(expected).sum() + tolerance


# --- the formula -----------------------------------------------------------------------------------------


@given(smooth_problems(steps=2), rules())
def test_values_and_mass_equal_a_slow_loop(problem, rule):
    for a, step in zip(
        run(problem.objective, problem.points, PathIntegral(rule)), problem.trajectory, strict=True
    ):
        delta = step.end - step.start
        values, mass = np.zeros(len(delta)), 0.0
        for c, w in zip(rule.nodes, rule.weights, strict=True):
            grad = problem.objective.loss_and_grad(step.start + c * delta)[1]
            for i in range(len(delta)):
                values[i] += w * grad[i] * delta[i]
                mass += abs(w * grad[i] * delta[i])
        tolerance = tolerances.allocation(mass, tolerances.EPS64)
        assert np.abs(a.values - values).max() <= tolerance
        assert abs(a.mass - mass) <= tolerance


@given(smooth_problems())
def test_left_and_right_swap_when_the_path_is_reversed(problem):
    there = run(problem.objective, problem.points, PathIntegral(LEFT))
    back = run(problem.objective, problem.points[::-1], PathIntegral(RIGHT))
    for a, b in zip(there, reversed(back), strict=True):
        np.testing.assert_array_equal(b.values, -a.values)


@given(smooth_problems())
def test_a_node_of_weight_zero_changes_no_number(problem):
    padded = QuadratureRule("padded midpoint", (0.0, 0.5, 1.0), (0.0, 1.0, 0.0), degree=1)
    pairs = zip(
        run(problem.objective, problem.points, PathIntegral(padded)),
        run(problem.objective, problem.points, PathIntegral(MIDPOINT)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a.values, b.values)
        assert a.mass == b.mass


def test_a_node_of_weight_zero_costs_what_the_rule_declares():
    padded = PathIntegral(QuadratureRule("padded left", (0.0, 0.5), (1.0, 0.0), degree=0))
    problem = problems.network(1, steps=3)
    counting = CountingObjective(problem.objective)
    run(counting, problem.points, padded)
    assert padded.cost == Cost(full_gradients=2)
    assert counting.cost == Cost(full_gradients=1 + 2 * 3)


def test_negative_weights_add_to_the_mass():
    milne = QuadratureRule("milne", (0.25, 0.5, 0.75), (2 / 3, -1 / 3, 2 / 3), degree=3)
    line = L2Penalty(Layout(("w",), ((1,),)), 1.0)  # slope θ = 1 + s on the way from 1 to 2
    [a] = run(line, np.array([[1.0], [2.0]]), PathIntegral(milne))
    mass = (2 * 1.25 + 1.5 + 2 * 1.75) / 3
    assert abs(a.mass - mass) <= tolerances.summed(mass, tolerances.EPS64)
    assert abs(a.values[0] - 1.5) <= tolerances.allocation(mass, tolerances.EPS64)


# --- what it costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MIDPOINT, gauss_legendre(2), composite(MIDPOINT, 3)], ids=lambda r: r.name)
def test_an_open_rule_pays_a_forward_pass_a_point_for_the_losses(rule):
    problem = problems.network(1, steps=3)
    counting = CountingObjective(problem.objective)
    run(counting, problem.points, PathIntegral(rule))
    assert counting.cost == Cost(full_gradients=3 * len(rule.nodes), full_losses=3 + 1)
    assert PathIntegral(rule).cost == Cost(full_gradients=len(rule.nodes), full_losses=1)


@pytest.mark.parametrize(
    "rule", [LEFT, RIGHT, TRAPEZOID, SIMPSON, composite(SIMPSON, 2)], ids=lambda r: r.name
)
def test_a_closed_rule_shares_its_ends_and_never_asks_for_a_loss_alone(rule):
    problem = problems.network(1, steps=3)
    counting = CountingObjective(problem.objective)
    run(counting, problem.points, PathIntegral(rule))
    assert counting.cost == Cost(full_gradients=1 + 3 * rule.new_gradients)
    assert len(set(counting.points)) == len(counting.points)


def test_the_start_of_a_step_is_evaluated_anew_where_the_path_jumps():
    problem = problems.network(1, steps=3)
    steps = list(problem.trajectory)
    counting = CountingObjective(problem.objective)
    list(allocate(counting, [steps[0], steps[2]], PathIntegral(TRAPEZOID), check=False))
    assert [np.frombuffer(p).tolist() for p in counting.points] == problem.points.tolist()


def test_a_rule_of_any_length_needs_the_memory_of_a_few_vectors():
    size = 20_000
    penalty = L2Penalty(Layout(("w",), ((size,),)), 1.0)
    points = np.random.default_rng(0).normal(size=(2, size))

    def peak(panels: int) -> int:
        estimator = PathIntegral(composite(SIMPSON, panels))
        tracemalloc.start()
        run(penalty, points, estimator)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(40) < peak(2) + size * 8


# --- its tolerance ---------------------------------------------------------------------------------------


def test_a_step_within_its_tolerance_is_converged_and_one_beyond_it_is_flagged():
    quartic = Quartic([1.0])  # slope θ³: the left rule misses 1/4 from 0 to 1, and 2 from 1 back to -1
    points = np.array([[0.0], [1.0], [-1.0]])
    good, bad = run(quartic, points, PathIntegral(LEFT, tol=0.25))
    assert (good.residual, good.converged, good.reason) == (0.25, True, "|residual| ≤ 0.25")
    assert (bad.residual, bad.converged, bad.reason) == (2.0, False, "|residual| > 0.25")
    assert (good.tolerance, bad.tolerance) == (0.25, 0.25)


def test_without_a_tolerance_nothing_is_promised():
    quartic = Quartic([1.0])
    [a] = run(quartic, np.array([[1.0], [-1.0]]), PathIntegral(LEFT))
    assert (a.residual, a.tolerance, a.converged, a.reason) == (2.0, None, True, "")


@given(smooth_problems(), st.sampled_from([LEFT, MIDPOINT, SIMPSON]))
def test_a_tolerance_changes_no_number(problem, rule):
    pairs = zip(
        run(problem.objective, problem.points, PathIntegral(rule, tol=1e-3)),
        run(problem.objective, problem.points, PathIntegral(rule)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a.values, b.values)
        assert (a.residual, a.mass, a.cost) == (b.residual, b.mass, b.cost)


@pytest.mark.parametrize("rule", ["simpson", gauss_legendre, None])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(LCAError, match=r"needs a QuadratureRule, got .*e\.g\. PathIntegral\(lca\.SIMPSON\)"):
        PathIntegral(rule)


@pytest.mark.parametrize("tol", [0.0, -1e-3, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(tol):
    with pytest.raises(LCAError, match=f"tol must be positive, got {tol}"):
        PathIntegral(SIMPSON, tol=tol)


def test_a_gradient_in_another_precision_is_refused():
    class Wide:
        layout = bowl(3).layout

        def loss(self, theta, batch=None):
            return self.loss_and_grad(theta)[0]

        def loss_and_grad(self, theta, batch=None):
            return bowl(3).loss_and_grad(theta.astype(np.float64))

    points = np.array([[1, 2, 3], [3, 2, 0]], np.float32)
    with pytest.raises(LCAError, match="gradient is float64 where θ is float32"):
        list(allocate(Wide(), Trajectory(points), PathIntegral()))
