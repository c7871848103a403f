"""The declared cost is the mean of a long run, and the largest one bounds every step after the first."""

from dataclasses import fields

import numpy as np
import pytest

from lca import Cost, Trajectory, allocate
from lca.allocation import largest_cost_of
from lca.estimators import AdaptiveSampleSize, ControlVariate, SampledPathIntegral
from lca.quadrature import SIMPSON
from lca.reference import DatasetLoss, mlp

N, STEPS = 240, 160
NETWORK, RNG = mlp((3, 4, 2)), np.random.default_rng(0)
LOSS = DatasetLoss(NETWORK, RNG.normal(size=(N, 3)), RNG.integers(0, 2, N))
LAYERS = NETWORK.layout.groups("layer")


def costs(estimator, lengths, every=1):
    """The cost of each step after the first, of every n-th on a random walk with steps of these lengths."""
    moves = np.random.default_rng(1).normal(size=(len(lengths), NETWORK.layout.size))
    moves *= np.reshape(lengths, (-1, 1)) / np.linalg.norm(moves, axis=1, keepdims=True)
    start = np.random.default_rng(2).normal(size=NETWORK.layout.size)
    points = np.concatenate([[start], start + np.cumsum(moves, axis=0)])
    return [a.cost for a in allocate(LOSS, list(Trajectory(points))[::every], estimator)][1:]


def in_examples(cost):
    return cost.examples + N * cost.full_gradients


SMALL, LARGE = np.full(STEPS, 1e-3), np.full(STEPS, 3.0)
PROBE, REFINED = SampledPathIntegral(size=16), SampledPathIntegral(size=16, refine=0.03)
ESTIMATORS = {
    "probe": PROBE,
    "probe with Simpson's rule": SampledPathIntegral(SIMPSON, size=16),
    "probe, refined": REFINED,
    "anchored": ControlVariate(PROBE, every=20),
    "anchored at every step": ControlVariate(PROBE, every=1),
    "anchored, Simpson's rule": ControlVariate(SampledPathIntegral(SIMPSON, size=16), every=20),
    "anchored, refined": ControlVariate(REFINED, every=20),
    "budget": AdaptiveSampleSize(PROBE, examples=32),
    "budget, refined": AdaptiveSampleSize(REFINED, examples=32),
    "budget, anchored": AdaptiveSampleSize(ControlVariate(PROBE), examples=48),
    "budget, anchored and refined": AdaptiveSampleSize(ControlVariate(REFINED), examples=48),
}


BUDGETS = [name for name in ESTIMATORS if name.startswith("budget")]


@pytest.mark.parametrize(
    ("name", "every"),
    [*((name, 1) for name in ESTIMATORS), *((name, every) for name in BUDGETS for every in (5, 10))],
)
def test_the_declared_cost_is_the_mean_on_small_steps(name, every):
    estimator = ESTIMATORS[name]
    found = np.mean([in_examples(cost) for cost in costs(estimator, np.repeat(SMALL, every), every)])
    # A full gradient may be taken once more than in the long run; the first audits are more frequent.
    more = (N + 16 * 8) / STEPS if "probe" not in name or "refined" in name else 0.0
    assert abs(found - in_examples(estimator.cost)) <= more + 0.05 * in_examples(estimator.cost)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_is_spent_on_large_steps_too(name):
    estimator = ESTIMATORS[name]
    found = np.mean([in_examples(cost) for cost in costs(estimator, LARGE)])
    assert abs(found - estimator.examples) <= 0.1 * estimator.examples


@pytest.mark.parametrize("every", [1, 3, 5])
def test_anchors_are_apart_by_measured_steps(every):
    found = costs(ControlVariate(PROBE, every=20), np.full(every * 41, 1e-3), every)
    assert [t for t, cost in enumerate(found, 1) if cost.full_gradients] == [19, 39]  # at the end of these


@pytest.mark.parametrize(
    "lengths", [SMALL, LARGE, np.geomspace(1e-3, 3.0, STEPS)], ids=["small", "large", "mixed"]
)
@pytest.mark.parametrize("name", [*ESTIMATORS, "error"])
def test_no_step_costs_more_than_the_largest_cost(name, lengths):
    error = AdaptiveSampleSize(
        SampledPathIntegral(size=16, micro_batches=2, refine=0.03), relative_error=0.05, groups=LAYERS
    )
    estimator = ESTIMATORS.get(name, error)
    most = in_examples(largest_cost_of(estimator))
    assert max(in_examples(cost) for cost in costs(estimator, lengths)) <= most
    assert all(isinstance(getattr(largest_cost_of(estimator), f.name), int | float) for f in fields(Cost))
