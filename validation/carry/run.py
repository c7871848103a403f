"""When does a transformer learn to carry, in which layers, and does the allocation tell carries apart?

A small transformer learns to add numbers of three digits. The loss of single answer digits is allocated to
layers, exactly (path integrals by example) and to first order, and the digits are clustered by their
trajectories, as in POLCA (Kangaslahti et al. 2026): how homogeneous are the clusters in the carry?

    python -m validation.carry.run

The values of each seed are kept in ``--folder``; seeds that are there are not measured again.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import lca
from lca.by_example import ByExample, ExampleHistory
from lca_torch import Objective
from validation.carry.clusters import alike, clusters, homogeneity, purity
from validation.carry.task import COLUMNS, Digit, Measured, drawn, loss_of
from validation.evidence import keep, verdict
from validation.study import COLORS, draw_means, figure, mean_text, save

FOLDER = Path(__file__).parent
STEPS, BATCH, RATE, EVERY = 2000, 128, 2e-3, 20
SUMS, CLUSTERED = 100, ("hundreds", "tens")
LAYERS = ("embedding", "attention 1", "mlp 1", "attention 2", "mlp 2", "norms", "head")
EXACT, FIRST = lca.Adaptive(tol=2e-3, audit=None), lca.PathIntegral(lca.LEFT)
PLACES, EACH = 2, 2
"""Checkpoints whose Hessians give directions, and eigenvectors of each."""
GAUSS = lca.gauss_legendre(2)
SHUFFLES = 200
"""Permutations of the labels, for the homogeneity that would be found by chance."""
SCORES = ("carry", "chance", "entropy", "mean of groups", "best group", "nearest", "column")
"""The scores of a row of the table; see the README."""
Array = np.ndarray
Run = dict[str, Any]


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to.

    >>> layer_of("gpt.blocks.1.mlp.0.weight"), layer_of("gpt.blocks.0.norm_1.bias")
    ('mlp 2', 'norms')
    """
    if "norm" in name:
        return "norms"
    if "blocks" not in name:
        return "head" if "head" in name else "embedding"
    kind = "attention" if "attention" in name else "mlp"
    return f"{kind} {1 + int(name.split('.')[2])}"


def train(seed: int) -> tuple[nn.Module, list[torch.Tensor], list[Array]]:
    """Train on sums drawn anew for each batch; θ and the losses of all columns at every checkpoint."""
    torch.manual_seed(seed)
    model, rng = Digit(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    shown, thetas, losses = Measured.of(drawn(np.random.default_rng(99), 1000), COLUMNS), [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            thetas.append(parameters_to_vector(model.parameters()).detach().clone())
            losses.append(by_class(model, shown))
        optimizer.zero_grad()
        loss_of(model.gpt, drawn(rng, BATCH).tokens).backward()
        optimizer.step()
    return model, thetas, losses


def by_class(model: nn.Module, shown: Measured) -> Array:
    """The mean loss of digits without and with a carry into their column, (2, columns); NaN: none."""
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(shown.tokens, shown.column), shown.digit, reduction="none")
    found = np.full((2, len(COLUMNS)), np.nan)
    for carry in range(2):
        for column in range(len(COLUMNS)):
            of = (shown.carry == carry) & (shown.column.numpy() == column)
            if of.any():
                found[carry, column] = losses.numpy()[of].mean()
    return found


def allocated(objective: Objective, steps: list[lca.Step], carry: Array, estimator: Any) -> ExampleHistory:
    """Allocate all steps to layers and digits."""
    how = ByExample(layer_of, labels={"carry": carry.tolist()}, estimator=estimator)
    history = ExampleHistory(objective, how)
    allocate_step = how.start(objective)
    for step in steps:
        history.add(allocate_step(step))
    return history


def directions(model: nn.Module, measured: Measured, thetas: list[torch.Tensor]) -> Array:
    """Orthonormal rows: the leading eigenvectors of the Hessian of the measured loss at some checkpoints."""
    chosen = [thetas[round(i)] for i in np.linspace(0, len(thetas) - 1, PLACES + 1)[1:]]
    parameters = list(model.parameters())
    vectors = []
    for theta in chosen:
        vector_to_parameters(theta, parameters)
        with sdpa_kernel(SDPBackend.MATH):
            loss = nn.functional.cross_entropy(model(measured.tokens, measured.column), measured.digit)
            gradient = torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
            )

        def product(v: Array, gradient: torch.Tensor = gradient) -> Array:
            along = torch.from_numpy(v.astype(np.float32).ravel())
            found = torch.autograd.grad(gradient @ along, parameters, retain_graph=True)
            return torch.cat([part.flatten() for part in found]).numpy()

        start = np.random.default_rng(0).standard_normal(len(theta)).astype(np.float32)
        hessian = LinearOperator((len(theta),) * 2, matvec=product, dtype=np.float32)
        vectors.append(eigsh(hessian, k=EACH, which="LA", tol=0.02, v0=start)[1].T)
    return np.linalg.qr(np.concatenate(vectors).T.astype(np.float64))[0].T


def along(objective: Objective, steps: list[lca.Step], basis: Array, rule: lca.QuadratureRule) -> Array:
    """The allocation to directions and digits, (T, directions, n)."""
    whole = objective.layout.groups(lambda name: "all")
    index = np.arange(objective.n_examples)
    rows = torch.from_numpy(basis).float()
    found = np.zeros((len(steps), len(basis), len(index)))
    for t, step in enumerate(steps):
        moved = step.end - step.start
        for b, row in enumerate(rows):
            part = row * (row @ moved)
            for node, weight in zip(rule.nodes, rule.weights, strict=True):
                slopes = objective.by_example(step.start + node * moved, part, whole, index).slopes[0]
                found[t, b] += weight * slopes / len(index)
    return found


def scored(values: Array, column: Array, carry: Array, seed: int) -> dict[str, float]:
    """How homogeneous clusters of trajectories are in the carry, from increments (T, groups, n).

    The digits of each column are clustered on their own, by the trajectories of all groups at once, and by
    those of each group.
    """
    paths = np.cumsum(values, axis=0).transpose(2, 1, 0)  # (n, groups, T)
    rng, rows = np.random.default_rng(seed), []
    for each in np.unique(column):
        of = column == each
        whole, labels = paths[of].reshape(int(of.sum()), -1), carry[of]
        found = clusters(whole, seed)
        chance = np.mean([purity(found, rng.permutation(labels)) for _ in range(SHUFFLES)])
        alone = [purity(clusters(paths[of, g], seed), labels) for g in range(paths.shape[1])]
        own = purity(found, labels), float(chance), homogeneity(found, labels)
        rows.append((*own, float(np.mean(alone)), float(np.max(alone)), alike(whole, labels)))
    columns = purity(clusters(paths.reshape(len(paths), -1), seed), column)
    return dict(zip(SCORES, [*np.mean(rows, axis=0).tolist(), columns], strict=True))


def measure(seed: int, folder: Path) -> Path:
    """Train once, allocate every chord to layers and directions; write the values to the folder."""
    model, thetas, losses = train(seed)
    measured = Measured.of(drawn(np.random.default_rng(1000 + seed), SUMS), CLUSTERED)
    objective = Objective(model, nn.functional.cross_entropy, measured.data, batch_size=len(measured.carry))
    steps = [lca.Step(a, b, EVERY * t) for t, (a, b) in enumerate(zip(thetas, thetas[1:], strict=False))]
    exact, first = (allocated(objective, steps, measured.carry, how) for how in (EXACT, FIRST))
    basis, total = directions(model, measured, thetas), exact.total()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / f"{seed}.npz",
        losses=losses,
        exact=exact.values,
        first=first.values,
        left=residuals(exact),
        left_first=residuals(first),
        along_exact=along(objective, steps, basis, GAUSS),
        along_first=along(objective, steps, basis, lca.LEFT),
        carry=measured.carry,
        column=measured.column,
        layers=total.groups,
        group_residual=np.abs(total.group_residual).max() / total.mass,
        nodes=total.nodes / total.steps,
        unconverged=int((~exact.to_xarray()["converged"]).sum()),
    )
    return folder / f"{seed}.npz"


def judged(seed: int, path: Path) -> Run:
    """Cluster what was measured, and reduce it to what is kept."""
    with np.load(path) as found:
        known = {name: found[name] for name in found.files}
    carry, places = known["carry"], [known["layers"].tolist().index(layer) for layer in LAYERS]
    exact, first = known["exact"][:, places], known["first"][:, places]
    change = exact.sum(axis=1) + known["left"]
    rows = {
        "loss": change[:, None],
        "layers, first order": first,
        "layers, exact": exact,
        "directions, first order": known["along_first"],
        "directions, exact": known["along_exact"],
    }
    lefts = {"exact": known["left"], "first order": known["left_first"]}
    classes = [exact[:, :, carry == each].sum(axis=2) for each in range(2)]
    return {
        "seed": seed,
        "losses": known["losses"].tolist(),
        "layers": LAYERS,
        "by_carry": np.stack(classes, axis=2).tolist(),
        "carries": float(carry.mean()),
        "missed": {name: float(np.abs(left).sum() / np.abs(change).sum()) for name, left in lefts.items()},
        "in_directions": float(np.abs(known["along_exact"].sum(axis=1)).sum() / np.abs(change).sum()),
        **{name: float(known[name]) for name in ("group_residual", "nodes", "unconverged")},
        "scores": {name: scored(values, known["column"], carry, seed) for name, values in rows.items()},
    }


def residuals(history: ExampleHistory) -> Array:
    """The part of each loss change that the allocation misses, (T, n)."""
    found: Array = history.to_xarray()["residual"].values
    return found


def of(runs: list[Run], key: str) -> Array:
    """One quantity of the results for all seeds."""
    return np.array([run[key] for run in runs])


def per_digit(runs: list[Run]) -> Array:
    """The allocation of the whole run by layer, per digit of its class, (seeds, layers, carry)."""
    with_carry = of(runs, "carries")
    totals: Array = of(runs, "by_carry").sum(axis=1)
    return totals / np.stack([1 - with_carry, with_carry], axis=1)[:, None]


def score(runs: list[Run], row: str, key: str) -> Array:
    """One score of one row for all seeds."""
    return np.array([run["scores"][row][key] for run in runs])


def curves_apart(run: Run) -> float:
    """How far the losses of digits with and without a carry are apart, in parts of that of the columns."""
    losses = np.array(run["losses"])[:, :, [COLUMNS.index(name) for name in CLUSTERED]]
    carries = np.abs(losses[:, 0] - losses[:, 1]).mean()
    columns = np.abs(losses[:, :, 0] - losses[:, :, 1]).mean()
    return float(carries / columns)


def draw(runs: list[Run]) -> None:
    """Draw the losses, the layers, what the allocations miss, and how homogeneous the clusters are."""
    made, [[curves, layers, misses, scores]] = figure(1, 4, size=(14, 3.5))
    at, losses = np.arange(0, STEPS + 1, EVERY), of(runs, "losses")
    for column, color in zip(("hundreds", "tens", "ones"), COLORS, strict=False):
        for carry, line in enumerate(("-", ":")):
            for seed, found in enumerate(losses[:, :, carry, COLUMNS.index(column)]):
                label = f"{column}, {'with' if carry else 'no'} carry" if seed == 0 else ""
                if not np.isnan(found).any():
                    curves.plot(at, found, line, color=color, linewidth=0.9, label=label)
    curves.set(xlabel="step", ylabel="loss of an answer digit, a line per seed", ylim=(0, None))
    each = per_digit(runs)
    for carry, color in enumerate(COLORS[3:5]):
        places = np.arange(len(LAYERS)) + 0.2 * (carry - 0.5)
        draw_means(layers, places, each[:, :, carry], color=color, label=_CARRY[carry], linestyle="none")
    layers.axhline(0, color="0.7", linewidth=0.8)
    layers.set(ylabel="LCA per digit (negative = helping)")
    layers.set_xticks(range(len(LAYERS)), LAYERS, rotation=40, ha="right", fontsize="x-small")
    for place, name in enumerate(("first order", "exact")):
        values = np.array([[100 * run["missed"][name]] for run in runs])
        draw_means(misses, [place], values, color=COLORS[0])
    misses.set_yscale("log")
    misses.set(ylabel="missed, % of the loss changes", xlim=(-0.5, 1.5), ylim=(0.1, 300))
    misses.set_xticks(range(2), ("first order", "exact"))
    for place, row in enumerate(runs[0]["scores"]):
        for key, shift, color in (("carry", -0.1, COLORS[0]), ("chance", 0.1, "0.6")):
            label = {"carry": "carry", "chance": "permuted labels"}[key] if place == 0 else ""
            values = score(runs, row, key)[:, None]
            draw_means(scores, [place + shift], values, color=color, label=label, linestyle="none")
    scores.set(ylabel="homogeneity of clusters in the carry", ylim=(0.5, 1))
    scores.set_xticks(range(len(runs[0]["scores"])), _ROWS, fontsize="x-small", rotation=40, ha="right")
    for ax in (curves, layers, scores):
        ax.legend(frameon=False, fontsize="x-small")
    save(made, "carry.png")


_CARRY = ("no carry into the column", "carry into the column")
_ROWS = ("loss", "layers,\nfirst order", "layers,\nexact", "directions,\nfirst order", "directions,\nexact")


def table(runs: list[Run]) -> str:
    """A Markdown table of the scores, means over seeds ± half of the 95 % interval."""
    heads = ["clustered by", *SCORES[:2], "carry - chance", *SCORES[2:]]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in runs[0]["scores"]:
        found = [score(runs, row, key) for key in SCORES]
        found.insert(2, found[0] - found[1])
        lines.append(f"| {row} | {' | '.join(mean_text(values).lstrip('+') for values in found)} |")
    lines += ["", "| exact - first order | carry | nearest |", "|---|---|---|"]
    for kind in ("layers", "directions"):
        gaps = (
            score(runs, f"{kind}, exact", key) - score(runs, f"{kind}, first order", key)
            for key in ("carry", "nearest")
        )
        lines.append(f"| {kind} | {' | '.join(map(mean_text, gaps))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, cluster, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(3)])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lca-carry")
    given, began = parser.parse_args(), time.process_time()
    torch.set_num_threads(1)
    runs, seeds = [], given.seeds
    for seed in seeds:
        path = given.folder / f"{seed}.npz"
        runs.append(judged(seed, path if path.exists() else measure(seed, given.folder)))
        print(f"seed {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)
    set_up = {"steps": STEPS, "batch": BATCH, "rate": RATE, "every": EVERY, "sums": SUMS, "seeds": seeds}
    keep(FOLDER, "results.json", {**set_up, "runs": runs})
    (FOLDER / "table.md").write_text(table(runs))
    print(table(runs))
    print("missed:", {name: mean_text([run["missed"][name] for run in runs]) for name in runs[0]["missed"]})
    print("part in the directions:", mean_text([run["in_directions"] for run in runs]))
    print("curves apart:", mean_text([curves_apart(run) for run in runs]))
    for carry in range(2):
        cells = zip(LAYERS, per_digit(runs)[:, :, carry].T, strict=True)
        print(_CARRY[carry], *(f"{layer} {mean_text(values)}" for layer, values in cells), sep="; ")
    draw(runs)
    verdict(
        {
            "exact: misses at most 1 % of the loss changes of the digits, every seed": max(
                run["missed"]["exact"] for run in runs
            )
            < 0.01,
            "the sums over digits are those of the gradient within 1e-5 of the mass, every seed": max(
                run["group_residual"] for run in runs
            )
            < 1e-5,
        }
    )


if __name__ == "__main__":
    main()
