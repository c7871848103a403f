"""Claim: what a cheap estimator holds beyond training, in vectors of K numbers, is a few of them.

Peak resident memory of four steps in a process of its own, less that of plain training, for a dense network
of 2.8 million parameters with activations of next to no size. The views keep nothing.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SampledPathIntegral
from lca_torch import Objective, Tracker
from validation.bench_sampled.folder import FOLDER
from validation.bench_sampled.run import OPTIMIZERS
from validation.bench_torch.run import mlp
from validation.evidence import keep, peak_memory_mib
from validation.timing import memory_given_back

WIDTHS = (1184,) * 3 + (10,)
LOSS = nn.CrossEntropyLoss()
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "CrossFit()": CrossFit,
    "CrossFit(independent=True)": partial(CrossFit, independent=True),
    "CrossFit(own_pass=True)": partial(CrossFit, own_pass=True),
    "LaggedCrossFit()": LaggedCrossFit,
    "NextBatch()": NextBatch,
    "SampledPathIntegral(size=4)": partial(SampledPathIntegral, size=4),
    "SampledPathIntegral(size=4, micro_batches=4)": partial(SampledPathIntegral, size=4, micro_batches=4),
}


class _NoView:
    def update(self, allocation: object) -> None:
        pass


def train(what: str, optimizer_name: str) -> None:
    """Four steps, tracked as ``what`` says; prints the peak in MiB (run as a child)."""
    torch.manual_seed(0)
    model = mlp(WIDTHS)
    x, y = torch.randn(8, WIDTHS[0]), torch.randint(10, (8,))
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    if what == "plain":
        for _ in range(4):
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
    else:
        objective = Objective(model, LOSS, (x, y), batch_size=8)
        estimator = ESTIMATORS[what]()
        parts = 2 if "micro_batches" in estimator.required_fields else 1
        with Tracker(
            model, optimizer, objective, estimator, views=lambda layout: _NoView(), check_every=None
        ) as tracker:
            for batch in tracker.batches([(x, y)] * 4):
                optimizer.zero_grad()
                for (inputs, labels), weight in tracker.micro_batches(batch, parts):
                    (weight * LOSS(model(inputs), labels)).backward()
                optimizer.step()
    print(peak_memory_mib())


def beyond_training(optimizer: str, only: str) -> dict[str, float]:
    """Peak memory beyond that of plain training, in vectors of K float32 numbers, by estimator."""
    vector = sum(p.numel() for p in mlp(WIDTHS).parameters()) * 4 / 2**20
    names = [name for name in ESTIMATORS if only in name]
    peaks = {name: _peak(name, optimizer) for name in ("plain", *names)}
    return {name: (peaks[name] - peaks["plain"]) / vector for name in names}


def _peak(what: str, optimizer: str) -> float:
    command = [sys.executable, "-m", "validation.bench_sampled.memory", "--memory-of", what, optimizer]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=memory_given_back())
    return float(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-of", nargs=2, metavar=("WHAT", "OPTIMIZER"), help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="part of the name of an estimator")
    parser.add_argument("--keep", default="", help="name of the file of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        train(*options.memory_of)
        return
    results = {name: beyond_training(name, options.only) for name in OPTIMIZERS}
    for optimizer, found in results.items():
        for name, vectors in found.items():
            print(f"{optimizer}, {name}: {vectors:.1f} vectors of K beyond training")
    if options.keep:
        keep(FOLDER, options.keep, {"vectors of K beyond training": results})


if __name__ == "__main__":
    main()
