"""What `record=` adds to a training step of a tiny model, in plain steps.

A network of 12-10-4 is trained by SGD with momentum on 100 examples: alone, with a tracker, and with a
tracker that records; the three take turns. CPU time of one thread, median over rounds of the ratio within a
round.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import nn

import lca
from lca_torch import Objective, Tracker

LOSS = nn.CrossEntropyLoss()


def seconds(kind: str, steps: int) -> float:
    """CPU seconds a step, ``plain``, ``tracked`` or ``recorded``, after as many that do not count."""
    torch.manual_seed(0)
    x, y = torch.randn(100, 12), torch.randint(4, (100,))
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train() -> float:
        began = time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
        return (time.process_time() - began) / steps

    if kind == "plain":
        train()
        return train()
    with TemporaryDirectory() as folder:
        record = Path(folder) / "run" if kind == "recorded" else None
        objective = Objective(model, LOSS, (x, y))
        with Tracker(model, optimizer, objective, lca.PathIntegral(lca.LEFT), record=record):
            train()
            return train()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4096, help="a whole number of blocks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds, found = ["plain", "tracked", "recorded"], []
    for turn in range(options.rounds):
        order = kinds if turn % 2 else kinds[::-1]
        each = {kind: seconds(kind, options.steps) for kind in order}
        found.append((each["recorded"] - each["tracked"]) / each["plain"])
        print(", ".join(f"{kind} {1e6 * each[kind]:.0f} µs" for kind in kinds), flush=True)
    print(
        f"record= takes {median(found):.2f} plain steps a step (rounds {min(found):.2f} to {max(found):.2f})"
    )


if __name__ == "__main__":
    main()
