"""The allocation of a sampled estimator, to be given other numbers with `dataclasses.replace`."""

import numpy as np

from lca import StepAllocation, Trajectory, allocate
from lca.estimators import SampledPathIntegral
from lca.reference import DatasetLoss, mlp


def sampled_allocation() -> StepAllocation:
    """One step on a small network, whose losses are not measured."""
    network, rng = mlp((2, 2)), np.random.default_rng(0)
    loss = DatasetLoss(network, rng.normal(size=(8, 2)), rng.integers(0, 2, 8))
    points = Trajectory(rng.normal(size=(2, network.layout.size)))
    [found] = allocate(loss, points, SampledPathIntegral(size=4))
    assert found.sampled
    return found
