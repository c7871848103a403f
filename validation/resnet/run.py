"""ResNet-20 on CIFAR-10: which layers hurt, and what helps against it?

The paper reports that the first and the last layer of a ResNet-20 hurt: their movement raises the loss of the
training set. It freezes the last layer, lowers its learning rate, and varies its momentum. Here it is done
with a small part of the images, all of which are measured at every step, refined until it adds up to 0.0005.
Every run is kept as soon as it is done; a run that is kept is not made again.

    OMP_NUM_THREADS=1 python -m validation.resnet.run
    python -m validation.resnet.run --table
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from tqdm import tqdm

import lca
from lca import analysis
from lca.views import GroupTotals
from lca_torch import Objective, Tracker
from validation.bench_torch.resnet20 import resnet20
from validation.evidence import data_folder, keep, verdict
from validation.gpu.cifar import decoded
from validation.study import COLORS, draw_means, figure, mean_text, save, shuffled

FOLDER = Path(__file__).parent
EXAMPLES, BATCH, STEPS, LR, MOMENTUM, MAX_LAG = 250, 25, 100, 0.1, 0.9, 10
TOLERANCE = 0.0005
"""Of the residual of a step. The first seven, which are long, take up to 33 gradients, the others four."""
LAST: dict[str, dict[str, float] | None] = {
    "as the others": {},
    "frozen": None,
    "learning rate 0.01": {"lr": 0.01},
    "momentum 0.5": {"momentum": 0.5},
    "momentum 0": {"momentum": 0.0},
}
"""What is done to the last layer: options of its own for SGD, or nothing at all."""
Run = dict[str, Any]


def label(name: str) -> str:
    """A short name of a layer, from that of its module.

    >>> label("0"), label("5.conv2"), label("5.shortcut"), label("14")
    ('conv', 'block 3 conv 2', 'block 3 shortcut', 'dense')
    """
    module, _, inner = name.partition(".")
    if inner:
        kind, number = inner.rstrip("12"), inner.lstrip("abcdefghijklmnopqrstuvwxyz")
        return f"block {int(module) - 2} {kind} {number}".strip()
    return {"0": "conv", "1": "norm", "14": "dense"}[name]


def losses(data: tuple[Tensor, Tensor], model: nn.Module) -> Objective:
    """The mean loss of some images, with the statistics of these images in BatchNorm."""
    return Objective(model, nn.CrossEntropyLoss(), data, batch_size=len(data[0]), batch_norm="batch")


def layer_totals(layout: lca.Layout) -> GroupTotals:
    """What is kept of a run: the allocation of every layer at every step."""
    return GroupTotals(layout.groups("layer"))


def flat(tensors: Iterable[Tensor | None]) -> np.ndarray:
    """A copy of some tensors as one vector; all of them have a gradient."""
    return torch.cat([t.detach().reshape(-1) for t in tensors if t is not None]).numpy()


def measure(last: str, seed: int) -> Run:
    """Train once, with every step allocated for the images that are trained on, and for as many held out."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    model, (x, y) = resnet20(), decoded(data_folder() / "cifar10_jpeg.npz", 2 * EXAMPLES)
    train, heldout = (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])
    head = list(model[-1].parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if all(p is not q for q in head)]}
    ]
    own = LAST[last]
    if own is not None:
        groups.append({"params": head, **own})
    optimizer = SGD(groups, lr=LR, momentum=MOMENTUM)
    held = losses(heldout, model)
    held_start = held.loss(held.theta())
    gradients, movements = [], []
    objective = losses(train, model)
    estimator = lca.Adaptive(TOLERANCE)
    with Tracker(model, optimizer, objective, estimator, views=layer_totals, on_error="raise") as tracker:
        for batch in tqdm(shuffled(EXAMPLES, BATCH, STEPS, seed), total=STEPS, mininterval=10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
            gradients.append(flat(p.grad for p in model.parameters()))
            start = flat(model.parameters())
            optimizer.step()
            movements.append(flat(model.parameters()) - start)
    layers, summary = objective.layout.groups("layer"), tracker.summary()["train"]
    lag = None  # a frozen layer has none
    if own is not None:
        lag = analysis.phase_lag(np.stack(gradients), np.stack(movements), layers, max_lag=MAX_LAG)
    return {
        "last": last,
        "seed": seed,
        "layers": [label(name) for name in layers.names],
        "rows": np.asarray(tracker.views["train"].rows).tolist(),
        "loss": [summary["loss_start"], summary["loss_end"]],
        "heldout": [held_start, held.loss(held.theta())],
        "residual": summary["residual"],
        "helping_percent": summary.get("helping_percent"),
        "unconverged_steps": summary["unconverged_steps"],
        "gradients_per_step": summary["full_gradients_per_step"],
        "correlation": None if lag is None else lag.correlation.round(4).tolist(),
        "seconds": time.perf_counter() - began,
    }


def of(runs: list[Run], last: str, key: str) -> np.ndarray:
    """One quantity for all seeds of one kind of runs, by seed."""
    return np.array([run[key] for run in sorted(runs, key=lambda r: r["seed"]) if run["last"] == last])


def totals(runs: list[Run], last: str) -> np.ndarray:
    """The allocation of every layer over the run, (seeds, layers)."""
    return of(runs, last, "rows").sum(axis=1)


def text(runs: list[Run]) -> Iterator[str]:
    """The layers over seeds, and what each change of the last layer did; Markdown."""
    names, first = runs[0]["layers"], totals(runs, "as the others")
    yield f"## Layers, as the others ({len(first)} seeds)\n"
    yield "| layer | total | 95 % interval | p (Holm) |"
    yield "|---|---|---|---|"
    for row in analysis.t_test_over_seeds(names, first):
        yield f"| {row.name} | {row.mean:+.4f} | {row.low:+.4f} … {row.high:+.4f} | {row.p_adjusted:.2g} |"
    yield "\n## The last layer\n"
    yield "| last layer | its total | training loss | change, same seeds | p | held-out loss | change | p |"
    yield "|---|---|---|---|---|---|---|---|"
    for last in LAST:
        ends = [of(runs, last, key)[:, 1] for key in ("loss", "heldout")]
        cells = [last, mean_text(totals(runs, last)[:, -1])]
        for key, end in zip(("loss", "heldout"), ends, strict=True):
            cells.append(mean_text(end))
            if last == "as the others":
                cells += ["", ""]
                continue
            before = of(runs, "as the others", key)[:, 1:]
            [test] = analysis.paired_t_test([key], end[:, None], before)
            cells += [f"{test.mean:+.3f} [{test.low:+.3f}, {test.high:+.3f}]", f"{test.p_value:.2g}"]
        yield f"| {' | '.join(cells)} |"
    yield "\n## Lag of the movement behind the gradient, in steps\n"
    yield "| last layer | best lag of the last layer, by seed | of the others, median |"
    yield "|---|---|---|"
    for last, options in LAST.items():
        if options is not None:
            best = of(runs, last, "correlation")[:, MAX_LAG:].argmax(axis=1)
            yield f"| {last} | {', '.join(map(str, best[:, -1]))} | {np.median(best[:, :-1]):.1f} |"


def draw(runs: list[Run]) -> None:
    """Draw the totals of the layers, the course of the last one, and the correlation by delay."""
    made, [[left, middle, right]] = figure(1, 3, size=(12, 4.2))
    names, values = runs[0]["layers"], totals(runs, "as the others")
    convolutions = [i for i, name in enumerate(names) if "norm" not in name]
    draw_means(left, range(len(convolutions)), values[:, convolutions], color=COLORS[0], linestyle="none")
    left.set_xticks(
        range(len(convolutions)), [names[i] for i in convolutions], rotation=90, fontsize="x-small"
    )
    left.set(ylabel="LCA over the run, in units of the loss\n(negative = helping)")
    left.axhline(0, color="0.7", linewidth=0.8)
    for last, color in zip(LAST, COLORS, strict=False):
        course = of(runs, last, "rows")[:, :, -1].cumsum(axis=1)
        draw_means(middle, range(4, STEPS, 5), course[:, 4::5], color=color, label=last, markersize=0)
        if LAST[last] is not None:
            lags = of(runs, last, "correlation")[:, :, -1]
            draw_means(right, range(-MAX_LAG, MAX_LAG + 1), lags, color=color, markersize=0)
    middle.set(xlabel="step", ylabel="cumulative LCA of the last layer")
    middle.legend(frameon=False, fontsize="x-small", title="last layer", title_fontsize="x-small")
    right.set(
        xlabel="delay of the movement, in steps", ylabel="correlation of −gradient and movement,\nlast layer"
    )
    right.axvline(0, color="0.7", linewidth=0.8)
    right.set_xticks(range(-MAX_LAG, MAX_LAG + 1, 5))
    save(made, "resnet.png")


def main() -> None:
    """Make the runs that are missing, then the table and the figure of all that are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(3)])
    parser.add_argument("--table", action="store_true", help="make no run; use those that are kept")
    options = parser.parse_args()
    for seed in [] if options.table else options.seeds:
        for number, last in enumerate(LAST):
            name = f"{seed}-{number}.json"
            if not (FOLDER / name).exists():
                keep(FOLDER, name, measure(last, seed))
    runs = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    (FOLDER / "table.md").write_text("\n".join(text(runs)) + "\n")
    print((FOLDER / "table.md").read_text())
    draw(runs)
    changes = [run["loss"][1] - run["loss"][0] for run in runs]
    misses = [abs(run["residual"] / change) for run, change in zip(runs, changes, strict=True)]
    print(f"largest residual: {100 * max(misses):.2f} % of the loss change of the run")
    verdict({"the layers add up to the loss change within 1 %, every run": max(misses) < 0.01})


if __name__ == "__main__":
    main()
