"""The open question of the talk on LCA: does aggressive approximation still give useful visibility?

Reads the runs that `validation/cost_frontier` keeps (five seeds each) and makes no run of its own. For what
one may want to see (which layers, when, which parameters, how many help) it compares what three cheap
estimators and the free product of gradient and update show with the path integral over all data.

    python -m validation.visibility.run
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lca.analysis import mean_over_runs
from validation.evidence import keep, verdict
from validation.study import COLORS, draw_means, figure, save

FOLDER = Path(__file__).parent
FRONTIER = FOLDER.parent / "cost_frontier"
CASES = {
    "mnist_fc": "MNIST-FC, batch 250",
    "mnist_fc_1000": "MNIST-FC, batch 1,000",
    "mnist_lenet": "LeNet, batch 250",
}
OPTIMIZERS = {"momentum": "SGD", "adam": "Adam"}
ESTIMATORS = {
    "same batch": "same batch\n(free)",
    "cross-fit, epoch": "cross-fit\n(no further pass)",
    "stratified, 1 batch, one sample": "one sample\n(1 pass)",
    "stratified, 3 batches, one sample": "larger sample\n(3 passes)",
}
Figures = dict[str, Any]
QUESTIONS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "layers": ("which layers? worst layer off,\n% of the loss change", lambda r: r["layer_error_percent"]),
    "when": ("when? correlation over\n(step, layer)", lambda r: r["correlation"]),
    "late": ("when, late? the same,\nsecond half of the run", lambda r: r["correlation_late"]),
    "parameters": ("which parameters? correlation\nof their totals", lambda r: r["correlation_parameters"]),
    "helping": (
        "how many help? off from the\nfull data, points",
        lambda r: r["helping_percent"] - r["helping_percent_truth"],
    ),
}


def collect() -> dict[str, Figures]:
    """All results by question, case and optimizer, each of shape (seeds, estimators)."""
    found: dict[str, Figures] = {question: {} for question in QUESTIONS}
    for case in CASES:
        for optimizer in OPTIMIZERS:
            paths = sorted((FRONTIER / "runs").glob(f"{case}-{optimizer}-shuffled-?.json"))
            runs = [json.loads(path.read_text()) for path in paths]
            for question, (_, read) in QUESTIONS.items():
                rows = [[read(run[name]) for name in ESTIMATORS] for run in runs]
                found[question][f"{case}, {optimizer}"] = rows
    return found


def draw(found: dict[str, Figures]) -> None:
    """One panel for each question, and one for the time."""
    made, axes = figure(2, 3, size=(11, 6.4))
    *panels, clock = axes.ravel()
    places = np.arange(len(ESTIMATORS))
    for ax, (question, (title, _)) in zip(panels, QUESTIONS.items(), strict=True):
        for at, (case, color) in enumerate(zip(CASES, COLORS, strict=False)):
            for optimizer, style in zip(OPTIMIZERS, ("-", "--"), strict=True):
                shift = 0.09 * (at - 1) + (0.03 if optimizer == "adam" else -0.03)
                label = f"{CASES[case]}, {OPTIMIZERS[optimizer]}"
                rows = np.array(found[question][f"{case}, {optimizer}"])
                draw_means(ax, places + shift, rows, color=color, label=label, linestyle=style)
        ax.set_title(title, fontsize="medium")
        ax.set_xticks(places, ESTIMATORS.values(), fontsize="x-small")
    panels[0].set_yscale("log")
    panels[0].set_ylim(0.1, 300)
    for ax in panels[1:4]:
        ax.axhline(1, color="0.7", linewidth=0.8)
    panels[4].axhline(0, color="0.7", linewidth=0.8)
    panels[0].legend(frameon=False, fontsize="x-small")
    draw_clock(clock)
    save(made, "visibility.png")


def draw_clock(ax: Any) -> None:
    """Draw the wall time of a step relative to plain training, next to that for measuring all data."""
    times = json.loads((FRONTIER / "wall_time.json").read_text())["times_plain_training"]
    for case, color in zip(CASES, COLORS, strict=False):
        for optimizer, style in zip(OPTIMIZERS, ("-", "--"), strict=True):
            known = [times[case][optimizer].get(name, 1.0) for name in ESTIMATORS]
            ax.plot(range(len(known)), known, style, marker="o", markersize=4, color=color, linewidth=1)
    ax.set_title("what it costs: a training step,\ntimes plain training", fontsize="medium")
    ax.set_xticks(range(len(ESTIMATORS)), ESTIMATORS.values(), fontsize="x-small")
    ax.set_ylim(0, 6)
    ax.axhline(1, color="0.7", linewidth=0.8)


def table(found: dict[str, Figures]) -> str:
    """A Markdown table of means over seeds, with the half-width of the 95 % confidence interval."""
    names = [shown.replace("\n", " ") for shown in ESTIMATORS.values()]
    lines = []
    for question, (title, _) in QUESTIONS.items():
        lines += [
            f"## {' '.join(title.split())}",
            "",
            f"| run | {' | '.join(names)} |",
            "|---|---|---|---|---|",
        ]
        for run, rows in found[question].items():
            means = mean_over_runs(np.array(rows))
            cells = [f"{m:.3g} ± {h:.2g}" for m, h in zip(means.mean, means.half, strict=True)]
            lines.append(f"| {run} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read, draw, judge."""
    found = collect()
    draw(found)
    keep(FOLDER, "results.json", {"runs": found, "estimators": [*ESTIMATORS], "seeds": [0, 1, 2, 3, 4]})
    (FOLDER / "table.md").write_text(table(found))
    mean = {q: np.array([np.mean(rows, axis=0) for rows in found[q].values()]) for q in QUESTIONS}
    verdict(
        {
            "one sample shows the layers: worst layer within 3 % of the loss change": mean["layers"][
                :, 2
            ].max()
            < 3,
            "one sample shows when: correlation at least 0.99, late 0.95": (
                mean["when"][:, 2].min() >= 0.99 and mean["late"][:, 2].min() >= 0.95
            ),
            "the same batch does not show the layers: off by more than 40 %": mean["layers"][:, 0].min() > 40,
            "no cheap estimator shows how many help: off by more than 0.4 points": (
                np.abs(mean["helping"][:, 1:]).min() > 0.4
            ),
        }
    )


if __name__ == "__main__":
    main()
