"""Running statistics that move with the parameters: the part of a loss change they make is told apart."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given

from lca import (
    BOOLE,
    LEFT,
    MIDPOINT,
    SIMPSON,
    Adaptive,
    Cost,
    PathIntegral,
    Scaled,
    Step,
    Sum,
    allocate,
    tolerances,
)
from lca._state import same_state
from lca.estimators import ControlVariate, NextBatch, SampledPathIntegral
from lca.layout import Layout
from lca.objective import at_state, leaves, state_of
from lca.reference import L2Penalty
from lca.testing._instruments import CountingObjective
from lca.testing._replicated import measured_by
from lca.testing.strategies import seeds

LAYOUT = Layout(("w",), ((3,),))


@dataclass(frozen=True, eq=False)
class Shifted:
    """``½ |θ - b|²``, where b is the state."""

    b: np.ndarray
    layout: Layout = LAYOUT

    def state(self):
        return {"b": self.b.copy()}

    def at_state(self, state):
        return replace(self, b=state["b"])

    def loss(self, theta, batch=None):
        return float(((theta - self.b) ** 2).sum() / 2)

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), theta - self.b


def run_with_states(seed, steps=3):
    """Steps through random points, the state moving before every second one."""
    rng = np.random.default_rng(seed)
    points, states = rng.normal(size=(2, steps + 1, 3))
    states = [{"b": state} for state in states]
    for t in range(1, steps, 2):
        states[t + 1] = states[t]
    return [Step(points[t], points[t + 1], t, state=(states[t], states[t + 1])) for t in range(steps)]


ESTIMATORS = [PathIntegral(SIMPSON), PathIntegral(MIDPOINT), PathIntegral(BOOLE), Adaptive(tol=1e-9)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@given(seed=seeds)
def test_loss_change_is_allocation_plus_what_the_state_did(estimator, seed):
    steps = run_with_states(seed)
    for step, a in zip(steps, allocate(Shifted(np.zeros(3)), steps, estimator), strict=True):
        before, after = (Shifted(state["b"]) for state in step.state)
        scale = a.mass + before.loss(step.start) + before.loss(step.end) + after.loss(step.end)
        tolerance = tolerances.conservation(scale, 0.0, tolerances.EPS64)
        expected = (step.end - step.start) * ((step.end + step.start) / 2 - before.b)
        assert np.abs(a.values - expected).max() <= tolerance
        assert abs(a.state_change - (after.loss(step.end) - before.loss(step.end))) <= tolerance
        assert abs(a.loss_start - before.loss(step.start)) <= tolerance
        assert abs(a.loss_end - after.loss(step.end)) <= tolerance
        assert abs(a.residual) <= tolerance


@given(seed=seeds)
def test_terms_and_factors_know_the_state(seed):
    steps = run_with_states(seed)
    both = Sum({"data": Scaled(Shifted(np.zeros(3)), 2.0), "penalty": L2Penalty(LAYOUT, 0.5)})
    for step, a in zip(steps, allocate(both, steps, PathIntegral()), strict=True):
        before, after = (2 * Shifted(state["b"]).loss(step.end) for state in step.state)
        tolerance = tolerances.conservation(a.mass, before + after, tolerances.EPS64)
        assert abs(a.terms["data"].state_change - (after - before)) <= tolerance
        assert a.terms["penalty"].state_change == 0
        assert abs(a.state_change - a.terms["data"].state_change) <= tolerance


def test_only_a_state_that_moved_costs_an_evaluation():
    moved, stayed = {"b": np.ones(3)}, {"b": np.zeros(3)}
    points = np.arange(12.0).reshape(4, 3)
    states = [(stayed, stayed), (stayed, moved), (moved, moved)]
    steps = [Step(points[t], points[t + 1], t, state=state) for t, state in enumerate(states)]
    costs = [a.cost.full_gradients for a in allocate(Shifted(np.zeros(3)), steps, PathIntegral(LEFT))]
    assert costs == [2, 2, 1]  # start and end; end twice; end


def test_an_end_in_another_state_is_not_reused():
    points = np.arange(9.0).reshape(3, 3)
    ones = {"b": np.ones(3)}
    first, second = Step(points[0], points[1], 0), Step(points[1], points[2], 1, state=(ones, ones))
    a, b = allocate(Shifted(np.zeros(3)), [first, second], PathIntegral())
    assert b.loss_start == Shifted(np.ones(3)).loss(points[1])
    assert b.loss_start != a.loss_end


@pytest.mark.parametrize("wrap", [lambda probe: probe, ControlVariate], ids=["samples", "control variate"])
def test_a_sample_serves_both_of_its_steps_only_in_one_state(wrap):
    points, (ones, twos) = (
        np.random.default_rng(0).normal(size=(4, 3)),
        ({"b": np.full(3, b)} for b in (1.0, 2.0)),
    )
    states = [(ones, ones), (ones, twos), (twos, twos)]
    steps = [Step(points[t], points[t + 1], t, state=state) for t, state in enumerate(states)]
    measured = measured_by(NextBatch(), Shifted(np.zeros(3)))
    found = list(allocate(measured, steps, wrap(SampledPathIntegral(size=4, micro_batches=2))))
    for a, step in zip(found, steps, strict=True):
        [exact] = allocate(Shifted(np.zeros(3)), [step], PathIntegral())
        assert np.abs(a.values - exact.values).max() <= tolerances.allocation(exact.mass, tolerances.EPS64)
    assert [a.start_cost != Cost() for a in found] == [True, False, True]
    shared = [found[t].replicates.keys() & found[t + 1].replicates.keys() for t in range(2)]
    assert shared == [{1.0}, set()]


def test_a_state_that_another_object_holds_is_measured_again():
    points, zeros, ones = np.arange(9.0).reshape(3, 3), {"b": np.zeros(3)}, {"b": np.ones(3)}
    for before, losses in ((zeros, 0), ({"b": np.zeros(3)}, 1)):
        steps = [
            Step(points[0], points[1], 0, state=(zeros, zeros)),
            Step(points[1], points[2], 1, state=(ones, ones), previous_state=before),
        ]
        _, a = allocate(Shifted(np.zeros(3)), steps, PathIntegral())
        assert (a.loss_start, a.cost.full_losses) == (Shifted(zeros["b"]).loss(points[1]), losses)


def test_an_objective_without_a_state_ignores_it():
    counting = CountingObjective(L2Penalty(LAYOUT, 1.0))
    step = Step(np.ones(3), np.zeros(3), state=({}, {"b": np.ones(3)}))
    [a] = allocate(counting, [step], PathIntegral(LEFT))
    assert (a.state_change, a.loss_change) == (0.0, -1.5)


class Versioned(Shifted):
    """A loss with a version of its own, which only its own state may hold."""

    def state(self):
        return {"b": self.b.copy(), "configuration": np.array([int(self.b[0])])}

    def at_state(self, state):
        assert state["configuration"][0] == int(state["b"][0])
        return replace(self, b=state["b"])


def test_one_name_may_mean_two_things():
    one, two = Versioned(np.ones(3)), Versioned(np.full(3, 2.0))
    for objective in (Sum({"one": one, "two": Scaled(two, 0.5)}), Sum({"one": one, "same": replace(one)})):
        state = state_of(objective)
        for own, there in zip(leaves(objective), leaves(at_state(objective, state)), strict=True):
            np.testing.assert_array_equal(own.b, there.b)
        assert same_state(state, state_of(objective))
    before = state_of(Sum({"one": one, "two": two}))
    assert not same_state(before, state_of(Sum({"one": one, "two": two, "three": Shifted(np.zeros(3))})))
    assert not same_state(state_of(Sum({"one": one, "two": two, "three": Shifted(np.zeros(3))})), before)
    one.b[0] = 5.0
    assert not same_state(before, state_of(Sum({"one": one, "two": two})))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"n": np.array([1, 2]), "mask": np.array([True, False])}, True),
        ({"n": np.array([1, 3]), "mask": np.array([True, False])}, False),
        ({"n": np.array([1, 2]), "mask": np.array([True, True])}, False),
        ({"n": np.array([1, 2]), "mask": np.array([1, 0])}, False),
        ({"n": np.array([1, 2, 3]), "mask": np.array([True, False])}, False),
        ({"n": np.array([1, 2])}, False),
        ({"n": np.array([1, 2]), "mask": np.array([True, False]), "new": np.array(0)}, False),
        (None, False),
    ],
)
def test_states_of_any_dtype_are_compared(other, same):
    state = {"n": np.array([1, 2]), "mask": np.array([True, False])}
    assert same_state(state, other) == same_state(other, state) == same
    assert same_state({"x": np.array([np.nan])}, {"x": np.array([np.nan])})
