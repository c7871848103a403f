"""One training run of a GPT, and the two trackers that watch it: a cheap estimator, and the exact one."""

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

import lca
from lca.estimators import CrossFit
from lca.groups import Groups
from lca.layout import Layout
from lca.views import GroupTotals, Trace
from lca_torch import Objective, Tracker
from validation.language_model.gpt import GPT, KINDS, SIZES, next_token_loss
from validation.language_model.text import Windows, library_bytes

FIXED, EVERY = 64, 20
"""Sequences of the measured loss, and steps between two exact ones."""
CHEAP = CrossFit(micro_batches=2, independent=False)
EXACT = lca.Adaptive(tol=0.02, per="change")


@dataclass(frozen=True)
class Options:
    """What determines a run, up to the order of additions."""

    size: str = "10M"
    steps: int = 200
    batch: int = 16
    seed: int = 0
    rate: float = 3e-4
    warm_up: int = 100
    device: str = "cpu"


@dataclass(eq=False)
class Run:
    """A model in training; the same options give the same weights and batches."""

    options: Options
    model: GPT = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.options.seed)
        size, device = SIZES[self.options.size], self.options.device
        text, seed = library_bytes(), self.options.seed
        self.model = GPT(size).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.options.rate, betas=(0.9, 0.95), weight_decay=0.1
        )
        self._rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._factor)
        self._windows = Windows(text, size.length, seed=1000 + seed, device=device)
        self.fixed = Windows(text, size.length, seed=500 + seed, device=device).draw(FIXED)

    def _factor(self, step: int) -> float:
        return min(1, (step + 1) / self.options.warm_up)

    def objective(self, measured: int = 16) -> Objective:
        """The mean loss of the fixed sequences, ``measured`` of them at once."""
        return Objective(
            self.model, None, self.fixed, batch_loss=next_token_loss, batch_size=min(measured, FIXED)
        )

    def step(self, tracker: Tracker | None = None) -> float:
        """One update; with a tracker on two halves of the batch, as cross-fit requires. The batch's loss."""
        batch = self._windows.draw(self.options.batch)
        self.optimizer.zero_grad()
        if tracker is None:
            loss = next_token_loss(self.model, batch)
            loss.backward()
            total = loss.detach()
        else:
            tracker.begin_batch(batch)
            total = torch.zeros((), device=batch.device)
            for half, weight in tracker.micro_batches(batch, 2):
                loss = weight * next_token_loss(self.model, half)
                loss.backward()
                total += loss.detach()
        self.optimizer.step()
        self._rate.step()
        return float(total)


def part_of(name: str) -> str:
    """The part of the model that a tensor belongs to: its kind, and the number of its block.

    >>> part_of("blocks.3.attention.qkv.weight"), part_of("head.weight")
    ('attention 3', 'head')
    """
    [kind] = [kind for kind, pattern in KINDS.items() if re.search(pattern, name)]
    block = re.match(r"blocks\.(\d+)\.", name)
    return f"{kind} {block[1]}" if block else kind


class PartTotals:
    """A view: the sums over the parts of the model at every step, and the scalars of the step."""

    def __init__(self, layout: Layout) -> None:
        self.groups: Groups = layout.groups(part_of)
        self.totals, self.trace = GroupTotals(self.groups), Trace()

    def update(self, allocation: lca.StepAllocation) -> None:
        self.totals.update(allocation)
        self.trace.update(allocation)


def watched(
    options: Options, note: Callable[[int, float, "PartTotals", "PartTotals"], None]
) -> tuple["PartTotals", "PartTotals"]:
    """Train with both trackers: the parts by the cheap estimator, and every 20th step by the exact one.

    ``note(step, loss of the batch, cheap, exact)`` is called after every update.
    """
    run = Run(options)
    track = partial(Tracker, run.model, run.optimizer, run.objective(), views=PartTotals, on_error="raise")
    exact, cheap = track(EXACT, every=EVERY), track(CHEAP, check_every=None)
    with ExitStack() as stack:
        for tracker in (exact, cheap):
            stack.enter_context(tracker)
        views: Any = cheap.views["train"], exact.views["train"]
        for step in range(options.steps + 1):  # a cross-fit step is measured one update later
            note(step, run.step(cheap), *views)
    return views


def by_kind(parts: PartTotals) -> tuple[np.ndarray, np.ndarray]:
    """The sums of every step over the kinds, (steps, kinds), and the numbers of the steps."""
    kinds = [name.partition(" ")[0] for name in parts.groups.names]
    member = np.array([[kind == own for kind in KINDS] for own in kinds], float)
    return parts.totals.rows @ member, parts.trace.rows["step"]


def compared(cheap: PartTotals, exact: PartTotals) -> dict[str, Any]:
    """Compare the cheap estimator with the exact values at the steps that both have measured."""
    (of_cheap, all_steps), (of_exact, steps) = by_kind(cheap), by_kind(exact)
    both = np.intersect1d(all_steps, steps)
    a, b = of_cheap[np.isin(all_steps, both)], of_exact[np.isin(steps, both)]
    rest = np.arange(len(b)) != np.abs(b.sum(axis=1)).argmax()
    return {
        "steps": both.tolist(),
        "cheap": a.tolist(),
        "exact": b.tolist(),
        "correlation": _correlation(a.ravel(), b.ravel()),
        "correlation_without_largest_step": _correlation(a[rest].ravel(), b[rest].ravel()),
        "correlation_of_kind": {
            kind: _correlation(*pair) for kind, *pair in zip(KINDS, a.T, b.T, strict=True)
        },
        "total_cheap": float(a.sum()),
        "total_exact": float(b.sum()),
        "error_of_total": _error(a.sum(), b.sum()),
        "error_without_largest_step": _error(a[rest].sum(), b[rest].sum()),
    }


def _error(found: float, expected: float) -> float:
    return float(found / expected - 1) if expected else math.nan


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 else math.nan
