"""Layers that freeze and unfreeze while they are measured: what moves is differentiated."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from lca import SIMPSON, TRAPEZOID, Adaptive, PathIntegral, Scaled, Step, Sum, allocate
from lca.errors import IncompleteStepError
from lca.estimators import ControlVariate, CrossFit, NextBatch, SameBatch, SampledPathIntegral
from lca.layout import Layout
from lca.quadrature import LEFT, gauss_legendre
from lca.step import MicroBatch
from lca.tolerances import EPS64, allocation

LAYOUT = Layout(("base.w", "base.b", "head.w"), ((3,), (1,), (2,)))
BASE, HEAD = frozenset({"base.w", "base.b"}), frozenset({"head.w"})
NOISE = np.random.default_rng(0).normal(size=(40, 6))
NOISE -= NOISE.mean(axis=0)


@dataclass(eq=False)
class Model:
    """A mean of ``scale · cos((1 + x)·θ) + ½ θᵀMθ`` over examples; only ``trainable`` is differentiated.

    As of a real model, ``trainable`` is read at each call, unless the names are given.
    """

    trainable: set = field(default_factory=lambda: set(LAYOUT.names))
    names: frozenset | None = None
    scale: float = 1.0
    calls: list = field(default_factory=list)
    layout: Layout = LAYOUT
    n_examples: int = 40
    weight: object = None

    @property
    def differentiated(self):
        return frozenset(self.trainable) if self.names is None else self.names

    def differentiating(self, names):
        return replace(self, names=frozenset(names))

    def state(self):
        return {"scale": np.array([self.scale])}

    def at_state(self, state):
        return replace(self, scale=float(state["scale"][0]))

    def batch(self, index, weight=None):
        return np.asarray(index)

    def loss(self, theta, batch=None):
        return full(theta, self.scale, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.calls.append(self.differentiated)
        loss, gradient = full(theta, self.scale, batch)
        mask = np.repeat([name in self.differentiated for name in LAYOUT.names], LAYOUT.sizes)
        return loss, gradient * mask


MATRIX = np.eye(6) + 0.3 * np.ones((6, 6))


def full(theta, scale, batch=None):
    x = 1 + NOISE[slice(None) if batch is None else batch]
    loss = scale * np.cos(x @ theta).mean() + theta @ MATRIX @ theta / 2
    return float(loss), -scale * (np.sin(x @ theta)[:, None] * x).mean(axis=0) + MATRIX @ theta


def oracle(step, scale):
    """The integral by 40 Gauss nodes."""
    rule = gauss_legendre(40)
    points = (step.start + s * (step.end - step.start) for s in rule.nodes)
    grads = [w * full(point, scale)[1] for w, point in zip(rule.weights, points, strict=True)]
    return (step.end - step.start) * np.sum(grads, axis=0)


def run(model, phases, *, seed=1, size=0.1, drift=0.1):
    """A step for each ``(trains, moves)``: the tensors that are trainable, and those that move."""
    rng, theta = np.random.default_rng(seed), np.random.default_rng(seed).normal(size=6)
    states = [{"scale": np.array([scale])} for scale in 1 + drift * np.arange(len(phases) + 1)]
    for t, (trains, moves) in enumerate(phases):
        model.trainable = set(trains)
        mask = np.repeat([name in moves for name in LAYOUT.names], LAYOUT.sizes)
        end = theta + size * mask * rng.normal(size=6)
        yield Step(theta, end, t, state=(states[t // 2], states[(t + 1) // 2]))
        theta = end


FINE = Adaptive(tol=1e-6, nested_tol=1e-3, audit=1)
ALL = BASE | HEAD
UNFROZEN = [(HEAD, HEAD)] * 3 + [(ALL, ALL)] * 3
FROZEN = [(ALL, ALL)] * 3 + [(HEAD, ALL)] * 2 + [(HEAD, HEAD)] * 2  # momentum moves the base on
BLOCKS = [(HEAD, HEAD), (BASE, BASE)] * 3
SCHEDULES = {"unfreeze": UNFROZEN, "freeze": FROZEN, "blocks": BLOCKS}


def wrapped(kind, model):
    if kind == "sum":
        return Sum({"half": Scaled(model, 0.5), "rest": Scaled(model, 0.5)})
    return Scaled(model, 1.0) if kind == "scaled" else model


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["plain", "scaled", "sum"])
@pytest.mark.parametrize("estimator", [PathIntegral(gauss_legendre(12)), FINE], ids=["gauss", "adaptive"])
def test_what_moves_is_allocated_whatever_trains(schedule, kind, estimator):
    model = Model()
    steps = []

    def watched():
        for step in run(model, SCHEDULES[schedule]):
            steps.append(step)
            yield step

    for a in allocate(wrapped(kind, model), watched(), estimator):
        expected = oracle(steps[-1], float(steps[-1].state[0]["scale"][0]))
        quadrature = FINE.nested_tol * a.mass if estimator is FINE else 0.0
        assert np.abs(a.values - expected).max() <= quadrature + allocation(a.mass, EPS64)
        assert a.converged
        assert (a.values != 0).tolist() == (expected != 0).tolist()


def test_a_reused_gradient_is_taken_again_only_where_something_new_moves():
    model = Model()
    costs = [a.cost.full_gradients for a in allocate(model, run(model, UNFROZEN), PathIntegral(TRAPEZOID))]
    #  first step: both ends; then one a step, two where the state moved or the base begins to move
    assert costs == [2, 2, 1, 3, 1, 2]


def test_a_model_that_trains_whole_is_asked_for_the_names_it_has():
    model = Model()
    list(allocate(model, run(model, [(ALL, ALL)] * 3), PathIntegral(SIMPSON)))
    assert set(model.calls) == {ALL}


PROBE = SampledPathIntegral(size=40)


@pytest.mark.parametrize("estimator", [PROBE, ControlVariate(PROBE, every=100)], ids=["probe", "anchored"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samples_are_unbiased_for_what_moves(schedule, estimator):
    found = []
    for seed in range(100):
        model, expected = Model(), []
        steps = seen(run(model, SCHEDULES[schedule], drift=0.0), expected)
        found.append([a.values for a in allocate(model, steps, estimator.reseeded(seed), check=False)])
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - expected) <= 5 * error).all()


def seen(steps, trapezoids):
    """The steps, after their full trapezoids have been appended to a list."""
    for step in steps:
        ends = (full(point, 1.0)[1] for point in (step.start, step.end))
        trapezoids.append((step.end - step.start) * sum(ends) / 2)
        yield step


def test_an_anchor_of_another_configuration_is_not_gone_back_to():
    model = Model()
    versions = [{"scale": np.ones(1), "configuration": np.array([version])} for version in (0, 0, 0, 1, 1)]
    steps = [
        replace(step, state=(versions[t], versions[t + 1]))
        for t, step in enumerate(run(model, [(ALL, ALL)] * 4))
    ]
    estimator = ControlVariate(SampledPathIntegral(size=4), every=100)
    costs = [a.cost.full_gradients for a in allocate(model, steps, estimator)]
    assert costs == [1, 0, 0, 1]


def fields():
    gradient = np.ones(6)
    halves = (MicroBatch(gradient, gradient), MicroBatch(gradient, gradient))
    return {
        "gradient": gradient,
        "next_gradient": gradient,
        "next_batch": np.arange(5),
        "micro_batches": halves,
        "next_micro_batches": halves,
    }


@pytest.mark.parametrize("estimator", [SameBatch(), NextBatch(), CrossFit(2), CrossFit(2, LEFT)], ids=repr)
def test_a_training_gradient_that_was_not_computed_is_not_taken_for_zero(estimator):
    model = Model()
    found = allocate(model, (replace(step, **fields()) for step in run(model, FROZEN)), estimator)
    assert [next(found).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(IncompleteStepError, match=r"base\.w moved but did not train.*model\.compile"):
        next(found)


def test_own_gradients_of_the_next_batch_include_frozen_tensors_that_move():
    model = Model()
    steps = [replace(step, **fields()) for step in run(model, FROZEN)]
    model.trainable = set(HEAD)
    [a] = allocate(model, steps[3:4], NextBatch(LEFT))
    expected = full(steps[3].start, 1.1, np.arange(5))[1] * (steps[3].end - steps[3].start)
    assert np.abs(a.values - expected).max() <= allocation(a.mass, EPS64)
