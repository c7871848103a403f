"""Which layers cause the barrier between two runs, and after how many shared steps does it disappear?

Linear mode connectivity (Frankle et al. 2020): two runs share their first steps, then use different batch
orders. On the straight line between the two solutions the loss may rise: the barrier. The path integrals from
both ends to the highest point split the barrier over layers, and the contributions add up to it.

    python -m validation.connectivity.run
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lca
from lca.reference import Adam, Batch, DatasetLoss, load_digits, mlp, train
from validation.evidence import keep, verdict
from validation.study import COLORS, draw_means, figure, mean_text, save, shuffled

FOLDER = Path(__file__).parent
WIDTHS, RATE, STEPS, BATCH = (64, 32, 32, 10), 0.05, 300, 50
SPLITS = (0, 1, 2, 3, 5, 10, 50)
GRID = np.linspace(0, 1, 41)
RULES = {n: lca.composite(lca.SIMPSON, n) for n in (1, 4, 16, 64)}
DIGITS, NETWORK = load_digits().reshaped((WIDTHS[0],)), mlp(WIDTHS)
TRAIN = DatasetLoss(NETWORK, DIGITS.x_train, DIGITS.y_train)
HELDOUT = DatasetLoss(NETWORK, DIGITS.x_test, DIGITS.y_test)
LAYERS = NETWORK.layout.groups("layer")
Run = dict[str, Any]


def batches(steps: int, seed: int) -> Iterator[Batch]:
    """Batches in epochs."""
    for chosen in shuffled(len(DIGITS.x_train), BATCH, steps, seed):
        yield Batch(DIGITS.x_train[chosen], DIGITS.y_train[chosen])


def ends(split: int, seed: int) -> list[np.ndarray]:
    """θ of two runs that have their initial weights and the first ``split`` batches in common."""
    shared = list(batches(split, seed))
    found = []
    for order in (1, 2):
        theta = NETWORK.init(seed)
        later = batches(STEPS - split, 1_000 * seed + order)
        for step in train(TRAIN, theta, Adam(lr=RATE), [*shared, *later]):
            theta = step.end
        found.append(theta)
    return found


def measure(split: int, seed: int) -> Run:
    """The loss along the line, the barrier, and the contribution of each layer to it."""
    one, other = ends(split, seed)
    along, heldout = (
        np.array([loss.loss((1 - a) * one + a * other) for a in GRID]) for loss in (TRAIN, HELDOUT)
    )
    peak = GRID[int(np.argmax(along - (1 - GRID) * along[0] - GRID * along[-1]))]
    top = (1 - peak) * one + peak * other
    # From both ends, weighed so that the parts add up to the height above the straight line.
    parts, misses = np.zeros(len(LAYERS.names)), dict.fromkeys(RULES, 0.0)
    for start, weight in ((one, 1 - peak), (other, peak)):
        for count, rule in RULES.items():
            [found] = lca.allocate(TRAIN, [lca.Step(start, top)], lca.PathIntegral(rule))
            misses[count] += weight * found.residual
        parts += weight * LAYERS.total(found.values)  # of the finest rule
    return {
        "split": split,
        "seed": seed,
        "train": along.tolist(),
        "heldout": heldout.tolist(),
        "peak": float(peak),
        "barrier": height(along),
        "heldout_barrier": height(heldout),
        "layers": parts.tolist(),
        "movement": LAYERS.total((other - one) ** 2).tolist(),
        "residuals": {str(count): float(miss) for count, miss in misses.items()},
    }


def height(along: np.ndarray) -> float:
    """How far the loss rises above the straight line between its ends."""
    return float((along - (1 - GRID) * along[0] - GRID * along[-1]).max())


def by_split(runs: list[Run], key: str) -> dict[int, np.ndarray]:
    """One quantity of the results for all seeds, by the number of shared steps."""
    return {split: np.array([r[key] for r in runs if r["split"] == split]) for split in SPLITS}


def draw(runs: list[Run]) -> None:
    """The line, the barrier and its layers, and how finely the line has to be resolved."""
    made, [[line, barrier, parts, rules]] = figure(1, 4, size=(14, 3.4))
    for split, color in zip((0, 2, 50), COLORS, strict=False):
        values, label = by_split(runs, "train")[split][:, ::2], f"parted at step {split}"
        draw_means(line, GRID[::2], values, color=color, label=label, markersize=0)
    line.set(xlabel="position on the line between the ends", ylabel="training loss", ylim=(0, 2.1))
    for key, color, label in (("barrier", COLORS[0], "training"), ("heldout_barrier", COLORS[1], "held-out")):
        values = np.array(list(by_split(runs, key).values())).T
        draw_means(barrier, range(len(SPLITS)), values, color=color, label=f"{label} loss")
    barrier.set(xlabel="step at which the runs part", ylabel="height of the barrier")
    barrier.set_xticks(range(len(SPLITS)), SPLITS)
    layers = by_split(runs, "layers")
    for at, (name, color) in enumerate(zip(LAYERS.names, COLORS, strict=False)):
        values = np.array([found[:, at] for found in layers.values()]).T
        draw_means(parts, np.arange(len(SPLITS)) + 0.08 * (at - 1), values, color=color, label=name)
    parts.axhline(0, color="0.7", linewidth=0.8)
    parts.set(xlabel="step at which the runs part", ylabel="part of the barrier, by layer")
    parts.set_xticks(range(len(SPLITS)), SPLITS)
    misses = np.array([[abs(r["residuals"][str(n)]) for n in RULES] for r in runs if r["split"] == 0])
    draw_means(rules, range(len(RULES)), misses, color=COLORS[0], label="|residual|, parted at step 0")
    rules.set_yscale("log")
    rules.set(xlabel="pieces of Simpson's rule to the peak", ylabel="|barrier − sum of the layers|")
    rules.set_xticks(range(len(RULES)), RULES)
    for ax in (line, barrier, parts, rules):
        ax.legend(frameon=False, fontsize="small")
    save(made, "connectivity.png")


def table(runs: list[Run]) -> str:
    """A Markdown table of means over seeds ± the half-width of the 95 % confidence interval."""
    names = " | ".join(LAYERS.names)
    lines = [f"| parted at step | barrier | held-out | {names} |", "|---" * (3 + len(LAYERS.names)) + "|"]
    for split in SPLITS:
        cells = [mean_text(by_split(runs, key)[split]) for key in ("barrier", "heldout_barrier")]
        cells += [mean_text(part) for part in by_split(runs, "layers")[split].T]
        lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(8)])
    seeds, began = parser.parse_args().seeds, time.perf_counter()
    runs = [measure(split, seed) for seed in seeds for split in SPLITS]
    set_up = {"widths": WIDTHS, "rate": RATE, "steps": STEPS, "batch": BATCH, "seeds": seeds}
    keep(FOLDER, "results.json", {**set_up, "seconds": round(time.perf_counter() - began), "runs": runs})
    (FOLDER / "table.md").write_text(table(runs))
    print(table(runs))
    draw(runs)
    misses = [abs(sum(r["layers"]) - r["barrier"]) / max(r["barrier"], 1e-3) for r in runs]
    first, last = (by_split(runs, "barrier")[split] for split in (SPLITS[0], SPLITS[-1]))
    verdict(
        {
            "the layers add up to the barrier within 1 %, every run": max(misses) < 0.01,
            "there is a barrier between runs that part at step 0, every seed": first.min() > 0.05,
            f"it is gone where they part at step {SPLITS[-1]}: less than a tenth, every seed": last.max()
            < 0.1 * first.mean(),
        }
    )


if __name__ == "__main__":
    main()
