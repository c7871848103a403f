"""What is alive while a step is measured: θ before it, and as few gradients as the rule can do with."""

import gc

import pytest
import torch

import lca
from lca_torch import Objective, Tracker

WIDTH = 31


class Counting:
    """An objective that notes the most vectors of length K that exist when a gradient has just been made."""

    def __init__(self, objective):
        self.objective, self.layout, self.most = objective, objective.layout, 0

    def loss(self, theta, batch=None):
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.objective.loss_and_grad(theta, batch)
        alive = {
            tensor.untyped_storage().data_ptr()
            for tensor in gc.get_objects()
            if type(tensor) is torch.Tensor and tensor.numel() == self.layout.size
        }
        self.most = max(self.most, len(alive))
        return loss, grad


@pytest.mark.filterwarnings("ignore:the tolerance of Adaptive")  # 1e-9 so that every step is refined
@pytest.mark.parametrize(
    ("estimator", "vectors"),
    [
        (lca.PathIntegral(lca.TRAPEZOID), 3),
        (lca.PathIntegral(lca.RK4), 4),
        (lca.Adaptive(tol=1.0, nested_tol=10.0, audit=1), 4),
        (lca.Adaptive(tol=1e-9, nested_tol=10.0, audit=None, max_gradients=1), 5),
    ],
    ids=["trapezoid", "rk4", "audited", "refined once"],
)
def test_a_step_holds_no_vector_that_it_can_do_without(monkeypatch, estimator, vectors):
    monkeypatch.setattr("lca_torch._tracker.SMALL", 0)  # the parameters of small models are copied
    gc.collect()  # what earlier tests left in cycles
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 1))
    x, y = torch.randn(20, 5), torch.randn(20, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    objective = Counting(Objective(model, torch.nn.functional.mse_loss, (x, y), batch_size=20))
    with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            objective.most = 0 if tracker.steps == 1 else objective.most  # the first also checks determinism
    assert objective.most == vectors
