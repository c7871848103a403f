"""Claim: on a torch training loop, the tracker reproduces the paper's MNIST-FC figures, and the sums add up.

The set-up of `validation.mnist_fc`; Adam 0.002, and SGD 0.05 with momentum 0.9. The loop is an ordinary one,
with a `DataLoader`; all measuring is done by the tracker.
"""

import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lca.summary import RunViews
from lca_torch import Objective, Tracker
from validation.mnist_fc import ESTIMATORS, Run, figures, images, main

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.002),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
}


def mnist() -> TensorDataset:
    """The 55,000 training images as rows, and their digits."""
    data = images()
    return TensorDataset(torch.from_numpy(data.x), torch.from_numpy(data.y))


def he_normal_mlp() -> nn.Sequential:
    """784-100-50-10 with ReLU; weights He-normal, biases 0."""
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def measure(optimizer_name: str, estimator_name: str, seed: int, steps: int) -> Run:
    """Train once with a tracker; the figures of the run."""
    torch.manual_seed(seed)
    data, model, loss_fn = mnist(), he_normal_mlp(), nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    loader = DataLoader(data, batch_size=250, shuffle=True)
    objective = Objective(model, loss_fn, data, batch_size=1000)
    began, bar = time.perf_counter(), tqdm(total=steps, unit="step", mininterval=10)
    estimator = ESTIMATORS[estimator_name]
    with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
        while tracker.steps < steps:
            for x, y in loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
                bar.update()
                if tracker.steps == steps:
                    break
    view = tracker.views["train"]
    assert isinstance(view, RunViews)
    return {
        "optimizer": optimizer_name,
        "estimator": estimator_name,
        "seed": seed,
        **figures(view, began),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main(__doc__, Path(__file__).parent, OPTIMIZERS, measure)
