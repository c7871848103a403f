"""Does the allocation of layers show where a small network needs width?

Pilot runs of a network with equal widths give the share of each hidden layer in the loss change. Networks
with as many parameters then have widths proportional to this share, equal widths, or widths inversely
proportional to it (the control). The pilot and the comparison use different seeds, and no choice depends on
the held-out images.

    python -m validation.widths.run
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lca
from lca.analysis import paired_t_test
from lca.reference import Adam, Batch, DatasetLoss, load_digits, mlp, train
from validation.evidence import keep, verdict
from validation.study import COLORS, draw_means, figure, mean_text, save, shuffled

FOLDER = Path(__file__).parent
HIDDEN, EQUAL, EXAMPLES, STEPS, BATCH, RATE = 3, 14, 400, 300, 50, 0.005
PILOT = (100, 101, 102)
KINDS = {"by allocation": 1.0, "equal": 0.0, "against it": -1.0}
DIGITS = load_digits().reshaped((64,))
X, Y = DIGITS.x_train[:EXAMPLES], DIGITS.y_train[:EXAMPLES]
Run = dict[str, Any]


def network(hidden: Sequence[int]) -> Any:
    """64 inputs, the hidden layers, 10 classes."""
    return mlp((64, *hidden, 10))


def follow(hidden: Sequence[int], seed: int) -> Iterator[lca.Step]:
    """The steps of training."""
    made = network(hidden)
    batches = (Batch(X[i], Y[i]) for i in shuffled(EXAMPLES, BATCH, STEPS, seed))
    yield from train(DatasetLoss(made, X, Y), made.init(seed), Adam(lr=RATE), batches)


def pilot(seed: int) -> np.ndarray:
    """The share of each hidden layer in the loss change of a network with equal widths."""
    made = network([EQUAL] * HIDDEN)
    layers, totals = made.layout.groups("layer"), np.zeros(HIDDEN + 1)
    loss = DatasetLoss(made, X, Y)
    for allocation in lca.allocate(loss, follow([EQUAL] * HIDDEN, seed), lca.Adaptive(tol=1e-3)):
        totals += layers.total(allocation.values)
    return totals[:HIDDEN] / totals.sum()


def widths(shares: np.ndarray, power: float) -> list[int]:
    """Widths proportional to ``shares ** power``, between 6 and 48, with as many parameters as equal ones."""
    target = network([EQUAL] * HIDDEN).layout.size
    shape = np.clip(shares, shares.max() / 20, None) ** power
    candidates = [
        np.clip(np.round(scale * shape / shape.mean()), 6, 48).astype(int)
        for scale in np.linspace(6, 40, 341)
    ]
    sizes = [network(found.tolist()).layout.size for found in candidates]
    return [int(w) for w in candidates[int(np.argmin(np.abs(np.array(sizes) - target)))]]


def score(hidden: Sequence[int], seed: int) -> Run:
    """Losses and accuracy at the end of training."""
    made = network(hidden)
    theta = made.init(seed)
    for step in follow(hidden, seed):
        theta = step.end
    losses = [DatasetLoss(made, x, y).loss(theta) for x, y in ((X, Y), (DIGITS.x_test, DIGITS.y_test))]
    return {"train": losses[0], "heldout": losses[1], "parameters": made.layout.size}


def draw(shares: np.ndarray, chosen: dict[str, list[int]], runs: dict[str, list[Run]]) -> None:
    """Draw the shares of the layers, the chosen widths, and the held-out losses."""
    made, [[left, middle, right]] = figure(1, 3, size=(11, 3.2))
    places, names = np.arange(HIDDEN), [f"hidden {i + 1}" for i in range(HIDDEN)]
    draw_means(left, places, 100 * shares, color="black", linestyle="none")
    left.set(ylabel="% of the loss change (pilot runs)", ylim=(0, None))
    for (kind, found), color in zip(chosen.items(), COLORS, strict=False):
        middle.plot(places, found, "o-", color=color, label=kind, markersize=4, linewidth=1)
    middle.set(ylabel="width", ylim=(0, None))
    middle.legend(frameon=False, fontsize="small")
    for ax in (left, middle):
        ax.set_xticks(places, names)
    for place, (kind, color) in enumerate(zip(runs, COLORS, strict=False)):
        values = np.array([[run["heldout"]] for run in runs[kind]])
        draw_means(right, [place], values, color=color)
    right.set_xticks(range(len(runs)), runs)
    right.set(ylabel=f"held-out loss at the end, {len(values)} seeds", xlim=(-0.5, len(runs) - 0.5))
    save(made, "widths.png")


def main() -> None:
    """Pilot, choose, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(30)])
    seeds, began = parser.parse_args().seeds, time.perf_counter()
    shares = np.array([pilot(seed) for seed in PILOT])
    chosen = {kind: widths(shares.mean(axis=0), power) for kind, power in KINDS.items()}
    runs = {kind: [score(found, seed) for seed in seeds] for kind, found in chosen.items()}
    equal, tests = np.array([[r["heldout"]] for r in runs["equal"]]), {}
    for kind in ("by allocation", "against it"):
        changed = np.array([[r["heldout"]] for r in runs[kind]])
        [test] = paired_t_test([kind], changed, equal)
        tests[kind] = {"mean": test.mean, "low": test.low, "high": test.high, "p_value": test.p_value}
    keep(
        FOLDER,
        "results.json",
        {
            "seeds": seeds,
            "shares": shares.tolist(),
            "widths": chosen,
            "runs": runs,
            "heldout_loss_minus_equal": tests,
            "seconds": round(time.perf_counter() - began),
        },
    )
    for kind, found in runs.items():
        losses = (mean_text([run[key] for run in found]) for key in ("train", "heldout"))
        print(kind, chosen[kind], found[0]["parameters"], "parameters; training, held-out loss", *losses)
    for kind, t in tests.items():
        print(f"{kind} - equal: {t['mean']:+.3f} [{t['low']:+.3f}, {t['high']:+.3f}], p {t['p_value']:.2g}")
    draw(shares, chosen, runs)
    sizes = [found[0]["parameters"] for found in runs.values()]
    verdict({"as many parameters within 3 %": max(sizes) / min(sizes) < 1.03})


if __name__ == "__main__":
    main()
