"""MNIST-FC of Lan et al. 2019, as every backend's validation runs it: data, figures, table, claims.

A 784-100-50-10 ReLU network (He-normal), batches of 250, 880 updates (4 epochs), float32, and the loss of all
55,000 training images as the measured loss.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

import lca
from lca.reference import Batch, load_split
from lca.summary import RunViews, summarize
from validation.evidence import keep, mnist_path, peak_memory_mib, verdict

ESTIMATORS = {"rk4": lca.PathIntegral(lca.RK4, tol=1e-3), "adaptive": lca.Adaptive(tol=1e-3)}
PAPER_HELPING, PAPER_DEVIATION = 55.82, 0.09
TENSORS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias")
Run = dict[str, Any]


def images() -> Batch:
    """The 55,000 training images as rows, pixels in [0, 1], and their digits."""
    data = load_split(mnist_path(), dtype=np.float32)
    return Batch(data.x_train[:55_000].reshape(55_000, -1), data.y_train[:55_000])


def figures(run: RunViews, began: float) -> Run:
    """What is kept of a run: its summary, how well it adds up, time since ``began`` and memory."""
    summary = summarize(run)
    change = summary["loss_end"] - summary["loss_start"]
    absolute = float(np.abs(run.trace.rows["residual"]).sum())
    return {
        **summary,
        "cumulative_error_percent": 100 * abs(summary["residual"] / change),
        "summed_absolute_error_percent": 100 * absolute / abs(change),
        "seconds": time.perf_counter() - began,
        "peak_memory_mib": peak_memory_mib(),
    }


def table(runs: list[Run], beside: Mapping[str, list[Run]]) -> str:
    """All runs, the mean over seeds, and beside it those of other backends and of the paper; Markdown."""
    lines = [
        "| optimizer, estimator | seed | helping % (zeros) | cumulative error | gradients a step | "
        "not converged | loss | " + " | ".join(TENSORS) + " | time |",
        "|" + "---|" * (8 + len(TENSORS)),
        *map(_row, runs),
        "",
        "| | helping %, mean over seeds ± standard deviation |",
        "|---|---|",
    ]
    for name, those in {"": runs, **beside}.items():
        for optimizer in sorted({r["optimizer"] for r in runs}):
            helping = [r["helping_percent"] for r in of(those, optimizer, "rk4")]
            if len(helping) > 1:
                deviation = f"{mean(helping):.2f} ± {stdev(helping):.2f}"
                lines.append(f"| {name}{optimizer}, rk4, {len(helping)} seeds | {deviation} |")
    lines.append(f"| the paper, Adam 0.002 | {PAPER_HELPING} ± {PAPER_DEVIATION} |")
    return "\n".join(lines) + "\n"


def _row(r: Run) -> str:
    totals = " | ".join(f"{total:+.4f}" for total in r["per_tensor"].values())  # in the order of TENSORS
    return (
        f"| {r['optimizer']}, {r['estimator']} | {r['seed']} | {r['helping_percent']:.2f} "
        f"({r['zero_percent']:.1f}) | {r['cumulative_error_percent']:.4f} % | "
        f"{r['full_gradients_per_step']:.3f} | {r['unconverged_steps']} | {r['loss_start']:.3f} → "
        f"{r['loss_end']:.4f} | {totals} | {r['seconds']:.0f} s |"
    )


def of(runs: list[Run], optimizer: str, estimator: str) -> list[Run]:
    """The runs with this optimizer and this estimator."""
    return [r for r in runs if (r["optimizer"], r["estimator"]) == (optimizer, estimator)]


def kept(folder: Path) -> list[Run]:
    """The runs that were kept in a validation folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-*-*.json"))]


def claims(runs: list[Run]) -> dict[str, bool]:
    """What the runs made so far must show."""
    rk4 = [r for r in runs if r["estimator"] == "rk4"]
    adaptive = [r for r in runs if r["estimator"] == "adaptive"]
    return {
        "helping % (Adam, rk4) within 0.5 of the paper's 55.82, every seed": all(
            abs(r["helping_percent"] - PAPER_HELPING) <= 0.5 for r in of(runs, "adam", "rk4")
        ),
        "cumulative error of rk4 < 0.1 %, every run": all(r["cumulative_error_percent"] < 0.1 for r in rk4),
        "adaptive at 1e-3 a step: every step converged": all(r["unconverged_steps"] == 0 for r in adaptive),
        "adaptive: ≤ 1.05 gradients a step": all(r["full_gradients_per_step"] <= 1.05 for r in adaptive),
    }


def main(
    doc: str | None,
    folder: Path,
    optimizers: Iterable[str],
    measure: Callable[[str, str, int, int], Run],
    beside: Mapping[str, Path] | None = None,
) -> None:
    """Make the runs that are asked for, one after the other; each is kept as soon as it is done.

    ``measure(optimizer, estimator, seed, steps)`` trains once; ``beside`` names folders with the runs of
    other backends, for the table.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--optimizers", nargs="+", default=list(optimizers), choices=list(optimizers))
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
                    keep(folder, f"{optimizer}-{estimator}-{seed}.json", run)
    runs = kept(folder)
    text = table(runs, {name: kept(other) for name, other in (beside or {}).items()})
    (folder / "table.md").write_text(text)
    print(text)
    verdict(claims(runs))
