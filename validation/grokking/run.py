"""Which layers carry the late fall of the held-out loss in grokking, and for which examples?

A transformer with one block learns addition modulo 113 with AdamW. It fits its training pairs early, and the
loss of held-out pairs first rises and falls much later. The held-out loss is allocated to layers and examples
on straight lines between checkpoints.

    python -m validation.grokking.run

Checkpoints are kept in ``--folder``; a run that was cut continues from there.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lca
from lca.by_example import ByExample, ExampleHistory
from lca_torch import Objective
from validation.evidence import keep, verdict
from validation.grokking.network import KINDS, LAYERS, Pairs, Transformer, kinds, layer_of, split
from validation.grokking.training import EVERY, checkpoints, train
from validation.study import COLORS, draw_means, figure, mean_text, save

FOLDER = Path(__file__).parent
STEPS, EXAMPLES, LEARNED = 6_000, 2_000, 0.99
ESTIMATOR = lca.Adaptive(tol=2e-3, audit=8)
RULES = {
    "trapezoid": lca.PathIntegral(lca.TRAPEZOID),
    "Simpson": lca.PathIntegral(lca.SIMPSON),
    "midpoint, 10 nodes": lca.PathIntegral(lca.composite(lca.MIDPOINT, 10)),
    "midpoint, 100 nodes": lca.PathIntegral(lca.composite(lca.MIDPOINT, 100)),
    "adaptive 1e-5": lca.Adaptive(tol=1e-5),
}
PHASES = ("rise", "early fall", "late fall")
"""Of the held-out loss: up to its peak, until the training pairs are fitted, until the others are learned."""
LATE = len(PHASES) - 1
Run = dict[str, Any]


def objective_on(pairs: Pairs) -> Objective:
    """The mean loss of pairs."""
    return Objective(
        Transformer(), nn.functional.cross_entropy, (pairs.tokens, pairs.sums), batch_size=len(pairs)
    )


SCORES = ("train", "heldout", "train_accuracy", "heldout_accuracy")
FIXED = lca.composite(lca.gauss_legendre(2), 2)


def measure(seed: int, folder: Path) -> Run:
    """Allocate the held-out loss between all checkpoints of one run."""
    trained, heldout = split(seed)
    chosen = heldout.at(
        torch.randperm(len(heldout), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    )
    labels = kinds(chosen, trained)
    saved = list(checkpoints(folder))
    at = [step for step, _ in saved]
    curves = {name: [float(found[name]) for _, found in saved] for name in SCORES}
    thetas = [torch.from_numpy(found["theta"]) for _, found in saved]
    objective = objective_on(chosen)
    how = ByExample(layer_of, labels={"kind": labels.tolist()}, estimator=ESTIMATOR)
    history, allocate_step = ExampleHistory(objective, how), how.start(objective)
    decay = []
    for t, (start, end) in enumerate(zip(thetas, thetas[1:], strict=False)):
        step = lca.Step(start, end, at[t])
        history.add(allocate_step(step))
        decay.append(by_decay(objective, step, torch.from_numpy(saved[t + 1][1]["decayed"])))
    total, found = history.total(), history.to_xarray()
    assert total.groups == LAYERS
    values, weight = history.values, found["weight"].values
    losses = np.concatenate([found["loss_start"].values[:1], found["loss_end"].values]) / weight
    by_kind = {kind: labels == kind for kind in KINDS}
    whole, decayed = (np.array([pair[i] for pair in decay]) for i in range(2))
    return {
        "seed": seed,
        "steps": at,
        **curves,
        "layers": list(total.groups),
        "sizes": {kind: int(of.sum()) for kind, of in by_kind.items()},
        "loss_by_kind": {kind: losses[:, of].mean(axis=1).tolist() for kind, of in by_kind.items()},
        "values": {kind: values[:, :, of].sum(axis=2).tolist() for kind, of in by_kind.items()},
        "decay": decayed.tolist(),
        "gradient_margin": float(np.abs(whole - values.sum(axis=2)).sum() / np.abs(values.sum(axis=2)).sum()),
        "missed": float(np.abs(found["residual"]).sum() / np.abs(losses[1:] - losses[:-1]).sum() / weight[0]),
        "unconverged_chords": int((~found["converged"].values).sum()),
        "nodes_per_chord": total.nodes / total.steps,
    }


def by_decay(objective: Objective, step: lca.Step, decayed: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The allocation of a chord to layers, and the part of it that is due to weight decay, (layers,) each.

    Computed from gradients with a fixed rule, independently of the allocation by example.
    """
    groups, movement = objective.layout.groups(layer_of), step.end - step.start
    mean = torch.zeros_like(movement)
    for node, weight in zip(FIXED.nodes, FIXED.weights, strict=True):
        mean += weight * objective.loss_and_grad(step.start + node * movement)[1]
    return groups.total(mean * movement), groups.total(mean * decayed)


def single_steps(seed: int, folder: Path) -> dict[str, Run]:
    """How well rules integrate single updates of AdamW: ``|residual|`` of the training loss, and cost."""
    trained, _ = split(seed)
    objective = objective_on(trained)
    saved = list(checkpoints(folder))
    steps = [
        lca.Step(torch.from_numpy(found["theta"]), torch.from_numpy(found["after"]), step)
        for step, found in saved[:: max(1, len(saved) // 12)]
    ]
    rows = {}
    for name, rule in RULES.items():
        allocations = [next(lca.allocate(objective, [step], rule)) for step in steps]
        rows[name] = {
            "residual": [abs(a.residual) for a in allocations],
            "loss_change": [a.loss_change for a in allocations],
            "gradients": float(np.mean([a.cost.full_gradients for a in allocations])),
        }
    return rows


def phases(run: Run) -> list[slice]:
    """The chords of each of `PHASES`; the last one ends where `LEARNED` of the held-out pairs are right."""
    learned = np.flatnonzero(np.array(run["heldout_accuracy"]) >= LEARNED)
    peak = int(np.argmax(run["heldout"]))
    fitted = int(np.flatnonzero(np.array(run["train_accuracy"]) >= LEARNED)[0])
    return [slice(0, peak), slice(peak, fitted), slice(fitted, int(learned[0]))]


def by_layer(run: Run, phase: int) -> np.ndarray:
    """The allocation of each layer in a phase, (layers,)."""
    return np.asarray(sum(np.array(run["values"][kind])[phases(run)[phase]].sum(axis=0) for kind in KINDS))


def by_cause(run: Run, phase: int) -> np.ndarray:
    """The parts of the allocation of each layer due to gradients and to weight decay, (2, layers)."""
    decay = np.array(run["decay"])[phases(run)[phase]].sum(axis=0)
    return np.stack([by_layer(run, phase) - decay, decay])


def by_kind(run: Run, phase: int) -> np.ndarray:
    """The allocation of each layer per pair of each class, (layers, kinds)."""
    sizes = run["sizes"]
    each = [
        np.array(run["values"][kind])[phases(run)[phase]].sum(axis=0) * sum(sizes.values()) / sizes[kind]
        for kind in KINDS
    ]
    return np.stack(each, axis=1)


def shares(runs: list[Run], phase: int, of: Callable[[Run, int], np.ndarray]) -> np.ndarray:
    """What ``of`` returns for each run, in % of the change of its held-out loss in a phase; (seeds, ...)."""
    return np.array([100 * of(run, phase) / by_layer(run, phase).sum() for run in runs])


def draw(runs: list[Run]) -> None:
    """Draw the losses, and who carries the late fall: layers, causes and classes of pairs."""
    made, [[curves, classes, layers, causes, pairs]] = figure(1, 5, size=(17, 3.5))
    at = np.arange(len(LAYERS))
    for run in runs:
        first = run is runs[0]
        for name, label, color in (("train", "training", COLORS[3]), ("heldout", "held-out", COLORS[4])):
            curves.plot(run["steps"], run[name], color=color, linewidth=0.9, label=label if first else "")
        for kind, color in zip(KINDS, COLORS, strict=False):
            label = kind if first else ""
            classes.plot(run["steps"], run["loss_by_kind"][kind], color=color, linewidth=0.9, label=label)
    curves.set_yscale("log")
    curves.set(xlabel="step", ylabel="loss, one line per seed")
    classes.set(xlabel="step", ylabel="held-out loss by class of pairs")
    draw_means(layers, at, shares(runs, LATE, by_layer), color="black", linestyle="none")
    found = shares(runs, LATE, by_cause)
    for cause, (name, color) in enumerate(zip(("gradients", "weight decay"), COLORS[3:], strict=False)):
        places = at + 0.2 * (cause - 0.5)
        draw_means(causes, places, found[:, cause], color=color, label=name, linestyle="none")
    each = shares(runs, LATE, by_kind)
    for kind, (name, color) in enumerate(zip(KINDS[:2], COLORS, strict=False)):
        places = at + 0.2 * (kind - 0.5)
        draw_means(pairs, places, each[:, :, kind], color=color, label=name, linestyle="none")
    for ax in (layers, causes, pairs):
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.set_xticks(at, LAYERS, fontsize="x-small", rotation=30)
    layers.set_ylabel("% of the late fall")
    causes.set_ylabel("% of the late fall, by cause")
    pairs.set_ylabel("fall of a pair, % of the mean pair")
    for ax in (curves, classes, causes, pairs):
        ax.legend(frameon=False, fontsize="x-small")
    save(made, "grokking.png")


def table(runs: list[Run], rules: dict[str, Run]) -> str:
    """Markdown tables of the phases, of the late fall, and of rules on single steps."""
    lines = ["| phase | ends at step | change of the held-out loss |", "|---|---|---|"]
    for phase, name in enumerate(PHASES):
        ends = [run["steps"][phases(run)[phase].stop] for run in runs]
        change = mean_text([by_layer(run, phase).sum() for run in runs], 2)
        lines.append(f"| {name} | {min(ends):,} to {max(ends):,} | {change} |")
    heads = ["layer", "% of the late fall", "by gradients", "by weight decay", *KINDS]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    whole, causes, kind = (shares(runs, LATE, of) for of in (by_layer, by_cause, by_kind))
    columns = np.concatenate(
        [whole[:, None], causes, kind.swapaxes(1, 2)], axis=1
    )  # (seeds, columns, layers)
    for name, found in [*zip(LAYERS, columns.transpose(2, 1, 0), strict=True), ("all", columns.sum(2).T)]:
        lines.append(f"| {name} | {' | '.join(mean_text(values, 0) for values in found)} |")
    heads = ["rule on single steps", "mean of abs(residual)", "largest", "gradients a step"]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in rules.items():
        missed = np.array(row["residual"])
        lines.append(f"| {name} | {missed.mean():.1e} | {missed.max():.1e} | {row['gradients']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lca-grokking")
    given, began = parser.parse_args(), time.process_time()
    torch.set_num_threads(1)
    runs = []
    for seed in given.seeds:
        train(seed, STEPS, given.folder / str(seed))
        path = given.folder / str(seed) / "run.json"
        if not path.exists():
            path.write_text(json.dumps(measure(seed, path.parent)))
        runs.append(json.loads(path.read_text()))
        print(f"seed {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)
    path = given.folder / "rules.json"
    if not path.exists():
        path.write_text(json.dumps(single_steps(given.seeds[0], given.folder / str(given.seeds[0]))))
    rules = json.loads(path.read_text())
    set_up = {"steps": STEPS, "examples": EXAMPLES, "every": EVERY, "seeds": given.seeds}
    results = {**set_up, "runs": runs, "rules": rules}
    keep(FOLDER, "results.json", results)
    (FOLDER / "table.md").write_text(table(runs, rules))
    print(table(runs, rules))
    draw(runs)
    verdict(
        {
            "every seed groks: the late fall lowers the held-out loss by more than 1": max(
                by_layer(run, LATE).sum() for run in runs
            )
            < -1,
            "the sums over examples differ from an independent gradient rule by at most 2 %, every seed": max(
                run["gradient_margin"] for run in runs
            )
            < 0.02,
            "the examples' residuals are at most 2 % of their loss changes, every seed": max(
                run["missed"] for run in runs
            )
            < 0.02,
        }
    )


if __name__ == "__main__":
    main()
