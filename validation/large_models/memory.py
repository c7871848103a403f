"""What the options for large models take beyond training, in units of K float32 numbers.

A profiler of torch counts the allocations: vectors (K,), which ``vectors="host"`` moves to the host, and
everything else, which stays on the device. The resident memory of a child process includes making the
objective.
"""

import gc
import subprocess
import sys
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import lca
from lca_torch import Objective, Tracker
from validation.bench_torch.run import mlp
from validation.evidence import peak_memory_mib
from validation.timing import memory_given_back

LOSS = nn.CrossEntropyLoss()
LARGE = (512,) * 13 + (10,)
"""Widths of the network: 3.2 million parameters, of which the largest tensor is a twelfth, and activations of
next to no size."""
ESTIMATORS: dict[str, Any] = {
    "trapezoid": lca.PathIntegral(lca.TRAPEZOID),
    "rk4": lca.PathIntegral(lca.RK4),
}
OPTIONS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    'float32, `vectors="host"`': (torch.float32, {"vectors": "host"}),
    'bfloat16, `precision="float32"`': (torch.bfloat16, {"precision": "float32"}),
    "bfloat16, both": (torch.bfloat16, {"precision": "float32", "vectors": "host"}),
}
"""The dtype of the model, and the options of the objective."""
STEPS = 4
"""The second and the fourth are checked: the loss is evaluated again, and the model copied anew."""
PHASES = {"ordinary": 2, "checked": 3, "making": -1}
"""A step of each kind; before the first one, the objective and the tracker are made."""


def parameters() -> int:
    """K."""
    return sum(parameter.numel() for parameter in mlp(LARGE).parameters())


def train(option: str, estimator: str) -> None:
    """Some steps of SGD, tracked unless ``estimator`` is ``plain``."""
    torch.manual_seed(0)
    dtype, options = OPTIONS[option]
    model = mlp(LARGE).to(dtype)
    x, y = torch.randn(4, LARGE[0], dtype=dtype), torch.randint(10, (4,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def steps() -> None:
        for step in range(STEPS):
            with record_function(f"step {step}"):
                optimizer.zero_grad()
                LOSS(model(x).float(), y).backward()
                optimizer.step()

    if estimator == "plain":
        steps()
        return
    objective = Objective(model, LOSS, (x, y), batch_size=4, **options)
    chosen = ESTIMATORS[estimator]
    with Tracker(model, optimizer, objective, chosen, views=lambda layout: _NoView(), on_error="raise"):
        steps()


class _NoView:
    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def resident(option: str, estimator: str) -> None:
    """Print the largest resident memory of this process in MiB (run as a child)."""
    train(option, estimator)
    print(peak_memory_mib())


def counted(option: str, estimator: str) -> dict[str, tuple[float, float]]:
    """For each phase: the most vectors at a time, and the most of all else, in vectors."""
    gc.collect()  # what is freed later would count as negative
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(option, estimator)
        gc.collect()
    events = profiler.profiler.kineto_results.events()
    vector, vectors, others, step = 4 * parameters(), 0, 0, -1
    most: dict[int, tuple[float, float]] = {}
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name().startswith("step "):
            step = int(event.name().removeprefix("step "))
        elif event.name() == "[memory]":
            size = event.nbytes()
            if abs(size) == vector:
                vectors += 1 if size > 0 else -1
            else:
                others += size
            before = most.get(step, (0.0, 0.0))
            most[step] = max(before[0], vectors), max(before[1], others / vector)
    return {phase: most.get(step, (0.0, 0.0)) for phase, step in PHASES.items()}


def measured() -> dict[str, dict[str, dict[str, float]]]:
    """The peaks beyond plain training, by option and estimator."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for option in OPTIONS:
        plain, peak = counted(option, "plain"), _peak(option, "plain")
        found[option] = {}
        for name in ESTIMATORS:
            own = counted(option, name)
            found[option][name] = {"resident": _peak(option, name) - peak}
            for phase, (vectors, others) in own.items():
                found[option][name] |= {
                    f"vectors, {phase}": vectors,
                    f"others, {phase}": others - plain[phase][1],
                }
    return found


def _peak(option: str, estimator: str) -> float:
    """The largest resident memory of a child in vectors."""
    command = [sys.executable, "-m", "validation.large_models.run", "--memory-of", option, estimator]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=memory_given_back())
    return float(done.stdout.split()[-1]) / (4 * parameters() / 2**20)
