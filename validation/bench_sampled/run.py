"""Claim: a cheap estimator costs its own gradient passes; the package adds little to them.

For each estimator loops take turns in one process: the passes of the estimator by hand, with nothing
measured; the same with the leanest sums by hand (`validation.bench_sampled.by_hand`); with SGD
also all results of a tracker by hand; and a tracker with its default views and without the self-check, which
is a cost of its own. Figures are CPU time of one thread, the median over rounds of the ratio within a round.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from lca.estimators import CrossFit, SampledPathIntegral
from lca_torch import Objective, Tracker
from validation.bench_sampled.by_hand import (
    LOSS,
    Data,
    Halves,
    Probe,
    SameProbeResults,
    SameResults,
    Training,
)
from validation.bench_sampled.folder import FOLDER
from validation.evidence import keep
from validation.timing import keep_memory

Segment = Callable[[int], None]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.002),
}


def mnist_fc() -> nn.Module:
    """784-100-50-10, 84,060 parameters."""
    return dense((784, 100, 50, 10))


def wide() -> nn.Module:
    """784-1300-1300-10, 2,724,810 parameters: each vector is larger than a cache."""
    return dense((784, 1300, 1300, 10))


def dense(widths: tuple[int, ...]) -> nn.Module:
    """Dense layers of these widths, with ReLU."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet() -> nn.Module:
    """Two convolutions and three dense layers on 28x28 pixels, 61,706 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


CASES = {
    "fc 250": (mnist_fc, 250),
    "fc 1000": (mnist_fc, 1000),
    "lenet 250": (lenet, 250),
    "wide 250": (wide, 250),
}


def pictures(n: int = 8000) -> Data:
    """Random inputs, with the labels of a linear teacher: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 784, generator=generator)
    return x, (x @ torch.randn(784, 10, generator=generator)).argmax(1)


class Tracked:
    """The loop of a user with a tracker."""

    def __init__(self, training: Training, estimator: Any, parts: int) -> None:
        objective = Objective(training.model, LOSS, training.data, batch_size=1000)
        self.training, self.parts = training, parts
        self.tracker = Tracker(training.model, training.optimizer, objective, estimator, check_every=None)

    def step(self, i: int) -> None:
        if self.parts == 1:
            self.training.step(i)
            return
        training = self.training
        training.optimizer.zero_grad()
        for (x, y), weight in self.tracker.micro_batches(training.part(i), self.parts):
            training.backward(x, y, weight)
        training.optimizer.step()


def sides(case: str, optimizer: str, estimator: str) -> dict[str, Any]:
    """The loops to be compared, by name."""
    make, batch = CASES[case]

    def made(kind: Any, **options: Any) -> Any:
        torch.manual_seed(0)
        model = make()
        return kind(model, OPTIMIZERS[optimizer](model.parameters()), pictures(), batch, **options)

    if estimator == "cross-fit":
        return {
            "plain": made(Training),
            "passes": made(Halves),
            "by hand": made(Halves, sums=True),
            **({"same results": made(SameResults)} if optimizer == "sgd" else {}),
            "tracker": Tracked(made(Training), CrossFit(), 2),
        }
    pieces = 4 if estimator == "probe, 4 pieces" else 1
    probe = SampledPathIntegral(size=batch // 4 * 4, micro_batches=pieces)
    options = {"size": probe.size, "pieces": pieces}
    return {
        "plain": made(Training),
        "passes": made(Probe, **options),
        "by hand": made(Probe, sums=True, **options),
        **({"same results": made(SameProbeResults, **options)} if optimizer == "sgd" else {}),
        "tracker": Tracked(made(Training), probe, 1),
    }


def timed(side: Any, steps: int) -> float:
    """CPU seconds a step, after three that do not count."""
    with side.tracker if isinstance(side, Tracked) else _nothing():
        for i in range(3):
            side.step(i)
        began = time.process_time()
        for i in range(steps):
            side.step(i)
        return (time.process_time() - began) / steps


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def compare(case: str, optimizer: str, estimator: str, rounds: int, steps: int) -> dict[str, float]:
    """Microseconds of the passes, and the median ratio of the others to them."""
    loops = sides(case, optimizer, estimator)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds):
        names = list(loops)
        for name in names if turn % 2 else names[::-1]:
            times[name].append(timed(loops[name], steps))
    passes = times["passes"]
    found = {"passes_us": 1e6 * median(passes)}
    for name in [name for name in loops if name != "passes"]:
        found[name] = median(x / y for x, y in zip(times[name], passes, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", default="", help="part of 'case optimizer estimator'")
    parser.add_argument("--keep", default="", help="name of the file of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for case in CASES:
        for estimator in ("cross-fit", "probe", "probe, 4 pieces"):
            for optimizer in OPTIMIZERS:
                name = f"{case}, {optimizer}, {estimator}"
                if options.only not in name:
                    continue
                results[name] = compare(case, optimizer, estimator, options.rounds, options.steps)
                shown = ", ".join(f"{k} {v:.2f}" for k, v in results[name].items())
                print(f"{name}: {shown}", flush=True)
    if options.keep:
        keep(FOLDER, options.keep, {"rounds": options.rounds, "steps": options.steps, "ratios": results})


if __name__ == "__main__":
    keep_memory("validation.bench_sampled.run")
    main()
