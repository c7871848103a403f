"""Claim: on a torch training loop, the tracker reproduces the paper's MNIST-FC figures, and the sums add up.

The set-up of Lan et al. 2019: a 784-100-50-10 ReLU network (He-normal), batches of 250, 880 updates (4
epochs), float32, and the loss of all 55,000 training images as the measured loss; Adam 0.002, and SGD 0.05
with momentum 0.9. The loop is an ordinary one, with a `DataLoader`; all measuring is done by the tracker.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import lca
from lca.data import load
from lca.summary import RunViews
from lca_torch import Objective, Tracker
from validation.evidence import keep, mnist_path, peak_memory_mib, verdict

FOLDER = Path(__file__).parent
ESTIMATORS = {"rk4": lca.PathIntegral(lca.RK4, tol=1e-3), "adaptive": lca.Adaptive(tol=1e-3)}
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.002),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
}
PAPER_HELPING = 55.82
NAMES = {"0.": "fc1.", "2.": "fc2.", "4.": "fc3."}


def mnist() -> TensorDataset:
    """The 55,000 training images as rows, pixels in [0, 1]."""
    data = load(mnist_path(), dtype=np.float32)
    x = torch.from_numpy(data.x_train[:55_000].reshape(55_000, -1))
    return TensorDataset(x, torch.from_numpy(data.y_train[:55_000]))


def he_normal_mlp() -> nn.Sequential:
    """784-100-50-10 with ReLU; weights He-normal, biases 0."""
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def measure(optimizer_name: str, estimator_name: str, seed: int, steps: int) -> dict[str, Any]:
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
    residuals, summary = view.trace.rows["residual"], tracker.summary()["train"]
    change = summary["loss_end"] - summary["loss_start"]
    return {
        "optimizer": optimizer_name,
        "estimator": estimator_name,
        "seed": seed,
        **summary,
        "cumulative_error_percent": 100 * abs(summary["residual"] / change),
        "summed_absolute_error_percent": 100 * float(np.abs(residuals).sum()) / abs(change),
        "seconds": time.perf_counter() - began,
        "threads": torch.get_num_threads(),
        "peak_memory_mib": peak_memory_mib(),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """All runs, the mean over seeds, and the paper's figure beside them; Markdown."""
    lines = [
        "| optimizer, estimator | seed | helping % (zeros) | cumulative error | gradients a step | "
        "not converged | loss | " + " | ".join(_tensors(runs[0])) + " | time |",
        "|" + "---|" * (8 + len(_tensors(runs[0]))),
    ]
    for r in runs:
        lines.append(
            f"| {r['optimizer']}, {r['estimator']} | {r['seed']} | {r['helping_percent']:.2f} "
            f"({r['zero_percent']:.1f}) | {r['cumulative_error_percent']:.4f} % | "
            f"{r['full_gradients_per_step']:.3f} | {r['unconverged_steps']} | {r['loss_start']:.3f} → "
            f"{r['loss_end']:.4f} | "
            + " | ".join(f"{total:+.4f}" for total in _tensors(r).values())
            + f" | {r['seconds']:.0f} s |"
        )
    lines += ["", "| | helping %, mean over seeds ± standard deviation |", "|---|---|"]
    for optimizer in OPTIMIZERS:
        helping = [r["helping_percent"] for r in _those(runs, optimizer, "rk4")]
        if len(helping) > 1:
            lines.append(
                f"| {optimizer}, rk4, {len(helping)} seeds | {mean(helping):.2f} ± {stdev(helping):.2f} |"
            )
    lines.append(f"| the paper, Adam 0.002 | {PAPER_HELPING} ± 0.09 |")
    return "\n".join(lines) + "\n"


def _tensors(run: dict[str, Any]) -> dict[str, float]:
    return {NAMES[name[:2]] + name[2:]: total for name, total in run["per_tensor"].items()}


def _those(runs: list[dict[str, Any]], optimizer: str, estimator: str) -> list[dict[str, Any]]:
    return [r for r in runs if (r["optimizer"], r["estimator"]) == (optimizer, estimator)]


def claims(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """What the runs made so far must show."""
    rk4 = [r for r in runs if r["estimator"] == "rk4"]
    adaptive = [r for r in runs if r["estimator"] == "adaptive"]
    return {
        "helping % (Adam, rk4) within 0.5 of the paper's 55.82, every seed": all(
            abs(r["helping_percent"] - PAPER_HELPING) <= 0.5 for r in _those(runs, "adam", "rk4")
        ),
        "cumulative error of rk4 < 0.1 %, every run": all(r["cumulative_error_percent"] < 0.1 for r in rk4),
        "adaptive at 1e-3 a step: every step converged": all(r["unconverged_steps"] == 0 for r in adaptive),
        "adaptive: ≤ 1.05 gradients a step": all(r["full_gradients_per_step"] <= 1.05 for r in adaptive),
    }


def main() -> None:
    """Make the runs that are asked for, one after the other; each is kept as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=880)
    parser.add_argument("--table", action="store_true", help="make no run; judge the runs that were kept")
    options = parser.parse_args()
    if not options.table:
        for estimator in options.estimators:
            for seed in options.seeds:
                for optimizer in options.optimizers:
                    run = measure(optimizer, estimator, seed, options.steps)
                    keep(FOLDER, f"{optimizer}-{estimator}-{seed}.json", run)
    runs = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*-*-*.json"))]
    (FOLDER / "table.md").write_text(table(runs))
    print(table(runs))
    verdict(claims(runs))


if __name__ == "__main__":
    main()
