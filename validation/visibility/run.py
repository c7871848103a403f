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
    "resnet": "ResNet-20, batch 25",
    "transformer": "transformer, batch 24",
}
OPTIMIZERS = {"momentum": "SGD", "adam": "Adam", "adamw": "AdamW"}
MNIST = [(c, o) for c in ("mnist_fc", "mnist_fc_1000", "mnist_lenet") for o in ("momentum", "adam")]
"""The runs for which the limits were set."""
SERIES = [
    *MNIST,
    ("resnet", "momentum"),
    ("transformer", "adamw"),
]
"""All runs: case and optimizer."""
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
    """All results by question and series, each of shape (seeds, estimators); NaN for those refused."""
    found: dict[str, Figures] = {question: {} for question in QUESTIONS}
    for case, optimizer in SERIES:
        paths = sorted((FRONTIER / "runs").glob(f"{case}-{optimizer}-shuffled-?.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        for question, (_, read) in QUESTIONS.items():
            rows = [[_figure(run[name], read) for name in ESTIMATORS] for run in runs]
            found[question][f"{case}, {optimizer}"] = rows
    return found


def _figure(row: Figures, read: Callable[[Figures], float]) -> float:
    return np.nan if "refused" in row else read(row)


def look(case: str, optimizer: str) -> dict[str, Any]:
    """Colour and style of a series."""
    return {
        "color": COLORS[list(CASES).index(case)],
        "linestyle": "-" if optimizer == "momentum" else "--",
        "label": f"{CASES[case]}, {OPTIMIZERS[optimizer]}",
    }


def draw(found: dict[str, Figures]) -> None:
    """One panel for each question, and one for the time."""
    made, axes = figure(2, 3, size=(11, 7))
    *panels, clock = axes.ravel()
    places, shifts = np.arange(len(ESTIMATORS)), np.linspace(-0.2, 0.2, len(SERIES))
    for ax, (question, (title, _)) in zip(panels, QUESTIONS.items(), strict=True):
        for shift, (case, optimizer) in zip(shifts, SERIES, strict=True):
            rows = np.array(found[question][f"{case}, {optimizer}"])
            draw_means(ax, places + shift, rows, **look(case, optimizer))
        ax.set_title(title, fontsize="medium")
        ax.set_xticks(places, ESTIMATORS.values(), fontsize="x-small")
    panels[0].set_yscale("log")
    panels[0].set_ylim(0.1, 300)
    for ax in panels[1:4]:
        ax.axhline(1, color="0.7", linewidth=0.8)
    panels[4].axhline(0, color="0.7", linewidth=0.8)
    draw_time(clock)
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(made, "visibility.png")


def draw_time(ax: Any) -> None:
    """Draw the time of a step relative to plain training: by the clock, for the last two in CPU time."""
    clock = json.loads((FRONTIER / "wall_time.json").read_text())["times_plain_training"]
    for case, optimizer in SERIES:
        path = FRONTIER / "runs" / f"{case}-{optimizer}-cpu_time.json"
        times = json.loads(path.read_text()) if path.exists() else clock[case][optimizer]
        known = [1.0, *(times.get(name, np.nan) for name in list(ESTIMATORS)[1:])]
        ax.plot(range(len(known)), known, marker="o", markersize=4, linewidth=1, **look(case, optimizer))
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
            pairs = zip(means.mean, means.half, strict=True)
            cells = ["refused" if np.isnan(m) else f"{m:.3g} ± {h:.2g}" for m, h in pairs]
            lines.append(f"| {run} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read, draw, judge."""
    found = collect()
    draw(found)
    keep(FOLDER, "results.json", {"runs": found, "estimators": [*ESTIMATORS], "seeds": [0, 1, 2, 3, 4]})
    (FOLDER / "table.md").write_text(table(found))
    mean = {q: np.array([np.mean(found[q][f"{c}, {o}"], axis=0) for c, o in MNIST]) for q in QUESTIONS}
    verdict(
        {
            "MNIST: one sample shows the layers: worst layer within 3 % of the loss change": (
                mean["layers"][:, 2].max() < 3
            ),
            "MNIST: one sample shows when: correlation at least 0.99, late 0.95": (
                mean["when"][:, 2].min() >= 0.99 and mean["late"][:, 2].min() >= 0.95
            ),
            "MNIST: the same batch does not show the layers: off by more than 40 %": (
                mean["layers"][:, 0].min() > 40
            ),
            "MNIST: no cheap estimator shows how many help: off by more than 0.4 points": (
                np.abs(mean["helping"][:, 1:]).min() > 0.4
            ),
        }
    )


if __name__ == "__main__":
    main()
