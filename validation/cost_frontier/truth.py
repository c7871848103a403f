"""Is full-data rk4 the truth? How far fixed rules miss the loss change in the first steps of the LeNet.

A claim about cheap estimators needs a truth that is one. The loss change itself is known, so the rules can be
held against it: at some learning rates the first steps of this network are too large for any of them. The
case `mnist_lenet` takes the largest rate of each series at which rk4 is within 1 %.
"""

import argparse
import time
from pathlib import Path

import lca
from validation.cost_frontier.case import Options, Shown, SuppliedFields
from validation.cost_frontier.torch_case import LENET_RATES, mnist_lenet
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
RATES = {"momentum": (0.05, 0.02, 0.01), "adam": (0.002, 0.001, 0.0005)}
RULES = {"trapezoid": lca.TRAPEZOID, "rk4": lca.RK4}
MOST = 1.0
"""Largest error of rk4's sum, in % of the loss change."""


def errors(optimizer: str, rate: float, steps: int) -> dict[str, float]:
    """By rule: how far the sum over the run is from the loss change, in % of it; and the largest loss."""
    case = mnist_lenet(rates={optimizer: rate})
    objective = case.objective()
    allocators = {name: lca.PathIntegral(rule).start(objective) for name, rule in RULES.items()}
    sums, losses = dict.fromkeys(RULES, 0.0), []

    def allocate(step: lca.Step) -> lca.StepAllocation:
        for name, allocator in allocators.items():
            a = allocator(step)
            sums[name] += a.loss_change - a.residual
        losses.extend((a.loss_start, a.loss_end))
        return a

    case.follow(objective, Options(optimizer, 0, steps), Shown(allocate), SuppliedFields())
    change = losses[-1] - losses[0]
    off = {name: 100 * (total / change - 1) for name, total in sums.items()}
    return {**off, "first_loss": losses[0], "largest_loss": max(losses), "last_loss": losses[-1]}


def main() -> None:
    """Measure, keep, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    began, found = time.perf_counter(), {}
    for optimizer, rates in RATES.items():
        found[optimizer] = {rate: errors(optimizer, rate, options.steps) for rate in rates}
    holds = {
        f"{optimizer}: rk4 is within {MOST:g} % at {LENET_RATES[optimizer]:g}, and at no larger rate": (
            [rate for rate, row in by_rate.items() if abs(row["rk4"]) <= MOST] == [LENET_RATES[optimizer]]
        )
        for optimizer, by_rate in found.items()
    }
    seconds = time.perf_counter() - began
    results = {"off_percent_by_rate": found, "claims": holds, "seconds": seconds}
    keep(FOLDER, "truth.json", results)
    verdict(holds)


if __name__ == "__main__":
    main()
