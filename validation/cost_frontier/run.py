"""Claims on cheap estimators: how far they are from the full-data allocation, and what they cost.

Full-data rk4 is the truth. Many estimators watch one and the same training run; each is compared with the
truth in the total, the layers' totals, the correlation over (step, layer) for the run and for its second
half, the totals of single parameters and the helping %; intervals are counted for how often they hold the
truth. Wall time is measured apart, one estimator at a time, in turns with plain training.

``--quick``: the digits with the NumPy model, under two minutes. ``--case mnist_fc``, ``mnist_fc_1000``
(larger batches), ``mnist_lenet``: torch; a run that was made already is not made again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lca import LEFT, RIGHT, SIMPSON, TRAPEZOID
from lca.estimators import Anchored, CrossFit, NextBatch, Probe, SameBatch
from lca.estimators.stochastic import StochasticEstimator
from validation.cost_frontier.cases import CASES, TITLES, Case, Options
from validation.cost_frontier.measure import run, wall_time
from validation.cost_frontier.table import plot, pooled, summary, table
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
MAIN = ("momentum", "adam")
LARGE = 60
"""Steps with a large learning rate: the first ones, which go far."""
FEW = (
    "same batch",
    "next batch, trapezoid",
    "cross-fit",
    "probe, 1 batch",
    "stratified, 1 batch",
    "stratified, 1 batch, one sample",
    "stratified, 3 batches, one sample",
    "anchored, 1 batch",
)
"""The rows of a case that is run for its targets alone."""
BEST = ("anchored, 1 batch", "stratified, 3 batches, one sample")
"""Combinations at three further passes, of which the best one is judged."""
Blocks = dict[tuple[str, str], dict[str, dict[str, Any]]]


def estimators(case: Case, *, independent: bool) -> dict[str, StochasticEstimator]:
    """The rows of the frontier; sizes in training batches of this case."""
    b, epoch = case.batch_size, -(-case.examples // case.batch_size)

    def probe(batches: float, sampling: str, m: int = 2) -> Probe:
        return Probe(TRAPEZOID, m * round(batches * b / m), sampling=sampling, micro_batches=m)  # type: ignore[arg-type]

    every = {
        "same batch": SameBatch(),
        "next batch, left": NextBatch(LEFT),
        "next batch, right": NextBatch(RIGHT),
        "next batch, trapezoid": NextBatch(TRAPEZOID),
        "next batch, Simpson": NextBatch(SIMPSON),
        "cross-fit, left": CrossFit(2, LEFT),
        "cross-fit": CrossFit(independent=independent),
        "probe, 1 batch": probe(1, "uniform"),
        "probe, 4 batches": probe(4, "uniform"),
        "importance, 1 batch": probe(1, "importance"),
        "stratified, 1 batch": probe(1, "stratified"),
        "stratified, 1 batch, one sample": probe(1, "stratified", 1),
        "stratified, 1 batch, own scores": Probe(
            TRAPEZOID, 2 * (b // 2), sampling="stratified", micro_batches=2, refresh=epoch
        ),
        "stratified, 3 batches": probe(3, "stratified"),
        "stratified, 3 batches, one sample": probe(3, "stratified", 1),
        "anchored, 1 batch": Anchored(probe(1, "stratified"), every=epoch),
    }
    return {name: every[name] for name in FEW} if case.few else every


def large_steps(case: Case) -> dict[str, StochasticEstimator]:
    """What is tried where the steps are large."""
    b = 2 * (case.batch_size // 2)
    rules = {"left": LEFT, "trapezoid": TRAPEZOID, "Simpson": SIMPSON}
    return {
        **{f"next batch, {name}": NextBatch(rule) for name, rule in rules.items()},
        "cross-fit": CrossFit(),
        **{
            f"stratified, 1 batch, {name}": Probe(rule, b, sampling="stratified", micro_batches=2)
            for name, rule in rules.items()
        },
    }


def blocks_of(case: Case) -> dict[tuple[str, str], dict[str, StochasticEstimator]]:
    """The rows of each block of the table: ``{(optimizer, how batches are drawn): estimators}``."""
    found = {
        (optimizer, kind): estimators(case, independent=kind == "independent")
        for optimizer in MAIN
        for kind in (("shuffled",) if case.few else ("shuffled", "independent"))
    }
    return found if case.few else {**found, ("adam_large", "shuffled"): large_steps(case)}


def claims(blocks: Blocks, case: Case) -> dict[str, bool]:
    """What the figures must show; the targets of accuracy only where they are meant."""
    found = {}
    for (optimizer, kind), rows in blocks.items():
        if optimizer not in MAIN:
            continue
        title = f"{TITLES[optimizer]}, {kind}"
        for name, row in rows.items():
            if row["coverage"]:
                found[f"{title}: {name}: 95 % intervals of steps and of 10 steps cover 90 to 98 %"] = (
                    90 <= pooled(row) <= 98
                )
        cross, strat, next_batch = (
            rows[n] for n in ("cross-fit", "stratified, 1 batch, one sample", "next batch, trapezoid")
        )
        if kind == "independent":
            found[f"{title}: cross-fit and next batch: total within 3 % in the mean"] = (
                max(abs(row["total_error_percent"]) for row in (cross, next_batch)) <= 3
            )
        elif case.targets:
            best = max((rows[name] for name in BEST), key=lambda row: row["correlation_late"])
            found |= {
                f"{title}: cross-fit: total within 10 %": abs(cross["total_error_percent"]) <= 10,
                f"{title}: cross-fit: correlation ≥ 0.98": cross["correlation"] >= 0.98,
                f"{title}: stratified, 1 batch: total within 5 %": abs(strat["total_error_percent"]) <= 5,
                f"{title}: stratified, 1 batch: correlation ≥ 0.995": strat["correlation"] >= 0.995,
                f"{title}: stratified, 1 batch: second half ≥ 0.95": strat["correlation_late"] >= 0.95,
                f"{title}: best at 3 further passes: second half ≥ 0.985": best["correlation_late"] >= 0.985,
            }
            if "wall_time" in cross:
                found |= {
                    f"{title}: cross-fit: wall time ≤ {case.cross_fit_time}": cross["wall_time"]
                    <= case.cross_fit_time,
                    f"{title}: stratified, 1 batch: wall time ≤ 2.2": strat["wall_time"] <= 2.2,
                    f"{title}: best at 3 further passes: wall time ≤ 4": best["wall_time"] <= 4,
                }
    return found


def measure(folder: Path, name: str, case: Case, seeds: Sequence[int], steps: int) -> Blocks:
    """Make the runs that ``folder`` does not have, keeping each as soon as it is done; the means of all."""
    blocks: Blocks = {}
    folder.mkdir(exist_ok=True)
    for (optimizer, kind), rows in blocks_of(case).items():
        runs = []
        for seed in seeds:
            path = folder / f"{name}-{optimizer}-{kind}-{seed}.json"
            if not path.exists():
                options = Options(
                    optimizer, seed, steps if optimizer in MAIN else LARGE, kind == "independent"
                )
                path.write_text(json.dumps(run(case, options, rows), default=float, indent=1) + "\n")
                print(f"wrote {path.name}", flush=True)
            runs.append(json.loads(path.read_text()))
        blocks[optimizer, kind] = {row: summary([one[row] for one in runs]) for row in rows}
    return blocks


def main() -> None:
    """Measure, keep, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="digits", choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5, help="of wall time; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="digits: 2 seeds of 300 steps, all made afresh")
    options = parser.parse_args()
    name = "quick" if options.quick else options.case
    if options.quick:
        options.case, options.seeds, options.steps, options.rounds = "digits", [0, 1], 300, 3
    began, case = time.perf_counter(), CASES[options.case]()
    with TemporaryDirectory() as afresh:
        folder = Path(afresh) if options.quick else FOLDER / "runs"
        blocks = measure(folder, name, case, options.seeds, options.steps)
    if options.rounds:
        for optimizer in MAIN:
            rows = estimators(case, independent=False)
            for row, ratio in wall_time(case, Options(optimizer, 0, 60), rows, options.rounds).items():
                blocks[optimizer, "shuffled"][row]["wall_time"] = ratio
    holds = claims(blocks, case)
    results = {
        "case": case.name,
        "examples": case.examples,
        "batch_size": case.batch_size,
        "seeds": options.seeds,
        "steps": options.steps,
        "blocks": {", ".join(block): rows for block, rows in blocks.items()},
        "claims": holds,
        "seconds": time.perf_counter() - began,
    }
    keep(FOLDER, f"{name}.json", results)
    text = table(case, blocks, len(options.seeds), options.steps)
    (FOLDER / f"{name}.md").write_text(text)
    plot(FOLDER / f"{name}.png", {TITLES[o]: blocks[o, "shuffled"] for o in MAIN})
    print(text)
    verdict(holds)


if __name__ == "__main__":
    main()
