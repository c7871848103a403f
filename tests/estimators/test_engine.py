"""What every estimator has from the engine below it: details that mutation testing found untested."""

from dataclasses import FrozenInstanceError, dataclass, field, fields

import numpy as np
import pytest

from lca import SIMPSON, TRAPEZOID, Adaptive, Cost, PathIntegral, Step, StepAllocation, allocate
from lca.errors import NonDeterministicError
from lca.estimators import REGISTRY, SameBatch, SampledPathIntegral, make_estimator
from lca.estimators._audits import ENOUGH, LONGEST, RuleBySize, _Size
from lca.estimators._path import Point
from lca.estimators._sampling import Sample
from lca.layout import Layout
from lca.reference import DatasetLoss, logistic_regression
from tests.meta.animals import Passing

QUIET, NOISY = {"noise": np.zeros(1)}, {"noise": np.ones(1)}


@dataclass(frozen=True, eq=False)
class Noisy:
    """``½ |θ|²`` plus noise, as loud as the state says."""

    noise: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    layout: Layout = Layout(("w",), ((2,),))

    def state(self):
        return {"noise": np.array([self.noise])}

    def at_state(self, state):
        return Noisy(float(state["noise"][0]), self.rng)

    def loss(self, theta, batch=None):
        return float(theta @ theta) / 2 + self.noise * self.rng.normal()

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), theta


def test_determinism_is_checked_in_the_state_the_first_step_begins_in():
    points = np.arange(4.0).reshape(2, 2)
    [a] = allocate(Noisy(), [Step(*points, state=(QUIET, NOISY))], PathIntegral())
    assert a.state_change != 0
    with pytest.raises(NonDeterministicError):
        list(allocate(Noisy(), [Step(*points, state=(NOISY, QUIET))], PathIntegral()))


class Counted(DatasetLoss):
    """Remembers how many examples each gradient was over."""

    def loss_and_grad(self, theta, batch=None):
        self.seen = [*getattr(self, "seen", []), len(self.x if batch is None else batch)]
        loss, grad = super().loss_and_grad(theta, batch)
        return loss + getattr(self, "noise", 0.0) * len(self.seen), grad


@pytest.mark.parametrize(
    ("estimator", "seen"),
    [
        (PathIntegral(TRAPEZOID), [100, 100, 100, 100]),
        (SampledPathIntegral(size=10), [64, 64, 10, 10]),
        (SameBatch(), []),
    ],
    ids=["full", "probe", "batch"],
)
def test_the_check_of_determinism_looks_at_no_more_than_the_estimator_does(estimator, seen):
    rng = np.random.default_rng(0)
    objective = Counted(logistic_regression(2, 3), rng.normal(size=(100, 2)), rng.integers(3, size=100))
    start, end = rng.normal(size=(2, 9))
    step = Step(start, end, gradient=start)
    [_] = allocate(objective, [step], estimator)
    assert objective.seen == seen if seen else not hasattr(objective, "seen")
    if seen:
        objective.noise = 1e-3
        with pytest.raises(NonDeterministicError):
            list(allocate(objective, [step], estimator))


class WithState(Counted):
    def state(self):
        return QUIET

    def at_state(self, state):
        return Passing(self)  # a loss in one state, which gives no single examples


def test_an_objective_with_a_state_is_tried_out_for_a_probe_as_well():
    rng = np.random.default_rng(0)
    objective = WithState(logistic_regression(2, 3), rng.normal(size=(100, 2)), rng.integers(3, size=100))
    objective.noise = 1e-3
    step = Step(*rng.normal(size=(2, 9)), state=(QUIET, QUIET))
    with pytest.raises(NonDeterministicError):
        list(allocate(objective, [step], SampledPathIntegral(size=10)))
    assert objective.seen == [64, 64]


def test_an_allocation_says_nothing_that_its_estimator_did_not():
    a = StepAllocation(np.zeros(2), 1.0, 1.0, 0.0, 0.0)
    assert (a.step, a.state_change, a.tolerance, a.reason, a.stderr, a.terms) == (0, 0.0, None, "", None, {})
    assert a.converged
    assert (a.replicates, a.source, a.sampled) == ({}, None, False)
    assert a.cost == a.start_cost == Cost(0, 0, 0, 0)


@pytest.mark.parametrize("estimator", [PathIntegral(tol=1.0), Adaptive(tol=1.0)], ids=repr)
def test_a_description_cannot_be_changed_under_a_run(estimator):
    with pytest.raises(FrozenInstanceError):
        estimator.tol = 2.0
    assert hash(estimator) == hash(type(estimator)(tol=1.0))


@pytest.mark.parametrize("name", REGISTRY)
def test_no_description_can_be_changed_under_a_run(name):
    estimator = make_estimator(name)
    for option in fields(estimator):
        with pytest.raises(FrozenInstanceError):
            setattr(estimator, option.name, None)


def test_a_point_of_a_step_stays_where_it_is():
    point = Point(Step(np.zeros(1), np.ones(1)), s=0.5, theta=np.full(1, 0.5), time=0.5)
    with pytest.raises(FrozenInstanceError):
        point.s = 1.0


def test_steps_of_another_size_are_foreseen_from_the_nearest():
    """The error of the trapezoid grows with the square of the length, and falls with it at least."""
    rule = RuleBySize(TRAPEZOID, limit=0.1)
    rule._audited = {3: _Size(missed=0.5, slope=8.0, audits=ENOUGH)}
    assert [rule._expected(size) * 16 for size in (1, 2, 3, 4, 5)] == [0.25, 0.5, 1, 4, 16]


class CurvedFromZeroOn:
    """``θ`` below 0, ``θ + θ³`` above: the trapezoid is off by half the square of a step that begins at 0."""

    def loss_and_grad(self, theta, batch):
        (x,) = np.maximum(theta, 0)
        return theta[0] + x**3, np.array([1 + 3 * x**2])


def rules_by_size(steps):
    """``S``, ``T``, or ``s``, ``t`` where it was audited, for steps of these starts and lengths."""
    chosen, found = RuleBySize(TRAPEZOID, limit=0.03), ""
    for start, length in steps:
        step = Step(np.array([start]), np.array([start + length]))
        chosen.begin(step)
        audited = chosen.due()
        if audited:
            chosen.audit(CurvedFromZeroOn(), step, Sample(None, 1.0, 1))
        name = "S" if chosen.rule == SIMPSON else "T"
        found += name.lower() if audited else name
    return found


def test_an_audit_that_fails_serves_its_own_step():
    """It served only the steps after it."""
    found = rules_by_size([(-9.0, 0.01)] * 9 + [(0.0, 0.4)] * 3)
    assert found[9:].startswith("s")
    assert found[9:].upper() == "SSS"


@pytest.mark.parametrize("first", [0.4, 0.26], ids=["of a length audited long ago", "longer than any before"])
def test_a_step_that_is_longer_than_those_of_late_is_audited(first):
    """Where steps grew late in a run, those of a size that had passed early were not."""
    calm = [(-9.0, first)] * 20 + [(-9.0, 0.26)] * 35
    assert rules_by_size([*calm, (0.0, 0.4)]).endswith("T" + "s")


def test_where_the_curvature_rises_all_steps_are_refined_soon():
    """The mean of all audits, of which the newest was a part, passed for long."""
    found = rules_by_size([(-9.0, 0.26)] * 99 + [(0.0, 0.26)] * 99)
    assert "T" not in found.upper()[99 + LONGEST :]
    assert found.count("s") + found.count("t") <= 2 * 99 / LONGEST + 9


def test_the_defaults_of_adaptive_are_the_documented_ones():
    assert Adaptive() == Adaptive(tol=1e-3, per="step", nested_tol=0.05, audit=64, max_gradients=33)
