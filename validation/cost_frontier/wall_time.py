"""Seconds of training with an estimator over seconds without, for the cases in torch.

Training with and without take turns, one estimator at a time; freed memory is kept (`validation.timing`).
The self-check of sums is timed by itself: it takes as long as one loss of the measured data, whatever the
estimator, and by default every hundredth step has one. Nothing else should run.
"""

import argparse
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from lca.errors import LCAError
from lca.estimators import StochasticEstimator
from validation.cost_frontier.case import MAIN, Case, Options, Seconds, SuppliedFields
from validation.cost_frontier.cases import CASES
from validation.cost_frontier.rows import BEST, DEALT, STRATIFIED, estimators
from validation.evidence import keep, verdict
from validation.timing import keep_memory

FOLDER = Path(__file__).parent
STEPS = {"mnist_fc": 80, "mnist_fc_1000": 40, "mnist_lenet": 16}
"""Whole epochs, as some estimators pass over all data once in each."""
TIMED = ("cross-fit", DEALT, STRATIFIED, f"{STRATIFIED}, refined", *BEST)
PLAIN, HALVES = "plain training", "two halves by hand"
Times = dict[str, dict[str, dict[str, float]]]


def wall_time(
    case: Case,
    options: Options,
    estimators: Mapping[str, StochasticEstimator],
    rounds: int,
    kind: str = "clock",
) -> dict[str, float]:
    """Seconds of training with an estimator over seconds without, median over rounds that take turns.

    ``kind``: as in `Seconds`. An estimator that refuses the loop or the loss is left out. `HALVES` are the
    two halves of each batch by hand, nothing measured: the passes of cross-fit.
    """
    names = HALVES, *estimators
    ratios: dict[str, list[float]] = {name: [] for name in names}
    objective = case.objective()
    for at in range(rounds):
        for name in names:
            sides = [PLAIN, name] if at % 2 else [name, PLAIN]
            with suppress(LCAError):
                seconds = {
                    side: _seconds(case, objective, options, estimators.get(side), halves=side == HALVES)
                    for side in sides
                }
                ratios[name].append(getattr(seconds[name], kind) / getattr(seconds[PLAIN], kind))
    return {name: median(found) for name, found in ratios.items() if found}


def _seconds(
    case: Case, objective: Any, options: Options, estimator: StochasticEstimator | None, *, halves: bool
) -> Seconds:
    """What a run took; with ``halves``, plain training on two micro-batches."""
    supplied = SuppliedFields.required_by([estimator]) if estimator else SuppliedFields()
    return case.follow(
        objective, options, estimator, replace(supplied, micro_batches=2) if halves else supplied
    )


def plain_and_check(case: Case, options: Options) -> tuple[float, float]:
    """Seconds of a plain step, and of one self-check: the loss of the measured data."""
    objective = case.objective()
    theta, steps, checks = objective.theta(), [], []
    for _ in range(5):
        steps.append(case.follow(objective, options, None, SuppliedFields()).clock / options.steps)
        began = Seconds.now()
        objective.loss(theta)
        checks.append(began.until_now().clock)
    return median(steps), median(checks)


def measured(case: str, optimizer: str) -> Mapping[str, float]:
    """What is on record for a case: times plain training by estimator; nothing if it was not measured."""
    path = FOLDER / "wall_time.json"
    times: Times = json.loads(path.read_text())["times_plain_training"] if path.exists() else {}
    return times.get(case, {}).get(optimizer, {})


def claims(times: Times, cases: Mapping[str, Case]) -> dict[str, bool]:
    """What the figures should show."""
    found = {}
    for name, by_optimizer in times.items():
        for optimizer, row in by_optimizer.items():
            title, most = f"{name}, {cases[name].title(optimizer)}", cases[name].cross_fit_time
            found |= {
                f"{title}: cross-fit: wall time ≤ {most}": row["cross-fit"] <= most,
                f"{title}: stratified, 1 batch: wall time ≤ 2.2": row[STRATIFIED] <= 2.2,
                f"{title}: three further passes: wall time ≤ 4": (
                    min(row[name] for name in BEST if name in row) <= 4
                ),
            }
    return found


def table(
    times: Times, cases: Mapping[str, Case], plain: Mapping[str, float], checks: Mapping[str, float]
) -> str:
    """Markdown, one line a case and optimizer."""
    shown = (HALVES, *TIMED)
    lines = [
        "# Wall time of training with an estimator, times plain training",
        "",
        f"| | plain step, ms | self-check, plain steps | {' | '.join(shown)} |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for case, by_optimizer in times.items():
        for optimizer, row in by_optimizer.items():
            cells = " | ".join(f"{row[name]:.2f}" if name in row else "" for name in shown)
            heading = (
                f"{cases[case].name}, batches of {cases[case].batch_size}, {cases[case].title(optimizer)}"
            )
            check = checks[case] / plain[case]
            lines.append(f"| {heading} | {1000 * plain[case]:.1f} | {check:.1f} | {cells} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, keep, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", default=list(STEPS), choices=STEPS)
    options = parser.parse_args()
    keep_memory("validation.cost_frontier.wall_time")
    began = time.perf_counter()
    cases = {name: CASES[name]() for name in options.cases}
    times: Times = {}
    plain: dict[str, float] = {}
    checks: dict[str, float] = {}
    for name, case in cases.items():
        rows = {row: e for row, e in estimators(case, independent=False).items() if row in TIMED}
        for optimizer in MAIN:
            run = Options(optimizer, 0, STEPS[name])
            times.setdefault(name, {})[optimizer] = wall_time(case, run, rows, options.rounds)
        plain[name], checks[name] = plain_and_check(case, run)
        print(name, times[name], flush=True)
    holds = claims(times, cases)
    results = {
        "rounds": options.rounds,
        "times_plain_training": times,
        "plain_step_seconds": plain,
        "self_check_seconds": checks,
        "claims": holds,
        "seconds": time.perf_counter() - began,
    }
    keep(FOLDER, "wall_time.json", results)
    text = table(times, cases, plain, checks)
    (FOLDER / "wall_time.md").write_text(text)
    print(text)
    verdict(holds)


if __name__ == "__main__":
    main()
