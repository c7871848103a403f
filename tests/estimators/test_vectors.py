"""Each named estimator holds as many vectors as it declares: traced in NumPy, on a path of large ones."""

import gc
import tracemalloc

import numpy as np
import pytest

import lca
from lca.estimators import REGISTRY, NextBatch, SampledPathIntegral
from lca.estimators._stochastic import required_fields_of
from lca.quadrature import RULES
from lca.step import ExampleScores, MicroBatch, Step

K, STEPS = 100_000, 4


class Bowl:
    """``½ |θ|²``, as the mean over 64 equal examples; a gradient is one new vector and needs no other."""

    layout, n_examples, weight, labels = lca.Layout(("w",), ((K,),)), 64, None, np.zeros(64, int)

    def batch(self, index, weight=None):
        return len(index)

    def scores(self, theta, batch=None):
        return np.ones(64 if batch is None else batch)

    def loss(self, theta, batch=None):
        return float(theta @ theta) / 2

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), theta.copy()


def steps(required):
    rng = np.random.default_rng(0)
    points = [(1 - 0.05 * t) * rng.normal(size=K) for t in range(STEPS + 1)]
    gradients, updates = rng.normal(size=(STEPS + 1, K)), rng.normal(size=(STEPS + 1, 2, K))

    def field(name, t):
        parts = tuple(MicroBatch(gradients[t], update) for update in updates[t])
        return {
            "gradient": gradients[t],
            "batch": 4,
            "update_slope": 0.1,
            "scores": ExampleScores(np.arange(4), np.ones(4)),
            "micro_batches": parts,
            "halves": parts,
        }[name]

    for t in range(STEPS):
        found = {name: field(name.removeprefix("next_"), t + name.startswith("next_")) for name in required}
        yield Step(points[t], points[t + 1], t, **found)


def traced(estimator):
    """The most vectors that a run holds beyond the steps that are made before it."""
    path = list(steps(required_fields_of(estimator)))
    gc.collect()
    gc.freeze()  # what other tests have left is not searched at every step
    tracemalloc.start()
    try:
        for allocation in lca.allocate(Bowl(), path, estimator, check=False):
            del allocation
            gc.collect()  # the replicates of a step hold each other in a circle
        return tracemalloc.get_traced_memory()[1] / (8 * K)
    finally:
        tracemalloc.stop()


NAMES = [name for name in REGISTRY if name not in RULES or name in ("left", "right", "rk4", "gauss3")]
SAMPLES = [
    SampledPathIntegral(size=48, micro_batches=m, **options)
    for m in (2, 4)
    for options in ({}, {"rule": lca.SIMPSON}, {"refine": 0.03})
]


@pytest.mark.parametrize(
    "estimator",
    [*(REGISTRY[name].make(1e-3) for name in NAMES), *SAMPLES],
    ids=[*NAMES, *(f"samples-{s.micro_batches}-{s.rule.name}-{s.refine}" for s in SAMPLES)],
)
def test_an_estimator_holds_no_more_vectors_than_it_declares_and_not_far_fewer(estimator):
    slack = 3.5 if isinstance(estimator, lca.PathIntegral | NextBatch) else 1.5  # declared for all rules
    assert estimator.vectors - slack <= traced(estimator) <= estimator.vectors + 0.5
