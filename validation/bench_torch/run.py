"""Claims on speed with torch: measuring costs its gradient passes; a tracker without measurement is free.

- allocating over the same gradient passes written by hand: MNIST-FC, and ResNet-20 on images of CIFAR's size;
- training with a tracker that measures no step, over plain training;
- memory beyond training in vectors of K floats;
- time against the number of examples and of parameters.

Times are ratios inside one run: both sides alternate, the order swaps every round, and the median of the
pairwise ratios is quoted. Processes differ by a few per cent, with the places of their objects in memory: the
ratios of MNIST-FC are medians over ``--processes`` short ones. Freed memory is kept
(`validation.timing.keep_memory`).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import lca
from lca_torch import Objective, Tracker
from validation.bench_torch.resnet20 import resnet20
from validation.evidence import keep, peak_memory_mib, verdict
from validation.mnist_fc_torch.run import he_normal_mlp, mnist
from validation.timing import Pair, interleaved, keep_memory, memory_given_back

FOLDER = Path(__file__).parent
LOSS = nn.CrossEntropyLoss()
RULES = {"trapezoid": lca.TRAPEZOID, "rk4": lca.RK4}
IDLE = "tracker without measurement"
LIMIT_OF_IDLE = 1.02
ROUNDS_OF_A_PROCESS = 5
LARGE = (1184,) * 13 + (10,)
"""Widths of the network of the memory test: 16.8 million parameters, 64 MiB a vector, of which the largest
tensor is a twelfth, and activations of next to no size."""


# --- allocating over bare gradients ----------------------------------------------------------------------


def by_hand(model: nn.Module, data: tuple[Tensor, Tensor], size: int, theta: Tensor) -> float:
    """Loss and gradient over the data, in the model's own ``.grad``: what one writes without a library."""
    x, y = data
    nn.utils.vector_to_parameters(theta, model.parameters())
    model.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=theta.device)
    for i in range(0, len(x), size):
        part, labels = x[i : i + size], y[i : i + size]
        loss = LOSS(model(part), labels) * (len(part) / len(x))
        loss.backward()
        total += loss.detach()
    return float(total)


def overhead(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    size: int,
    rule: lca.QuadratureRule,
    *,
    steps: int,
    rounds: int,
) -> dict[str, Any]:
    """Allocating a short path over the gradients at the same points by hand, both in training mode."""
    objective = Objective(model, LOSS, data, batch_size=size)
    theta = objective.theta()
    points, generator = [theta], torch.Generator(theta.device).manual_seed(1)
    for _ in range(steps):
        noise = torch.randn(theta.shape, generator=generator, device=theta.device)
        points.append(points[-1] + 1e-3 * noise)
    inner = [c for c in rule.nodes if 0 < c < 1]
    nodes = [theta]
    for start, end in zip(points[:-1], points[1:], strict=True):
        nodes += [start + c * (end - start) for c in inner] + [end]

    def allocate() -> None:
        for _ in lca.allocate(objective, lca.Trajectory(points), lca.PathIntegral(rule), check=False):
            pass

    def bare() -> None:
        model.train()
        for node in nodes:
            by_hand(model, data, size, node)

    found = interleaved(allocate, bare, rounds)
    return {"gradients": len(nodes), **_named(found, "allocate_s", "by_hand_s")}


def cifar_like(examples: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images of CIFAR's size: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 3, 32, 32, generator=generator)
    return x.to(device), torch.randint(10, (examples,), generator=generator).to(device)


# --- a tracker that measures nothing ---------------------------------------------------------------------


def idle_tracker(rounds: int, steps: int = 880) -> dict[str, Any]:
    """The MNIST-FC run of the paper (Adam, 4 epochs): with a tracker that never measures, and without."""
    data = mnist().tensors
    model = he_normal_mlp()
    objective = Objective(model, LOSS, data, batch_size=1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)

    def train() -> None:
        for i in range(steps):
            part = slice(250 * (i % 220), 250 * (i % 220 + 1))
            optimizer.zero_grad()
            LOSS(model(data[0][part]), data[1][part]).backward()
            optimizer.step()

    def tracked() -> None:
        with Tracker(model, optimizer, objective, every=lambda step: False):
            train()

    found = _named(interleaved(tracked, train, rounds), "tracked_s", "plain_s")
    with _Timed() as timed, Tracker(model, optimizer, objective, every=lambda step: False):
        timed.until_here()
        train()
    return {"steps": steps, **found, "own_work": timed.median() * steps / found["plain_s"]}


class _Timed:
    """Times what torch calls between two of our hooks: those of a tracker that is entered in between.

    A ratio of the times of two runs holds what else a process does to its memory and caches: with two hooks
    that do nothing it differed by 4 % between processes. This sees the tracker's own work alone, within
    real training.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._handles: list[Any] = []
        self._began = 0.0

    def __enter__(self) -> "_Timed":
        self._register(self._begin)
        return self

    def until_here(self) -> None:
        self._register(self._end)

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def median(self) -> float:
        """Seconds of both hooks of an update."""
        return median(self.seconds[::2]) + median(self.seconds[1::2])

    def _register(self, hook: Callable[..., None]) -> None:
        self._handles += [register_optimizer_step_pre_hook(hook), register_optimizer_step_post_hook(hook)]

    def _begin(self, *args: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, *args: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def parts(rounds: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured in several processes: MNIST-FC under each rule, and the idle tracker."""
    of_rules = {
        f"MNIST-FC, {name}": partial(
            overhead, he_normal_mlp(), mnist().tensors, 1000, rule, steps=1, rounds=rounds
        )
        for name, rule in RULES.items()
    }
    return {**of_rules, IDLE: partial(idle_tracker, rounds)}


def in_processes(part: str, count: int) -> dict[str, Any]:
    """Medians over processes of the numbers of a part, and the ratio of each process."""
    command = [sys.executable, "-m", "validation.bench_torch.run", "--part", part]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(count)
    ]
    middle = {name: median(run[name] for run in runs) for name in runs[0]}
    return {**middle, "ratios": [round(run["ratio"], 4) for run in runs]}


def _named(found: Pair, a: str, b: str) -> dict[str, float]:
    return {a: found.a, b: found.b, "ratio": found.ratio, "cpu_ratio": found.cpu_ratio}


# --- memory ----------------------------------------------------------------------------------------------


def mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def memory(what: str, optimizer_name: str) -> None:
    """Print the peak memory in MiB of three steps of training, tracked as ``what`` says (run as a child)."""
    torch.manual_seed(0)
    model = mlp(LARGE)
    x, y = torch.randn(4, LARGE[0]), torch.randint(10, (4,))
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=1e-5)

    def train() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()

    if what == "plain":
        train()
    else:
        estimator = lca.PathIntegral(RULES[what]) if what in RULES else lca.Adaptive()
        objective = Objective(model, LOSS, (x, y), batch_size=4)
        # Views that keep nothing: what a report needs is not what the estimator needs.
        with Tracker(model, optimizer, objective, estimator, views=lambda layout: _NoView()):
            train()
    print(peak_memory_mib())


class _NoView:
    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def memory_beyond_training(optimizer: str) -> dict[str, float]:
    """Peak memory beyond that of plain training, in vectors of K float32 numbers."""
    vector = sum(p.numel() for p in mlp(LARGE).parameters()) * 4 / 2**20
    peaks = {what: _peak(what, optimizer) for what in ("plain", *RULES, "adaptive")}
    return {what: (peak - peaks["plain"]) / vector for what, peak in peaks.items() if what != "plain"}


def _peak(what: str, optimizer: str) -> float:
    command = [sys.executable, "-m", "validation.bench_torch.run", "--memory-of", what, optimizer]
    exact = memory_given_back()
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=exact).stdout)


# --- curves ----------------------------------------------------------------------------------------------


def seconds_a_step(model: nn.Module, data: tuple[Tensor, Tensor], rounds: int) -> dict[str, float]:
    """A trapezoid step (one new gradient), and a gradient by hand."""
    objective = Objective(model, LOSS, data, batch_size=1000)
    theta = objective.theta()
    points = [theta, theta * 1.001, theta]

    def allocate() -> None:
        path = lca.Trajectory(points)
        for _ in lca.allocate(objective, path, lca.PathIntegral(lca.TRAPEZOID), check=False):
            pass

    found = interleaved(allocate, lambda: [by_hand(model, data, 1000, point) for point in points], rounds)
    return {"allocate_s": found.a / 3, "by_hand_s": found.b / 3}


def curves(rounds: int) -> dict[str, Any]:
    """Seconds a gradient, in `allocate` and by hand, against examples and against parameters."""
    x, y = mnist().tensors
    by_examples = {
        n: seconds_a_step(he_normal_mlp(), (x[:n], y[:n]), rounds)
        for n in (1000, 3000, 10_000, 30_000, 55_000)
    }
    by_parameters = {}
    for width in (30, 100, 300, 1000, 3000):
        model = mlp((784, width, width, 10))
        k = sum(p.numel() for p in model.parameters())
        by_parameters[k] = seconds_a_step(model, (x[:2000], y[:2000]), rounds)
    return {"by examples (84,060 parameters)": by_examples, "by parameters (2,000 examples)": by_parameters}


def draw(curves: dict[str, Any], path: Path) -> None:
    """Both curves in one figure."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for ax, (title, rows) in zip(axes, curves.items(), strict=True):
        sizes = [int(size) for size in rows]
        ax.loglog(sizes, [r["by_hand_s"] for r in rows.values()], "o-", color="0.6", lw=4, label="by hand")
        ax.loglog(sizes, [r["allocate_s"] for r in rows.values()], ".-", label="lca.allocate, trapezoid")
        ax.set(title=title, xlabel=title.split()[1])
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("seconds a gradient")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write results.json and curves.png, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--processes", type=int, default=20, help="for MNIST-FC (%(default)s)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", nargs=2, metavar=("WHAT", "OPTIMIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory(*options.memory_of)
        return
    keep_memory("validation.bench_torch.run")
    torch.manual_seed(0)
    if options.part:
        print(json.dumps(parts(ROUNDS_OF_A_PROCESS)[options.part]()))
        return
    began = time.perf_counter()
    results: dict[str, Any] = {"rounds": options.rounds, "threads": torch.get_num_threads()}
    for name in (*(f"MNIST-FC, {rule}" for rule in RULES), IDLE):
        results[name] = in_processes(name, options.processes)
    for name, rule in RULES.items():
        results[f"ResNet-20, {name}"] = overhead(
            resnet20(), cifar_like(500), 250, rule, steps=1, rounds=options.rounds
        )
    memories = {name: memory_beyond_training(name) for name in ("Adam", "SGD")}
    results["memory beyond training, vectors of K"] = memories
    results["curves"] = curves(max(3, options.rounds // 8))
    results["seconds"] = time.perf_counter() - began
    for name, figures in results.items():
        print(f"{name}: {figures}")
    keep(FOLDER, "results.json", results)
    draw(results["curves"], FOLDER / "curves.png")
    ratios = {n: r["ratio"] for n, r in results.items() if isinstance(r, dict) and "gradients" in r}
    idle = results[IDLE]
    verdict(
        {f"{name}: {ratio:.3f} ≤ 1.03": ratio <= 1.03 for name, ratio in ratios.items()}
        | {
            f"{IDLE}: {idle['ratio']:.3f} ≤ 1.02, own work {idle['own_work']:.4f}": idle["ratio"]
            <= LIMIT_OF_IDLE
        }
        | {
            f"memory of {estimator} beyond {optimizer}: {vectors:.2f} ≤ 4 K floats": vectors <= 4
            for optimizer, rows in memories.items()
            for estimator, vectors in rows.items()
        }
    )


if __name__ == "__main__":
    main()
