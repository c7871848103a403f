"""Buffers that a forward pass of training moves: the gradient is measured in the state that it saw."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, spectral_norm

import lca
from lca import tolerances
from lca_torch import Objective, Tracker
from tests.laws.runs import Kept

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(30) % 3


@pytest.mark.parametrize(
    "norm", [spectral_norm, parametrizations.spectral_norm], ids=["hook", "parametrization"]
)
def test_a_gradient_under_spectral_norm_is_that_of_training(norm):
    """Which has the norm that the vectors give after the power iteration of the pass itself."""
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(4, 8)), nn.Tanh(), norm(nn.Linear(8, 3))).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    objective = Objective(model, cross_entropy, (X, Y))
    expected = []
    with Tracker(model, optimizer, objective, lca.PathIntegral(lca.LEFT), views=Kept) as tracker:
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            gradient = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
            start = objective.theta()
            optimizer.step()
            expected.append(gradient * (objective.theta() - start))
    for row, product in zip(tracker.views["train"].rows, expected, strict=True):
        mass = float(product.abs().sum())
        assert torch.allclose(row.values, product, rtol=0, atol=tolerances.allocation(mass, tolerances.EPS64))
