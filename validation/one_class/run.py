"""One class of MNIST: which weights and which phases of training lowered its loss?

A network is trained on 3,000 digits, and every step is allocated to every weight for the loss of each class.
Then the allocation is put to the test: the hundredth of the weights that lowered the loss of a class most is
set back to the values before training, and so are as many weights chosen in other ways. The held-out loss of
the class should rise, and that of other classes should not. The movement of each phase is taken back as well.

    OMP_NUM_THREADS=1 python -m validation.one_class.run
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn

import lca
from lca.analysis import paired_t_test
from lca.views import GroupTotals
from lca_torch import Tracker
from validation.evidence import keep, verdict
from validation.findings.measure import by_class
from validation.findings.networks import mnist, mnist_fc
from validation.study import COLORS, draw_means, mean_text, save, shuffled

FOLDER = Path(__file__).parent
EXAMPLES, BATCH, STEPS, LR, PHASES = 3_000, 100, 150, 0.001, 5
SHARE = 0.01
"""Of the weights, set back at once."""
OWN = "LCA of the class"
CHOICES = (
    OWN,
    "first order at the end",
    "LCA of the next class",
    "LCA of all classes",
    "moved most",
    "at random",
)
CLASSES, SHOWN = 10, (0, 1, 3, 7)
Run = dict[str, Any]


class Weights:
    """For the loss of each class: the allocation of each weight over the run, and of each layer by step."""

    def __init__(self, layout: lca.Layout) -> None:
        self._layers = layout.groups("layer")
        self.weights: dict[str, np.ndarray] = {}
        self.layers: dict[str, GroupTotals] = {}

    def update(self, allocation: lca.StepAllocation) -> None:
        """Take in one step."""
        for name, term in allocation.terms.items():
            values = term.values.numpy().astype(np.float64)
            self.weights[name] = self.weights[name] + values if name in self.weights else values
            self.layers.setdefault(name, GroupTotals(self._layers)).update(term)


def class_losses(model: nn.Module, theta: np.ndarray, data: tuple[Tensor, Tensor]) -> np.ndarray:
    """The mean loss of each class at θ, (classes,)."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(theta).float(), model.parameters())
        each = nn.functional.cross_entropy(model(data[0]), data[1], reduction="none").numpy()
    return np.array([each[data[1].numpy() == c].mean() for c in range(CLASSES)])


def slopes(model: nn.Module, data: tuple[Tensor, Tensor]) -> np.ndarray:
    """The gradient of the loss of each class, (classes, K)."""
    found = []
    for c in range(CLASSES):
        own = data[1] == c
        loss = nn.functional.cross_entropy(model(data[0][own]), data[1][own])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([g.reshape(-1) for g in grads]).numpy())
    return np.stack(found)


def chosen(choice: str, c: int, scores: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The weights that are set back for class ``c``: those with the lowest scores, (K,) or (classes, K)."""
    count = round(SHARE * scores["moved most"].size)
    if choice == "at random":
        return rng.choice(np.flatnonzero(scores["moved most"]), count, replace=False)
    score = scores[choice]
    return np.argsort(score if score.ndim == 1 else score[c])[:count]


def measure(seed: int) -> Run:
    """Train once, allocate every step, then set back weights and phases."""
    torch.manual_seed(seed)
    model, (x, y) = mnist_fc(), mnist()
    train, held = (x[:EXAMPLES], y[:EXAMPLES]), (x[-EXAMPLES:], y[-EXAMPLES:])
    objective, loss_fn = by_class(model, train), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    path = [flat(model)]
    with Tracker(
        model, optimizer, objective, lca.Adaptive(tol=1e-3), views=Weights, on_error="raise"
    ) as tracker:
        for batch in shuffled(EXAMPLES, BATCH, STEPS, seed):
            optimizer.zero_grad()
            loss_fn(model(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
            path.append(flat(model))
    view, summary = tracker.views["train"], tracker.summary()["train"]
    names = [f"class {c}" for c in range(CLASSES)]
    shares = np.array([(y[:EXAMPLES] == c).float().mean() for c in range(CLASSES)])
    seen = np.stack([view.weights[name] for name in names]) / shares[:, None]
    layers = np.stack([view.layers[name].rows for name in names]) / shares[:, None, None]
    moved, rng = path[-1] - path[0], np.random.default_rng(seed)
    scores = {
        OWN: seen,
        "first order at the end": slopes(model, train) * moved,
        "LCA of the next class": np.roll(seen, -1, axis=0),
        "LCA of all classes": seen.sum(axis=0),
        "moved most": -np.abs(moved),
    }
    before = class_losses(model, path[-1], held)
    rises = {}
    for choice in CHOICES:
        rows = []
        for c in range(CLASSES):
            weights, theta = chosen(choice, c, scores, rng), path[-1].copy()
            theta[weights] = path[0][weights]
            rise = class_losses(model, theta, held) - before
            rows.append([rise[c], np.delete(rise, c).mean()])
        rises[choice] = np.mean(rows, axis=0).tolist()
    ends = np.linspace(0, STEPS, PHASES + 1).astype(int)
    phases = [
        class_losses(model, path[-1] - (path[end] - path[start]), held) - before
        for start, end in zip(ends, ends[1:], strict=False)
    ]
    return {
        "seed": seed,
        "layers": list(objective.layout.groups("layer").names),
        "heldout": before.tolist(),
        "rises": rises,
        "maps": seen[list(SHOWN), : 784 * 100].reshape(len(SHOWN), 100, 784).sum(axis=1),
        "by_layer_and_phase": [
            [layers[c, start:end].sum(axis=0).tolist() for start, end in zip(ends, ends[1:], strict=False)]
            for c in range(CLASSES)
        ],
        "rise_without_phase": np.transpose(phases).tolist(),
        "half_of_the_fall": [
            int(np.argmax(total <= total[-1] / 2)) for total in layers.sum(axis=2).cumsum(axis=1)
        ],
        "residual": summary["residual"] / (summary["loss_end"] - summary["loss_start"]),
    }


def flat(model: nn.Module) -> np.ndarray:
    """A copy of all parameters, float64."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy().astype(np.float64)


def of(runs: list[Run], key: str) -> np.ndarray:
    """One quantity of all seeds, the seed first."""
    return np.array([run[key] for run in runs])


def rises(runs: list[Run], choice: str) -> np.ndarray:
    """How much the held-out loss rises when weights are set back: of the class, of the others; (seeds, 2)."""
    return np.array([run["rises"][choice] for run in runs])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two arrays."""
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def text(runs: list[Run]) -> Iterator[str]:
    """The tables of the page; Markdown."""
    yield "| a hundredth of the weights by | the class | the others | the class, minus the first row | p |"
    yield "|---|---|---|---|---|"
    best = rises(runs, OWN)[:, :1]
    for choice in CHOICES:
        found = rises(runs, choice)
        cells = [choice, *(mean_text(column) for column in found.T)]
        if choice == OWN:
            cells += ["", ""]
        else:
            [test] = paired_t_test(["rise"], found[:, :1], best)
            cells += [f"{test.mean:+.3f} [{test.low:+.3f}, {test.high:+.3f}]", f"{test.p_value:.1g}"]
        yield f"| {' | '.join(cells)} |"
    layers = of(runs, "by_layer_and_phase")  # seeds, classes, phases, layers
    phases, without = layers.sum(axis=3), of(runs, "rise_without_phase")
    yield "\n| steps | allocation, mean of the classes | held-out loss without the phase |"
    yield "|---|---|---|"
    for i in range(PHASES):
        steps = f"{i * STEPS // PHASES} to {(i + 1) * STEPS // PHASES}"
        both = (mean_text(values[:, :, i].mean(axis=1)) for values in (phases, without))
        yield f"| {steps} | {' | '.join(both)} |"
    each = [rank_correlation(-a[:, 1:], b[:, 1:]) for a, b in zip(phases, without, strict=True)]
    yield f"\nRank correlation of both, (class, phase) without the first phase: {mean_text(each, 2)}."
    half = of(runs, "half_of_the_fall")
    slow, fast = half.mean(axis=0).argmax(), half.mean(axis=0).argmin()
    yield (
        f"Half of the fall is reached at step {mean_text(half.mean(axis=1), 0)}: first by class {fast} "
        f"({mean_text(half[:, fast], 0)}), last by class {slow} ({mean_text(half[:, slow], 0)})."
    )


def draw(runs: list[Run], maps: np.ndarray) -> None:
    """Draw where the classes read the image, what setting back does, and the phases."""
    made = Figure(figsize=(12, 4.2), dpi=120, layout="constrained")
    grid = made.add_gridspec(2, 4, width_ratios=[0.6, 0.6, 1.5, 1.5])
    limit = np.abs(maps).max()
    for place, (c, pixels) in enumerate(zip(SHOWN, maps, strict=True)):
        ax = made.add_subplot(grid[place // 2, place % 2])
        image = ax.imshow(pixels.reshape(28, 28), cmap="PuOr", vmin=-limit, vmax=limit)
        ax.set_title(f"class {c}", fontsize="small")
        ax.set(xticks=[], yticks=[])
    made.colorbar(image, ax=made.axes, location="bottom", shrink=0.9, label="LCA of the weights of a pixel")
    middle, right = made.add_subplot(grid[:, 2]), made.add_subplot(grid[:, 3])
    for column, (what, color) in enumerate(zip(("the class", "the other classes"), COLORS, strict=False)):
        values = np.stack([rises(runs, choice)[:, column] for choice in CHOICES], axis=1)
        draw_means(
            middle,
            np.arange(len(CHOICES)) + 0.16 * column,
            values,
            color=color,
            label=f"loss of {what}",
            linestyle="none",
        )
    middle.set_xticks(range(len(CHOICES)), CHOICES, rotation=30, ha="right", fontsize="small")
    middle.set(ylabel="rise of the held-out loss", yscale="log", ylim=(1e-3, 10))
    middle.set_title("a hundredth of the weights set back", fontsize="small")
    phases, without = of(runs, "by_layer_and_phase").sum(axis=3), of(runs, "rise_without_phase")
    for values, what, color in (
        (-phases, "−LCA of the phase", COLORS[0]),
        (without, "rise without it", COLORS[1]),
    ):
        draw_means(
            right, range(PHASES), values.mean(axis=1), color=color, label=f"{what}, mean of the classes"
        )
    right.set_xticks(
        range(PHASES), [f"{i * STEPS // PHASES} to\n{(i + 1) * STEPS // PHASES}" for i in range(PHASES)]
    )
    right.set(xlabel="steps", ylabel="in units of the loss")
    for ax in (middle, right):
        ax.legend(frameon=False, fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
    save(made, "one_class.png")


def main() -> None:
    """Train, set back, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    seeds, began = parser.parse_args().seeds, time.perf_counter()
    runs = [measure(seed) for seed in seeds]
    maps = np.mean([run.pop("maps") for run in runs], axis=0)
    keep(FOLDER, "results.json", {"runs": runs, "seconds": round(time.perf_counter() - began)})
    (FOLDER / "table.md").write_text("\n".join(text(runs)) + "\n")
    print((FOLDER / "table.md").read_text())
    draw(runs, maps)
    verdict(
        {
            "the layers add up to the loss change within 1 %, every run": max(map(abs, of(runs, "residual")))
            < 0.01,
            "by its LCA, the loss of a class rises ten times as much as that of the others, every seed": all(
                rises(runs, OWN)[:, 0] > 10 * rises(runs, OWN)[:, 1]
            ),
        }
    )


if __name__ == "__main__":
    main()
