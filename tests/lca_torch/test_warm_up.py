"""A record says which rate an optimizer with a warm-up was made with, and the rates of the steps."""

import torch
from torch import nn

import lca
from lca.runs._run import Run
from lca_torch import Objective, Tracker


def test_the_rate_of_an_optimizer_with_warm_up_is_not_that_of_the_first_step(tmp_path):
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(8, 3), torch.arange(8) % 2
    objective = Objective(model, nn.functional.cross_entropy, (x, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    with Tracker(model, optimizer, objective, record=tmp_path / "run.zarr"):
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    run = Run(lca.open_record(tmp_path / "run.zarr"))
    assert run.attributes["settings"]["optimizer"] == "SGD(lr=0.5)"
    assert run.learning_rate == "first 0.125, largest 0.5"
