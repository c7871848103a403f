"""Muon against AdamW on a small transformer: which layers lower the loss?

A transformer with two blocks is trained on the letters of the language reference that comes with Python.
Either Muon updates the matrices of the blocks and AdamW everything else, or AdamW updates all parameters. The
loss of a fixed sample of windows is allocated at every step; the seeds are paired.

    python -m validation.muon.run
"""

import argparse
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lca
from lca.analysis import paired_t_test
from lca_torch import Objective, Tracker
from validation.evidence import keep, verdict
from validation.study import COLORS, draw_means, figure, mean_text, save

FOLDER = Path(__file__).parent
LETTERS = "abcdefghijklmnopqrstuvwxyz .,'\n"
WINDOW, WIDTH, BLOCKS, HEADS = 32, 32, 2, 2
STEPS, BATCH, MEASURED = 120, 32, 128
RATES = {"AdamW": {"adamw": 0.005}, "Muon": {"adamw": 0.005, "muon": 0.02}}
PARTS = ("embedding", "attention", "mlp", "norms", "head")
Run = dict[str, Any]


class Block(nn.Module):
    """Attention and a layer of four times the width, both added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (n, window, width) to activations of the same shape."""
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A language model: from letters to the logits of the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS))

    def forward(self, letters: Tensor) -> Tensor:
        """Map letters (n, window) to logits (n, letters, window), the order that cross entropy expects."""
        x = self.embedding(letters) + self.position(torch.arange(letters.shape[1]))
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to."""
    if "norm" in name:
        return "norms"
    if "qkv" in name or "out" in name:
        return "attention"
    if "up" in name or "down" in name:
        return "mlp"
    return "head" if "head" in name else "embedding"


class Together(torch.optim.Optimizer):
    """Muon for the matrices of the blocks and AdamW for the rest, as one optimizer."""

    def __init__(self, model: nn.Module, rates: dict[str, float]) -> None:
        matrices = [p for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2]
        hidden = {id(p) for p in matrices} if "muon" in rates else set()
        rest = [p for p in model.parameters() if id(p) not in hidden]
        super().__init__(list(model.parameters()), {})
        self.inner: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=rates["adamw"])]
        if hidden:
            self.inner.append(torch.optim.Muon(matrices, lr=rates["muon"]))

    def step(self, closure: None = None) -> None:
        """Apply the updates of both optimizers."""
        for optimizer in self.inner:
            optimizer.step()


def windows() -> Tensor:
    """The text as windows of letters, one longer than the input, (n, WINDOW + 1)."""
    text = " ".join(topics[name] for name in sorted(topics)).lower()
    codes = torch.tensor([LETTERS.index(letter) for letter in text if letter in LETTERS][:300_000])
    return codes[: len(codes) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)


def measure(kind: str, seed: int) -> Run:
    """Train once, with every step allocated to the parts of the network."""
    torch.manual_seed(seed)
    data, model, loss_fn = windows(), Transformer(), nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(99))
    measured, training = data[order[:MEASURED]], data[order[MEASURED:]]
    objective = Objective(model, loss_fn, (measured[:, :-1], measured[:, 1:]))
    optimizer = Together(model, RATES[kind])
    groups = {"part": {part: lambda name, part=part: part_of(name) == part for part in PARTS}}
    with Tracker(
        model, optimizer, objective, lca.Adaptive(tol=1e-3), groups=groups, on_error="raise"
    ) as tracker:
        for _ in range(STEPS):
            batch = training[torch.randint(len(training), (BATCH,), generator=generator)]
            model.zero_grad()
            loss_fn(model(batch[:, :-1]), batch[:, 1:]).backward()
            optimizer.step()
    summary = tracker.summary()["train"]
    totals = summary["per_group"]["part"]
    return {
        "kind": kind,
        "seed": seed,
        "loss": tracker.views["train"].trace.losses().tolist(),
        "parts": [totals[part] for part in PARTS],
        "residual": summary["residual"],
        "helping_percent": summary["helping_percent"],
        "gradients_per_step": summary["full_gradients_per_step"],
        "unconverged_steps": summary["unconverged_steps"],
    }


def of(runs: list[Run], kind: str, key: str) -> np.ndarray:
    """One quantity of the results for all seeds of one optimizer."""
    return np.array([run[key] for run in runs if run["kind"] == kind])


def draw(runs: list[Run]) -> None:
    """Draw the losses, and the totals and shares of the parts of the network."""
    made, [[left, middle, right]] = figure(1, 3, size=(11, 3.3))
    for at, (kind, color) in enumerate(zip(RATES, COLORS, strict=False)):
        loss, parts = of(runs, kind, "loss"), of(runs, kind, "parts")
        draw_means(left, range(0, STEPS + 1, 6), loss[:, ::6], color=color, label=kind, markersize=0)
        places = np.arange(len(PARTS)) + 0.16 * (at - 0.5)
        draw_means(middle, places, parts, color=color, label=kind, linestyle="none")
        shares = 100 * parts / parts.sum(axis=1, keepdims=True)
        draw_means(right, places, shares, color=color, label=kind, linestyle="none")
    left.set(xlabel="step", ylabel="measured loss")
    middle.set(ylabel="LCA in units of the loss\n(negative = helping)")
    right.set(ylabel="% of the loss change")
    for ax in (middle, right):
        ax.set_xticks(range(len(PARTS)), PARTS, fontsize="x-small")
        ax.axhline(0, color="0.7", linewidth=0.8)
    left.legend(frameon=False, fontsize="small")
    save(made, "muon.png")


def main() -> None:
    """Train, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    seeds, began = parser.parse_args().seeds, time.perf_counter()
    runs = [measure(kind, seed) for seed in seeds for kind in RATES]
    results = {"seeds": seeds, "rates": RATES, "parts": PARTS, "runs": runs}
    tests = []
    if len(seeds) > 1:
        tests = [
            vars(test) for test in paired_t_test(PARTS, of(runs, "Muon", "parts"), of(runs, "AdamW", "parts"))
        ]
    keep(
        FOLDER,
        "results.json",
        {**results, "muon_minus_adamw": tests, "seconds": round(time.perf_counter() - began)},
    )
    for kind in RATES:
        cells = (f"{part} {mean_text(v)}" for part, v in zip(PARTS, of(runs, kind, "parts").T, strict=True))
        print(kind, "loss at the end", mean_text(of(runs, kind, "loss")[:, -1]), *cells, sep="; ")
    for t in tests:
        interval = f"[{t['low']:+.3f}, {t['high']:+.3f}]"
        print(f"{t['name']}: {t['mean']:+.3f} {interval}, p (Holm) {t['p_adjusted']:.2g}")
    draw(runs)
    misses = [
        abs(sum(r["parts"]) - (r["loss"][-1] - r["loss"][0])) / abs(r["loss"][-1] - r["loss"][0])
        for r in runs
    ]
    verdict({"the parts add up to the loss change within 1 %, every run": max(misses) < 0.01})


if __name__ == "__main__":
    main()
