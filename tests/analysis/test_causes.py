"""The split of movements and allocations by cause adds up to what the optimizers do."""

import numpy as np
import pytest

import lca
from lca.analysis import Causes, mean_gradient, split_allocation, split_movements
from lca.errors import LCAError, NonFiniteError
from lca.reference import SGD, Adam, AdamW, Quadratic, RMSProp, train
from lca.tolerances import EPS64, summed

OPTIMIZERS = [
    SGD(lr=0.1),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, nesterov=True),
    RMSProp(lr=0.01),
    Adam(lr=0.01),
    AdamW(lr=0.01, weight_decay=0.3),
]
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)


def run(optimizer, steps=12):
    """θ_t, gradients and movements of a run with random gradients; each (steps, 4)."""
    rng = np.random.default_rng(0)
    theta, rows = rng.normal(size=4), []
    state = optimizer.init(theta)
    for gradient in rng.normal(size=(steps, 4)):
        state, delta = optimizer.update(state, gradient, theta)
        rows.append((theta, gradient, delta))
        theta = theta + delta
    return (np.array(part) for part in zip(*rows, strict=True))


@every_optimizer
def test_the_causes_add_up_to_the_movement(optimizer):
    thetas, gradients, deltas = run(optimizer)
    for cause, delta in zip(split_movements(optimizer, gradients, thetas), deltas, strict=True):
        mass = sum(np.abs(part) for part in (cause.batch, cause.momentum, cause.decay))
        assert (np.abs(cause.total() - delta) <= summed(mass, EPS64)).all()


@every_optimizer
def test_the_first_step_has_no_momentum(optimizer):
    thetas, gradients, _ = run(optimizer)
    first, *later = split_movements(optimizer, gradients, thetas)
    np.testing.assert_array_equal(first.momentum, np.zeros(4))
    has_momentum = not isinstance(optimizer, RMSProp) and getattr(optimizer, "momentum", 1) > 0
    assert all(cause.momentum.all() for cause in later) == has_momentum


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=repr)
def test_momentum_is_the_movement_at_zero_gradient(optimizer):
    """SGD is linear: with the current gradient set to 0, the momentum term remains."""
    thetas, gradients, _ = run(optimizer)
    state, last = optimizer.init(thetas[0]), len(gradients) - 1
    for gradient, theta in zip(gradients[:last], thetas[:last], strict=True):
        state, _ = optimizer.update(state, gradient, theta)
    _, without_gradient = optimizer.update(state, 0 * gradients[last], thetas[last])
    *_, cause = split_movements(optimizer, gradients, thetas)
    np.testing.assert_allclose(cause.momentum, without_gradient, rtol=summed(2, EPS64))


def test_adam_momentum_is_its_first_moment_without_the_current_batch():
    """The first moment written as one sum: at step t, g_s has the weight (1 - β₁) β₁^(t - s)."""
    adam = Adam(lr=0.01)
    thetas, gradients, deltas = run(adam)
    *_, cause = split_movements(adam, gradients, thetas)
    weights = 0.1 * 0.9 ** np.arange(len(gradients))[::-1]
    terms = weights[:, None] * gradients
    share = terms[-1] / terms.sum(axis=0)
    np.testing.assert_allclose(cause.batch, share * deltas[-1], rtol=summed(len(gradients), EPS64))


def test_weight_decay_is_minus_lr_lambda_theta():
    thetas, gradients, _ = run(OPTIMIZERS[-1])
    for cause, theta in zip(split_movements(OPTIMIZERS[-1], gradients, thetas), thetas, strict=True):
        np.testing.assert_allclose(cause.decay, -0.01 * 0.3 * theta, rtol=summed(1, EPS64))
    for cause in split_movements(OPTIMIZERS[1], gradients, thetas):
        assert not cause.decay.any()


def test_an_allocation_splits_as_its_movement_does():
    """On a quadratic, each part of A is the same part of Δ times the gradient at the midpoint."""
    quadratic, optimizer = Quadratic(np.diag([1.0, 4.0])), SGD(lr=0.1, momentum=0.9)
    steps = list(train(quadratic, np.array([1.0, -1.0]), optimizer, [None] * 10))
    gradients = [quadratic.loss_and_grad(step.start)[1] for step in steps]
    causes = split_movements(optimizer, gradients, [step.start for step in steps])
    for cause, step, a in zip(
        causes, steps, lca.allocate(quadratic, steps, lca.PathIntegral(lca.SIMPSON)), strict=True
    ):
        split = split_allocation(cause, mean_gradient(a.values, step.end - step.start))
        midpoint = np.array([1.0, 4.0]) * (step.start + step.end) / 2
        mass = np.abs(midpoint) * (np.abs(step.start) + np.abs(step.end))
        assert (np.abs(split.total() - a.values) <= summed(mass, EPS64)).all()
        assert (np.abs(split.batch - cause.batch * midpoint) <= summed(mass, EPS64)).all()


def test_a_parameter_without_causes_gets_zero():
    still = Causes(np.array([0.0, 1.0]), np.zeros(2), np.zeros(2))
    split = split_allocation(still, np.array([np.nan, 3.0]))
    assert split.total().tolist() == [0.0, 3.0]


def test_causes_that_cancel_need_a_given_gradient():
    cancelled = Causes(np.array([1.0, 1.0]), np.array([-1.0, 0.0]), np.zeros(2))
    with pytest.raises(NonFiniteError, match=r"1 parameters \(the first is 0\) have causes but"):
        split_allocation(cancelled, np.array([np.nan, 1.0]))
    assert split_allocation(cancelled, np.array([2.0, 1.0])).momentum.tolist() == [-2.0, 0.0]


def test_unknown_optimizers_and_series_of_unequal_length_are_refused():
    with pytest.raises(LCAError, match="cannot split the movements of Lion; expected SGD"):
        split_movements(type("Lion", (), {})(), [], [])
    with pytest.raises(LCAError, match="gradients has fewer steps"):
        list(split_movements(SGD(lr=1.0), np.zeros((2, 1)), np.zeros((3, 1))))
