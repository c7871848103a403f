"""Claims on cheap estimators: how far they are from the full-data allocation, and what they cost.

Full-data rk4 is the truth. Many estimators watch one and the same training run; each is compared with the
truth in the total, the layers' totals, the correlation over (step, layer) for the run and for its second
half, the totals of single parameters and the helping %; intervals are counted for how often they hold the
truth. Wall time is measured apart (wall_time.py).

``--quick``: the digits with the NumPy model, under two minutes. ``--case mnist_fc``, ``mnist_fc_1000``
(larger batches), ``mnist_lenet``, ``resnet``, ``transformer``: torch; what was measured already is not
measured again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from validation.cost_frontier.case import Case, Options
from validation.cost_frontier.cases import CASES
from validation.cost_frontier.measure import run
from validation.cost_frontier.rows import (
    BEST,
    DEALT,
    EARLY,
    FIFTHS,
    LARGE,
    STRATIFIED,
    blocks_of,
    estimators,
)
from validation.cost_frontier.table import plot, pooled, summary, table
from validation.cost_frontier.wall_time import measured, wall_time
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
TIMED_STEPS = 60  # at most; a third of the run
Blocks = dict[tuple[str, str], dict[str, dict[str, Any]]]


def claims(blocks: Blocks, case: Case) -> dict[str, bool]:
    """What the figures must show; the targets of accuracy only where they are meant."""
    found = {}
    for (optimizer, kind), rows in blocks.items():
        if optimizer not in case.optimizers:
            continue
        rows = {name: row for name, row in rows.items() if "refused" not in row}  # noqa: PLW2901
        title = f"{case.title(optimizer)}, {kind}"
        for name, row in rows.items():
            if row["coverage"]:
                found[f"{title}: {name}: 95 % intervals of steps and of 10 steps cover 90 to 98 %"] = (
                    90 <= pooled(row) <= 98
                )
        if kind == "independent":
            off = [rows[name]["total_error_percent"] for name in ("cross-fit", "next batch, trapezoid")]
            found[f"{title}: cross-fit and next batch: total within 3 % in the mean"] = (
                max(map(abs, off)) <= 3
            )
        elif case.targets:
            dealt = FIFTHS if FIFTHS in rows else DEALT
            found |= {
                f"{title}: {dealt}: total within 10 %": abs(rows[dealt]["total_error_percent"]) <= 10,
                f"{title}: {dealt}: correlation ≥ 0.98": rows[dealt]["correlation"] >= 0.98,
            }
            if "lagged" in rows and optimizer != "momentum":
                lagged = rows["lagged"]
                found |= {
                    f"{title}: lagged: total within 10 %": abs(lagged["total_error_percent"]) <= 10,
                    f"{title}: lagged: correlation ≥ 0.99": lagged["correlation"] >= 0.99,
                }
            if STRATIFIED not in rows:  # the loss is no mean over examples
                continue
            sampled = EARLY if EARLY in rows else STRATIFIED
            strat = rows[sampled]
            best = max((rows[name] for name in BEST if name in rows), key=lambda row: row["correlation_late"])
            found |= {
                f"{title}: {sampled}: total within 5 %": abs(strat["total_error_percent"]) <= 5,
                f"{title}: {sampled}: correlation ≥ 0.995": strat["correlation"] >= 0.995,
                f"{title}: {sampled}: second half ≥ 0.95": strat["correlation_late"] >= 0.95,
                f"{title}: best at 3 further passes: second half ≥ 0.985": best["correlation_late"] >= 0.985,
            }
    return found


def measure(folder: Path, name: str, case: Case, seeds: Sequence[int], steps: int) -> Blocks:
    """The means of all runs; makes what ``folder`` does not have, and keeps each as soon as it is done."""
    blocks: Blocks = {}
    for (optimizer, kind), rows in blocks_of(case).items():
        runs = []
        for seed in seeds:
            path = folder / f"{name}-{optimizer}-{kind}-{seed}.json"
            found = json.loads(path.read_text()) if path.exists() else {}
            missing = {row: estimator for row, estimator in rows.items() if row not in found}
            if missing:
                options = Options(
                    optimizer, seed, steps if optimizer in case.optimizers else LARGE, kind == "independent"
                )
                found |= run(case, options, missing)
                path.write_text(json.dumps(found, default=float, indent=1) + "\n")
                print(f"wrote {path.name}", flush=True)
            runs.append(found)
        blocks[optimizer, kind] = {row: summary([one[row] for one in runs]) for row in rows}
    return blocks


def cpu_time(folder: Path, name: str, case: Case, optimizer: str) -> dict[str, float]:
    """CPU time of training with each estimator over that without; measured unless ``folder`` has it."""
    path = folder / f"{name}-{optimizer}-cpu_time.json"
    if not path.exists():
        rows = estimators(case, independent=False)
        found = wall_time(
            case, Options(optimizer, 0, min(TIMED_STEPS, case.steps // 3)), rows, rounds=3, kind="cpu"
        )
        path.write_text(json.dumps(found, indent=1) + "\n")
    known: dict[str, float] = json.loads(path.read_text())
    return known


def add_time(row: dict[str, Any], ratio: float) -> None:
    """Add to a row its time over plain training, and over plain training with the passes of the estimator."""
    row |= {"wall_time": ratio, "over_passes": ratio / (1 + row["passes"])}


def main() -> None:
    """Measure, keep, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="digits", choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="default: those of the case")
    parser.add_argument("--quick", action="store_true", help="digits: 2 seeds of 300 steps, all made afresh")
    options = parser.parse_args()
    name = "quick" if options.quick else options.case
    if options.quick:
        options.case, options.seeds, options.steps = "digits", [0, 1], 300
    began, case = time.perf_counter(), CASES[options.case]()
    options.steps = options.steps or case.steps
    with TemporaryDirectory() as afresh:
        folder = Path(afresh) if options.quick else FOLDER / "runs"
        folder.mkdir(exist_ok=True)
        blocks = measure(folder, name, case, options.seeds, options.steps)
        for optimizer in case.optimizers:
            times = measured(name, optimizer) or cpu_time(folder, name, case, optimizer)
            rows = blocks[optimizer, "shuffled"]
            for estimator in rows.keys() & times.keys():
                add_time(rows[estimator], times[estimator])
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
    plot(FOLDER / f"{name}.png", {case.title(o): blocks[o, "shuffled"] for o in case.optimizers})
    print(text)
    verdict(holds)


if __name__ == "__main__":
    main()
