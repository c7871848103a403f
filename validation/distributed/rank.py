"""One rank of `validation.distributed.run`: trains, measures, and counts its passes and what it sends.

torchrun --nproc-per-node W -m validation.distributed.rank FOLDER CASE
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lca
from lca.estimators import SampledPathIntegral
from lca.reference import load_digits
from lca_torch import Objective, Tracker, _model_loss
from lca_torch._exchange import Exchange

STEPS, BATCH, MEASURED = 10, 50, 100
"""Updates, examples in a training batch, examples in a measuring batch."""
PROBE = SampledPathIntegral(size=100, micro_batches=2)
CASES: dict[str, tuple[Any, bool]] = {
    "simpson": (lca.PathIntegral(lca.SIMPSON), False),
    "adaptive": (lca.Adaptive(), False),
    "by class": (lca.PathIntegral(lca.TRAPEZOID), True),
    "probe": (PROBE, False),
}
"""Estimator, and whether the terms are the classes."""


class Values:
    """A view that keeps allocations and masses."""

    def __init__(self, layout: lca.Layout) -> None:
        self.values: list[np.ndarray] = []
        self.masses: list[float] = []
        self.vectors = 0.0

    def update(self, allocation: Any) -> None:
        self.values.append(np.asarray(allocation.values, float))
        self.masses.append(float(allocation.mass))
        micro_batches = allocation.cost.examples / (PROBE.size / PROBE.micro_batches)
        self.vectors += allocation.cost.full_gradients * max(len(allocation.terms), 1) + micro_batches


def counted(counts: Counter[str]) -> None:
    """Count from now on what measuring evaluates and sends.

    Not the audits of the copy that is measured, a few batches, which every rank makes by itself.
    """
    weigh, say = _model_loss.weight_of, Exchange._say
    distributed: Any = torch.distributed
    add: Callable[..., Any] = distributed.all_reduce

    def counting_weigh(loss: Any, batch: Any) -> float:
        counts["examples"] += len(batch[1])
        return weigh(loss, batch)

    def counting_say(self: Exchange, key: str, message: Any) -> None:
        counts["messages"] += 1
        counts["message bytes"] += len(message.text)
        say(self, key, message)

    def counting_add(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        counts["sums"] += 1
        counts["bytes"] += tensor.numel() * tensor.element_size()
        return add(tensor, *args, **options)

    _model_loss.weight_of = counting_weigh
    Exchange._say = counting_say  # type: ignore[method-assign]
    distributed.all_reduce = counting_add


def measured(case: str, counts: Counter[str]) -> dict[str, Any]:
    """Train on every rank alike, and measure together."""
    estimator, classes = CASES[case]
    digits = load_digits().reshaped((64,))
    x, y = torch.tensor(digits.x_train).float(), torch.tensor(digits.y_train)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    loss_fn = nn.CrossEntropyLoss()
    objective = Objective(model, loss_fn, (x, y), batch_size=MEASURED)
    what = objective.by_class() if classes else objective
    options = {"check_every": None} if case == "probe" else {}
    with Tracker(model, optimizer, what, estimator, views=Values, on_error="raise", **options) as tracker:
        counted(counts)
        for step in range(STEPS):
            index = torch.arange(step * BATCH, (step + 1) * BATCH)
            optimizer.zero_grad()
            loss_fn(model(x[index]), y[index]).backward()
            optimizer.step()
        counts = Counter(counts)  # not what the end of the run adds
    view = tracker.views["train"]
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "values": np.array(view.values),
        "masses": np.array(view.masses),
        "counts": np.array(json.dumps(counts)),
        "sizes": np.array([len(y), parameters, objective.theta().element_size()]),
        "vectors": np.array(view.vectors),
    }


def main(folder: str, case: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    np.savez(Path(folder) / f"{rank}.npz", **measured(case, Counter()))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads are not always gone when the interpreter ends, which aborts it


if __name__ == "__main__":
    main(*sys.argv[1:])
