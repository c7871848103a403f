"""What the options for large models save: peaks of a tracked training, in units of K float32 numbers.

Each peak is that of a child process. What a profiler of torch sees of its allocations tells the vectors (K,),
which ``vectors="host"`` moves to the host, from everything else, which stays on the device.
"""

import subprocess
import sys
from typing import Any, NamedTuple

import torch
from torch import nn

import lca
from lca_torch import Objective, Tracker
from validation.bench_torch.run import LARGE, mlp
from validation.evidence import peak_memory_mib
from validation.timing import memory_given_back

LOSS = nn.CrossEntropyLoss()
ESTIMATORS: dict[str, Any] = {
    "trapezoid": lca.PathIntegral(lca.TRAPEZOID),
    "rk4": lca.PathIntegral(lca.RK4),
}
OPTIONS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    'float32, vectors="host"': (torch.float32, {"vectors": "host"}),
    'bfloat16, precision="float32"': (torch.bfloat16, {"precision": "float32"}),
    'bfloat16, precision="float32", vectors="host"': (
        torch.bfloat16,
        {"precision": "float32", "vectors": "host"},
    ),
}
"""The dtype of the model, and the options of the objective."""


class Peaks(NamedTuple):
    """Of one child, in units of K float32 numbers."""

    resident: float
    """The largest resident memory of the process beyond that of plain training."""
    vectors: float
    """The largest number of vectors (K,) at a time."""
    others: float
    """The largest sum of all other tensors beyond that of plain training."""


def parameters() -> int:
    """K."""
    return sum(parameter.numel() for parameter in mlp(LARGE).parameters())


def train(option: str, estimator: str) -> None:
    """Three steps of SGD, tracked unless ``estimator`` is ``plain``; prints the peaks (run as a child)."""
    torch.manual_seed(0)
    dtype, options = OPTIONS[option]
    model = mlp(LARGE).to(dtype)
    x, y = torch.randn(4, LARGE[0], dtype=dtype), torch.randint(10, (4,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def steps() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            LOSS(model(x).float(), y).backward()
            optimizer.step()

    def run() -> None:
        if estimator == "plain":
            steps()
            return
        objective = Objective(model, LOSS, (x, y), batch_size=4, **options)
        with Tracker(
            model, optimizer, objective, ESTIMATORS[estimator], views=lambda layout: _NoView(), on_error="raise"
        ):
            steps()

    if "--profiled" in sys.argv:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            run()
        print(*_of_events(profiler, 4 * parameters()))
    else:
        run()
        print(peak_memory_mib())


class _NoView:
    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def _of_events(profiler: Any, vector: int) -> tuple[float, float]:
    """The most vectors at a time, and the most bytes of other tensors in units of a vector."""
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    vectors = others = most = largest = 0
    for size in sizes:
        if abs(size) == vector:
            vectors += 1 if size > 0 else -1
        else:
            others += size
        most, largest = max(most, vectors), max(largest, others)
    return most, largest / vector


def peaks(option: str, estimator: str, plain: Peaks | None = None) -> Peaks:
    """The peaks of one child, beyond those of ``plain``."""
    command = [sys.executable, "-m", "validation.large_models.run", "--memory-of", option, estimator]
    resident = float(_printed(command)[0]) / (4 * parameters() / 2**20)
    vectors, others = map(float, _printed([*command, "--profiled"]))
    found = Peaks(resident, vectors, others)
    if plain is None:
        return found
    return Peaks(found.resident - plain.resident, found.vectors, found.others - plain.others)


def _printed(command: list[str]) -> list[str]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=memory_given_back())
    return done.stdout.split()


def measured() -> dict[str, dict[str, dict[str, float]]]:
    """The peaks beyond plain training, by option and estimator."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for option in OPTIONS:
        plain = peaks(option, "plain")
        found[option] = {name: peaks(option, name, plain)._asdict() for name in ESTIMATORS}
    return found
