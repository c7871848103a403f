"""Claim: the NumPy reference reproduces the paper's MNIST-FC figure, adds up, and adaptive costs half.

The set-up of Lan et al. 2019: a 784-100-50-10 ReLU network (He-normal), Adam 0.002, batches of 250, 880
updates (4 epochs), and the loss of all 55,000 training images as the measured loss, float32.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import lca
from lca.allocation import Estimator
from lca.reference import Adam, DatasetLoss, load_split, minibatches, mlp, train
from lca.views import GroupTotals, HelpingCounts, Trace
from validation.evidence import keep, mnist_path, peak_memory_mib, verdict

ESTIMATORS = {"rk4": lca.PathIntegral(lca.RK4, tol=1e-3), "adaptive": lca.Adaptive(tol=1e-3)}


def measure(seed: int, steps: int, estimator: Estimator) -> dict[str, Any]:
    """Train once and allocate every step; the figures of the run."""
    data = load_split(mnist_path(), dtype=np.float32)
    x, y = data.x_train[:55_000].reshape(55_000, -1), data.y_train[:55_000]
    network = mlp((784, 100, 50, 10))
    objective = DatasetLoss(network, x, y)
    trace = Trace()
    signs = HelpingCounts()
    tensors = GroupTotals(network.layout.groups("tensor"), keep_rows=False)

    run = train(objective, network.init(seed, np.float32), Adam(0.002), minibatches(x, y, 250, steps, seed))
    began = time.perf_counter()
    for allocation in tqdm(lca.allocate(objective, run, estimator), total=steps, unit="step"):
        for view in (trace, signs, tensors):
            view.update(allocation)
    rows = trace.rows
    change = float(rows["loss_end"][-1] - rows["loss_start"][0])
    return {
        "seed": seed,
        "loss_start": float(rows["loss_start"][0]),
        "loss_end": float(rows["loss_end"][-1]),
        "lca_total": float(rows["total"].sum()),
        "cumulative_error_percent": 100 * abs(float(rows["residual"].sum()) / change),
        "summed_absolute_error_percent": 100 * float(np.abs(rows["residual"]).sum()) / abs(change),
        "max_step_residual": float(np.abs(rows["residual"]).max()),
        "unconverged_steps": int((~rows["converged"]).sum()),
        "full_gradients_per_step": float(rows["full_gradients"].mean()),
        "helping_percent": float(signs.per_step().mean_helping_percent()),
        "zero_percent": float(signs.per_step().mean_zero_percent()),
        "per_tensor": tensors.by_name(),
        "seconds": time.perf_counter() - began,
        "peak_memory_mib": peak_memory_mib(),
    }


def main() -> None:
    """Run every seed and estimator, print the table, write results.json, judge the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=880)
    options = parser.parse_args()

    runs = {
        name: [measure(seed, options.steps, estimator) for seed in options.seeds]
        for name, estimator in ESTIMATORS.items()
    }
    for name, results in runs.items():
        for r in results:
            print(
                f"{name:9} seed {r['seed']}: loss {r['loss_start']:.4f} -> {r['loss_end']:.4f}, "
                f"Σ LCA {r['lca_total']:.4f}, cumulative error {r['cumulative_error_percent']:.4f} %, worst "
                f"step {r['max_step_residual']:.1e}, {r['unconverged_steps']} not converged, "
                f"{r['full_gradients_per_step']:.3f} gradients a step, helping {r['helping_percent']:.2f} % "
                f"({r['zero_percent']:.1f} % zeros), {r['seconds']:.0f} s, {r['peak_memory_mib']:.0f} MiB"
            )
    keep(Path(__file__).parent, "results.json", {"steps": options.steps, "runs": runs})
    verdict(
        {
            "helping % (rk4) within 0.5 of the paper's 55.82": all(
                abs(r["helping_percent"] - 55.82) <= 0.5 for r in runs["rk4"]
            ),
            "cumulative error of rk4 < 0.1 %": all(r["cumulative_error_percent"] < 0.1 for r in runs["rk4"]),
            "adaptive at 1e-3 a step: ≤ 1.05 gradients a step": all(
                r["full_gradients_per_step"] <= 1.05 for r in runs["adaptive"]
            ),
            "adaptive: every step converged": all(r["unconverged_steps"] == 0 for r in runs["adaptive"]),
        }
    )


if __name__ == "__main__":
    main()
