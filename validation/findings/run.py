"""The paper's three findings measured again, its figures beside: noise, layers that hurt, synchrony.

Learning is noisy (barely more than half of the parameters help at a step), some layers hurt over a whole
run, and layers learn in step. Every run is kept as soon as it is done; the table is made from all that are
kept. Whether they agree with the paper is a result, not a claim: what is claimed is that the runs add up,
and the one figure that the paper gives with an error bar.

    python -m validation.findings.run --network mnist-fc --seeds 0 1 2 3 4
    python -m validation.findings.run --network mnist-fc --freeze fc3 --seeds 0 1 2 3 4
    python -m validation.findings.run --network lenet --examples 5000 --steps 200
    python -m validation.findings.run --table
"""

import argparse
import json
import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lca import analysis
from validation.evidence import keep, verdict
from validation.findings.measure import OPTIMIZERS, STRETCH, SURROGATES, measure, unpacked
from validation.findings.networks import TASKS

FOLDER = Path(__file__).parent
PAPER = {
    "mnist-fc": "helping 55.82 ± 0.09 % (Adam)",
    "lenet": "helping between 50.3 and 51.6 % for networks other than MNIST-FC",
    "resnet20": "helping between 50.3 and 51.6 %; first and last layers hurt, p < 1e-4; freezing the last "
    "lowers the training and the test loss, p < 0.001",
}
PAPER_SYNCHRONY = "synchrony p < 1e-6"
Run = dict[str, Any]


def set_up(run: Run) -> tuple[Any, ...]:
    """What runs that differ by their seed alone have in common, but for what is frozen."""
    return run["network"], run["optimizer"], run["examples"], run["steps"]


def table(runs: list[Run]) -> str:
    """Every set-up with its three findings; Markdown."""
    runs = sorted(runs, key=lambda r: (*map(str, set_up(r)), r["frozen"], r["seed"]))
    return "\n".join(line for _, group in groupby(runs, set_up) for line in section(list(group))) + "\n"


def section(runs: list[Run]) -> Iterator[str]:
    """One set-up: its runs with all layers trained, and those with one frozen beside them."""
    network, optimizer, examples, steps = set_up(runs[0])
    yield f"## {network}, {optimizer}, {examples} examples, {steps} steps\n"
    yield f"The paper: {PAPER[network]}; {PAPER_SYNCHRONY}.\n"
    trained = [r for r in runs if not r["frozen"]]
    if trained:
        yield from noise(trained)
        yield from layers(trained)
        yield from synchrony(trained)
    for frozen in sorted({r["frozen"] for r in runs} - {""}):
        yield from intervention(trained, [r for r in runs if r["frozen"] == frozen], frozen)


def noise(runs: list[Run]) -> Iterator[str]:
    """Mean over seeds ± standard deviation."""
    yield f"| over {len(runs)} seeds | mean ± standard deviation |"
    yield "|---|---|"
    columns = {
        "helping %": [r["helping_percent"] for r in runs],
        "exactly zero %": [r["zero_percent"] for r in runs],
        "Weibull k (distance)": [r["weibull"]["shape"] for r in runs],
        "Gini of the sizes": [r["tails"]["gini"] for r in runs],
        "share of the top percent, %": [100 * r["tails"]["top_share"] for r in runs],
        "kurtosis": [r["tails"]["kurtosis"] for r in runs],
        "steps a turn of the weight": [r["steps_per_turn"] for r in runs],
        "steps a sign change of the gradient": [r["steps_per_gradient_sign_change"] for r in runs],
    }
    for name, values in columns.items():
        spread = f" ± {np.std(values, ddof=1):.3g}" if len(values) > 1 else ""
        distance = f" ({max(r['weibull']['distance'] for r in runs):.3f})" if "distance" in name else ""
        yield f"| {name} | {np.mean(values):.4g}{spread}{distance} |"
    yield ""


def layers(runs: list[Run]) -> Iterator[str]:
    """Totals of each layer over the run: the t-test over seeds."""
    yield "| layer | total, training loss | 95 % interval | p (Holm) | total, held-out loss | helping % |"
    yield "|---|---|---|---|---|---|"
    names = runs[0]["layers"]
    totals, heldout = (np.array([r[key] for r in runs]) for key in ("totals", "heldout_totals"))
    helping = np.mean([[row["helping_percent"] for row in r["by_layer"]] for r in runs], axis=0)
    tests = analysis.t_test_over_seeds(names, totals) if len(runs) > 1 else [None] * len(names)
    rows = zip(names, totals.mean(axis=0), tests, heldout.mean(axis=0), helping, strict=True)
    for name, mean, test, other, percent in rows:
        tested = f"{test.low:+.4f} … {test.high:+.4f} | {test.p_adjusted:.2g}" if test else "one seed | "
        yield f"| {name} | {mean:+.4f} | {tested} | {other:+.4f} | {percent:.2f} |"
    yield ""


def synchrony(runs: list[Run]) -> Iterator[str]:
    """Each test over the seeds: coincidences against chance, and the largest p-value; then over the runs."""
    runs, older = [r for r in runs if "peaks" in r], sum("peaks" not in r for r in runs)
    if older:
        yield f"{older} runs were made before their peaks were kept, and are not tested for synchrony.\n"
    if not runs:
        return
    yield "| peak moments | coincide / expected, by seed | largest p: shifts | rotations | p over seeds |"
    yield "|---|---|---|---|---|"
    for name in runs[0]["synchrony"]:
        tests = [r["synchrony"][name] for r in runs]
        shifts, rotations = ([t[kind] for t in tests] for kind in ("shifts", "rotations"))
        ratios = ", ".join(f"{t['coincidences']} / {t['expected']:.1f}" for t in shifts)
        largest = (f"{max(t['p_value'] for t in kind):.2g}" for kind in (shifts, rotations))
        yield f"| {name} | {ratios} | {' | '.join(largest)} | {over_seeds(runs, name)} |"
    layers = len(runs[0]["layers"])
    yield (
        f"\nWith {layers} layers, one shift in about 1,000 moves all layers alike, so smaller p-values of "
        f"shifts say no more. Rotations within blocks of {STRETCH} steps give none below "
        f"{1 / (1 + SURROGATES):.2g}, the number of surrogates."
    )
    if len(runs) > 1:
        least = 1 / math.factorial(len(runs)) ** (layers - 1)
        yield f"Layers from other seeds give none below {least:.2g}."
    yield ""


def over_seeds(runs: list[Run], name: str) -> str:
    """The p-value of the test whose surrogates take each layer from another seed."""
    if len(runs) < 2:
        return ""
    peaks = np.stack([unpacked(r["peaks"][name]) for r in runs])
    return f"{analysis.synchrony_test_over_runs(peaks, permutations=SURROGATES).p_value:.2g}"


def intervention(trained: list[Run], frozen_runs: list[Run], frozen: str) -> Iterator[str]:
    """What freezing a layer changed, seed by seed."""
    before = {r["seed"]: r for r in trained}
    pairs = [(r, before[r["seed"]]) for r in frozen_runs if r["seed"] in before]
    yield f"With {frozen} frozen, {len(pairs)} paired seeds:\n"
    if len(pairs) < 2:
        yield "too few for a test.\n"
        return
    keys = ("loss_end", "heldout_loss_end")
    changed, unchanged = (np.array([[pair[i][key] for key in keys] for pair in pairs]) for i in (0, 1))
    yield "| | change | 95 % interval | p |"
    yield "|---|---|---|---|"
    for row in analysis.paired_t_test(["training loss", "held-out loss"], changed, unchanged):
        yield f"| {row.name} | {row.mean:+.4f} | {row.low:+.4f} … {row.high:+.4f} | {row.p_value:.2g} |"
    yield ""


def claims(runs: list[Run]) -> dict[str, bool]:
    """What every run must show, and the figure that the paper gives with an error bar."""
    errors = [
        abs(sum(r["totals"]) + r["state_change"] - (r["loss_end"] - r["loss_start"]))
        / abs(r["loss_end"] - r["loss_start"])
        for r in runs
    ]
    paper_s = [r for r in runs if set_up(r) == ("mnist-fc", "adam", 55_000, 880) and not r["frozen"]]
    found = {"the layers add up to the loss change within 1 %, every run": max(errors) < 0.01}
    if paper_s:
        found["MNIST-FC, Adam: helping % within 0.5 of the paper's 55.82, every seed"] = all(
            abs(r["helping_percent"] - 55.82) <= 0.5 for r in paper_s
        )
    return found


def main() -> None:
    """Make the runs that are asked for, then the table of all that were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="mnist-fc", choices=TASKS)
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="default: the network's usual number")
    parser.add_argument("--examples", type=int, help="train and measure on the first of them; default: all")
    parser.add_argument("--freeze", default="", metavar="LAYER", help="a layer that is not trained")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="make no run; judge the runs that were kept")
    options = parser.parse_args()
    task = TASKS[options.network]
    steps, examples = options.steps or task.steps, options.examples or task.sets[0]
    for seed in [] if options.table else options.seeds:
        what = {
            "network": options.network,
            "optimizer": options.optimizer,
            "examples": examples,
            "seed": seed,
        }
        run = measure(
            task,
            options.optimizer,
            seed=seed,
            steps=steps,
            examples=examples,
            frozen=options.freeze,
            device=options.device,
        )
        name = "-".join(map(str, [*what.values(), steps, *filter(None, [options.freeze])]))
        keep(FOLDER, f"{name}.json", {**what, "frozen": options.freeze, **run})
    runs = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    (FOLDER / "table.md").write_text(table(runs))
    print(table(runs))
    verdict(claims(runs))


if __name__ == "__main__":
    main()
