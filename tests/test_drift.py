"""Losses that something other than θ and the state moves: found by evaluating them again, and named."""

import numpy as np
import pytest

from lca import LEFT, MIDPOINT, SIMPSON, Adaptive, PathIntegral, Scaled, Step, Sum, allocate, allocate_each
from lca.errors import LCAWarning, NonDeterministicError
from lca.reference import L2Penalty, bowl
from lca.testing._instruments import CountingObjective
from lca.tracking import FunctionalTracker


class Annealed:
    """``½ |θ|² + weight · Σ θ⁴``, where the weight is an attribute that a loop changes."""

    layout = bowl(3).layout

    def __init__(self, weight=1.0):
        self.weight = weight

    def loss(self, theta, batch=None):
        return float(theta @ theta / 2 + self.weight * (theta**4).sum())

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), theta + 4 * self.weight * theta**3


class Explained(Annealed):
    def what_changed(self):
        return f"the attribute weight is {self.weight:g}"


def path(steps, *, seed=0, size=0.01):
    theta, rng = np.ones(3), np.random.default_rng(seed)
    for t in range(steps):
        end = theta - size * theta + size * rng.normal(size=3) / 10
        yield Step(theta, end, t)
        theta = end


def changing(objective, steps, change):
    """The steps of a run in which ``change(t)`` is called before step t is measured."""
    for step in steps:
        change(step.index)
        yield step


def at(*indices, to):
    """Sets the weight to ``to`` times itself before these steps."""

    def change(objective, t):
        if t in indices:
            objective.weight *= to

    return change


RULES = [
    PathIntegral(SIMPSON),
    PathIntegral(LEFT),
    PathIntegral(MIDPOINT),
    PathIntegral(SIMPSON, tol=1e-3),
    Adaptive(),
]


@pytest.mark.parametrize("estimator", RULES, ids=repr)
@pytest.mark.parametrize("when", [1, 5, 50])
def test_a_jump_of_the_loss_is_found_at_once(estimator, when):
    objective, measured = Explained(), []
    steps = changing(objective, path(60), lambda t: at(when, to=1.02)(objective, t))
    with pytest.raises(NonDeterministicError) as caught:
        measured.extend(a.step for a in allocate(objective, steps, estimator))
    assert measured == list(range(when))
    assert f"step {when}: the loss at the start of the step was" in str(caught.value)
    assert "the attribute weight is 1.02. Make that a buffer or parameter" in str(caught.value)


def test_a_change_that_hides_in_the_tolerance_is_found_by_its_jump():
    objective = Annealed()
    steps = changing(objective, path(60), lambda t: at(40, to=1 + 1e-4)(objective, t))
    with pytest.raises(NonDeterministicError, match=r"step 40: .* has changed it by \+\d.*e-05"):
        list(allocate(objective, steps, Adaptive(audit=None)))


def test_a_drift_at_every_step_is_found_by_the_second():
    objective = Annealed()
    steps = changing(objective, path(60), lambda t: at(*range(60), to=1 + 1e-6)(objective, t))
    with pytest.raises(NonDeterministicError, match="step 1: "):
        list(allocate(objective, steps, PathIntegral(LEFT)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: Scaled(loss, 2.0),
        lambda loss: Sum({"data": loss, "penalty": L2Penalty(loss.layout, 0.1)}),
        lambda loss: Sum({"half": Scaled(loss, 0.5), "penalty": L2Penalty(loss.layout, 0.1)}),
    ],
    ids=["scaled", "sum", "scaled in a sum"],
)
def test_it_is_found_inside_of_terms_and_factors(wrap):
    objective = Explained()
    steps = changing(objective, path(60), lambda t: at(7, to=1.1)(objective, t))
    with pytest.raises(NonDeterministicError, match="the attribute weight is 1.1"):
        list(allocate(wrap(objective), steps, PathIntegral()))


def test_of_several_losses_the_one_that_changed_is_named():
    objective = Annealed()
    losses = {"train": bowl(3), "heldout": objective}
    steps = changing(objective, path(60), lambda t: at(7, to=1.1)(objective, t))
    with pytest.raises(NonDeterministicError, match="step 7: the loss 'heldout' at the start"):
        list(allocate_each(losses, steps, PathIntegral()))


class Stated(Annealed):
    def state(self):
        return {"weight": np.array([self.weight])}

    def at_state(self, state):
        return Annealed(float(state["weight"][0]))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("estimator", RULES, ids=repr)
def test_a_state_that_moves_is_no_drift(estimator, every):
    objective, theta = Stated(), np.ones(3)
    with FunctionalTracker(theta, objective, estimator, every=every, on_error="raise") as tracker:
        for step in path(20):
            objective.weight *= 1.05
            tracker.update(step.end)
    assert tracker.summary()["train"]["steps"] == -(-20 // every)


def test_a_loss_that_is_measured_anew_at_each_step_is_right_whatever_moved_before():
    objective, theta = Annealed(), np.ones(3)
    with FunctionalTracker(theta, objective, PathIntegral(), every=2, on_error="raise") as tracker:
        for step in path(20):
            tracker.update(step.end)
            objective.weight *= 1.05
    assert tracker.summary()["train"]["steps"] == 10


def test_a_tracker_stops_and_training_goes_on():
    objective = Annealed()
    with FunctionalTracker(np.ones(3), objective) as tracker:
        for step in path(4):
            tracker.update(step.end)
        objective.weight = 1.5
        with pytest.warns(LCAWarning, match="measuring stopped at step 4, training goes on: NonDeterm"):
            tracker.update(step.end / 2)
        tracker.update(step.end / 3)
    assert isinstance(tracker.error, NonDeterministicError)
    assert tracker.summary()["train"]["steps"] == 4


class Rounding(Annealed):
    """A loss that is computed in another way, with other rounding, where no gradient is asked for."""

    def loss(self, theta, batch=None):
        return super().loss(theta) * (1 + 1e-9)

    def loss_and_grad(self, theta, batch=None):
        return Annealed().loss_and_grad(theta)


def test_rounding_that_depends_on_the_gradient_is_no_drift():
    assert len(list(allocate(Rounding(), path(70), PathIntegral()))) == 70


def test_replays_cost_next_to_nothing():
    steps = 400
    for estimator in RULES:
        counting = CountingObjective(Annealed())
        spent = [a.cost for a in allocate(counting, path(steps), estimator)]
        extra = counting.cost.full_losses - sum(cost.full_losses for cost in spent)
        assert extra == 11  # steps 2, 4, ... 64, 128, ... 384
        assert counting.cost.full_gradients - sum(cost.full_gradients for cost in spent) == 2
    counting = CountingObjective(Annealed())
    list(allocate(counting, path(steps), PathIntegral(), check=False))
    assert counting.cost.full_losses == 0


def test_a_step_that_no_rule_can_fit_is_replayed_and_kept():
    counting = CountingObjective(Annealed())
    [a] = allocate(counting, path(1), PathIntegral(LEFT, tol=1e-9))
    assert (a.converged, counting.cost.full_losses) == (False, 1)
