"""Large models: memory of each option in units of K, memory of replays, and what rounding and lines lose.

Writes ``results.json`` and the tables of docs/scale.md, ``tables.md``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from validation.evidence import keep, verdict
from validation.large_models import accuracy, memory, replays

FOLDER = Path(__file__).parent


def tables(results: dict[str, Any]) -> str:
    """All tables in Markdown."""
    parts = (options(results["memory"]), replayed(results["replays"]), rounding(results["rounded"]))
    return "\n".join((*parts, lines(results["lines"])))


def options(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Peaks beyond training by option and estimator."""
    text = [
        "| model, options | estimator | ordinary step | checked step | making it | whole process |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for option, rows in found.items():
        for name, peak in rows.items():
            phases = (
                f"{peak[f'vectors, {phase}']:.0f} K + {peak[f'others, {phase}']:.1f} K"
                for phase in memory.PHASES
            )
            text.append(f"| {option} | {name} | {' | '.join(phases)} | {peak['resident']:.1f} K |")
    return "\n".join(text) + "\n"


def replayed(found: dict[str, dict[str, float]]) -> str:
    """Peaks of a replay by form and number of checkpoints."""
    counts = [str(count) for count in replays.COUNTS]
    text = [
        f"| checkpoints | {' | '.join(f'{count} of them' for count in counts)} |",
        "|---|" + "---:|" * len(counts),
    ]
    for form, peaks in found.items():
        text.append(f"| {form} | " + " | ".join(f"{peaks[count]:.2f} K" for count in counts) + " |")
    return "\n".join(text) + "\n"


def rounding(found: dict[str, dict[str, float]]) -> str:
    """Errors of vectors in bfloat16."""
    text = [
        "| in bfloat16 | a step's sum, in tolerances | parameters of a step | layers of the run |",
        "|---|---:|---:|---:|",
    ]
    for name, error in found.items():
        shown = f"{error['tolerances']:,.0f} | {error['parameters']:.1%} | {error['layers']:.2%}"
        text.append(f"| {name} | {shown} |")
    return "\n".join(text) + "\n"


def lines(found: dict[str, dict[str, Any]]) -> str:
    """Straight lines between checkpoints against all updates."""
    text = [
        "| a checkpoint every | lines | gradients | not converged | residual | tensors | parameters |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for gap, row in found.items():
        every = "update" if gap == "1" else f"{gap} updates"
        text.append(
            f"| {every} | {row['lines']} | {row['gradients']:.0f} | {row['unconverged']} | "
            f"{abs(row['residual'] / row['change']):.2%} | {row['tensors']:.1%} | {row['parameters']:.1%} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, write, compare with what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-of", nargs=2, metavar=("OPTION", "ESTIMATOR"), help=argparse.SUPPRESS)
    parser.add_argument("--replay-of", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("memory", "replays", "accuracy"), help="measure a part anew")
    given = parser.parse_args()
    if given.memory_of:
        memory.resident(*given.memory_of)
        return
    if given.replay_of:
        folder, count = given.replay_of
        replays.measure(folder, int(count), reads=count != "0")
        return
    path = FOLDER / "results.json"
    results = json.loads(path.read_text()) if given.part else {}
    if given.part in (None, "memory"):
        results["memory"] = memory.measured()
    if given.part in (None, "replays"):
        results["replays"] = replays.measured()
    if given.part in (None, "accuracy"):
        run = accuracy.trained()
        results |= {"rounded": accuracy.rounded(run), "lines": accuracy.lines(run)}
    keep(FOLDER, "results.json", results)
    (FOLDER / "tables.md").write_text(tables(results))
    print(tables(results))
    host = results["memory"]['float32, `vectors="host"`']["trapezoid"]
    growth = {form: abs(peaks["12"] - peaks["3"]) for form, peaks in results["replays"].items()}
    verdict(
        {
            f"host, trapezoid: {host['others, ordinary']:.2f} ≤ 0.5 K on the device": host["others, ordinary"]
            <= 0.5,
            **{
                f"replay, {form}: {change:.2f} ≤ 0.1 K more for 12 checkpoints than for 3": change <= 0.1
                for form, change in growth.items()
            },
        }
    )


if __name__ == "__main__":
    main()
