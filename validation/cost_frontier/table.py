"""Means over seeds, the table and the frontier plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from validation.cost_frontier.case import Case

MEAN = (
    "passes",
    "total_error_percent",
    "layer_error_percent",
    "correlation",
    "correlation_late",
    "correlation_parameters",
    "helping_percent",
    "helping_percent_corrected",
    "helping_percent_truth",
    "truth_error_percent",
)
COLUMNS = {
    "passes": ("passes beyond training", "{:.2f}"),
    "wall_time": ("time, x plain", "{:.2f}"),
    "over_passes": ("over its passes", "{:.2f}"),
    "total_error_percent": ("total off, %", "{:+.1f}"),
    "layer_error_percent": ("worst layer off, % of total", "{:.1f}"),
    "correlation": ("correlation (step, layer)", "{:.4f}"),
    "correlation_late": ("second half", "{:.4f}"),
    "correlation_parameters": ("parameters' totals", "{:.3f}"),
    "helping_percent": ("helping %", "{:.1f}"),
    "helping_percent_corrected": ("corrected", "{:.1f}"),
}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of every figure, the total's error by seed, and the coverage of all intervals."""
    if "refused" in runs[0]:
        return dict(runs[0])
    found: dict[str, Any] = {
        key: float(np.mean([run[key] for run in runs])) for key in MEAN if key in runs[0]
    }
    found["total_error_percent_by_seed"] = [run["total_error_percent"] for run in runs]
    found["coverage"] = None
    if runs[0]["coverage"]:
        counts = {
            window: np.sum([run["coverage"][window] for run in runs], axis=0)
            for window in runs[0]["coverage"]
        }
        found["coverage"] = {
            window: float(100 * inside / tried) for window, (inside, tried) in counts.items()
        }
        found["intervals"] = {window: int(tried) for window, (_, tried) in counts.items()}
    return found


def pooled(row: Mapping[str, Any]) -> float:
    """Coverage of the intervals of single steps and of windows of 10, counted together."""
    tried = [row["intervals"][window] for window in ("1", "10")]
    return float(np.average([row["coverage"][window] for window in ("1", "10")], weights=tried))


def table(case: Case, blocks: Mapping[tuple[str, str], Any], seeds: int, steps: int) -> str:
    """Markdown, one block a training set-up."""
    lines = [
        f"# {case.name}",
        "",
        f"Mean over {seeds} seeds of {steps} steps, batches of {case.batch_size} from {case.examples:,} "
        "examples. Coverage: intervals of 95 % that hold the truth, for single steps / windows of 10 / of 50 "
        "/ the run. Helping %: as it is, and corrected (see helping.py).",
        "",
    ]
    for (optimizer, kind), rows in blocks.items():
        refused = {name: row["refused"] for name, row in rows.items() if "refused" in row}
        shown = {name: row for name, row in rows.items() if name not in refused}
        known = set().union(*(row.keys() for row in shown.values()))
        columns = {key: column for key, column in COLUMNS.items() if key in known}
        first = next(iter(shown.values()))
        adds_up = (
            f" Its sum is {first['truth_error_percent']:+.2f} % off the loss change."
            if "truth_error_percent" in first
            else ""
        )
        lines += [
            f"## {case.title(optimizer)}, {kind} batches",
            "",
            f"Helping %, full data (rk4): {first['helping_percent_truth']:.1f}.{adds_up}",
            "",
            f"| estimator | {' | '.join(heading for heading, _ in columns.values())} | coverage, % |",
            "|---" * (len(columns) + 2) + "|",
        ]
        lines += [f"| {name} | {' | '.join(_cells(row, columns))} |" for name, row in shown.items()]
        lines += ["", *_refusals(refused)]
    return "\n".join(lines)


def _refusals(reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the rows that it concerns."""
    found = []
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, given in reasons.items() if given == reason)
        found += [f"Refused: {names}: *{reason}*", ""]
    return found


def _cells(row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    coverage = row["coverage"]
    shown = " / ".join(f"{percent:.0f}" for percent in coverage.values()) if coverage else ""
    return [*(form.format(row[key]) if key in row else "" for key, (_, form) in columns.items()), shown]


NOT_DRAWN = (
    *("next batch, left", "next batch, right", "cross-fit, left"),
    *("cross-fit, own pass", "stratified, 1 batch", "stratified, 3 batches", "sized, 1 batch"),
    *("stratified, 1 batch, own scores", "sized, error 2 %"),
)
"""Rows that would cover others in the figure: close to another one, or of one end alone."""


def plot(path: Path, blocks: Mapping[str, Any]) -> None:
    """What is missing to a correlation of 1, for the run and its second half, against passes."""
    import matplotlib as mpl  # noqa: PLC0415 - only where a figure is drawn

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, [axes] = plt.subplots(
        1, len(blocks), figsize=(6.5 * len(blocks), 6), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (title, every) in zip(axes, blocks.items(), strict=True):
        rows = {name: row for name, row in every.items() if "refused" not in row and name not in NOT_DRAWN}
        places = _apart(
            {name: (row["passes"], np.log10(1 - row["correlation"])) for name, row in rows.items()}
        )
        for name, row in rows.items():
            missing = [1 - row[key] for key in ("correlation", "correlation_late")]
            x, height = places[name]
            left = x > _LAST  # a name to its right would leave the figure
            [line] = axis.plot([x] * 2, missing, "o-", markersize=4, linewidth=0.8)
            axis.annotate(
                name,
                (x, missing[0]),
                (x - 0.07 if left else x + 0.07, 10**height),
                fontsize=7,
                ha="right" if left else "left",
                va="center",
                color=line.get_color(),
                arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.4, "shrinkB": 2},
            )
        axis.set(yscale="log", xlabel="backward passes a step beyond training", title=title)
        axis.set_xlim(right=5.9)
    axes[0].set_ylabel("1 - correlation over (step, layer): run (lower dot), second half (upper)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _apart(points: Mapping[str, tuple[float, float]], least: float = 0.07) -> dict[str, tuple[float, float]]:
    """Where lines stand and names are written: side by side at the same cost, no name over another one."""
    found: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        height = y
        place = x + 0.03 * sum(round(points[other][0]) == round(x) for other in found)
        for other, taken in sorted(found.values(), key=lambda each: each[1]):
            if abs(other - place) < _NAME_WIDTH and abs(taken - height) < least:
                height = taken + least
        found[name] = place, height
    return found


_NAME_WIDTH = 1.4
"""About how wide a name is, in passes."""
_LAST = 4.2
"""Passes beyond which a name stands to the left of its line."""
