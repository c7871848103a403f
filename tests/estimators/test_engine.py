"""What every estimator has from the engine below it: details that mutation testing found untested."""

from dataclasses import FrozenInstanceError, dataclass, field

import numpy as np
import pytest

from lca import Adaptive, PathIntegral, Step, StepAllocation, allocate
from lca.errors import NonDeterministicError
from lca.layout import Layout

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


def test_an_allocation_says_nothing_that_its_estimator_did_not():
    a = StepAllocation(np.zeros(2), 1.0, 1.0, 0.0, 0.0)
    assert (a.step, a.state_change, a.tolerance, a.reason, a.stderr, a.terms) == (0, 0.0, None, "", None, {})
    assert a.converged
    spent = a.evaluations
    assert (spent.full_gradients, spent.full_losses, spent.batch_gradients) == (0, 0, 0)


@pytest.mark.parametrize("estimator", [PathIntegral(tol=1.0), Adaptive(tol=1.0)], ids=repr)
def test_a_description_cannot_be_changed_under_a_run(estimator):
    with pytest.raises(FrozenInstanceError):
        estimator.tol = 2.0
    assert hash(estimator) == hash(type(estimator)(tol=1.0))


def test_the_defaults_of_adaptive_are_the_documented_ones():
    assert Adaptive() == Adaptive(tol=1e-3, per="step", nested_tol=0.05, audit=64, max_gradients=33)
