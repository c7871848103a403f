"""One training run seen by many estimators at once, against the full-data allocation of the same steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lca
from lca.allocation import Cost, Estimator
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.estimators import required_fields_of
from lca.layout import Groups
from lca.views import ErrorBars
from validation.cost_frontier.case import Case, Options, Shown, SuppliedFields
from validation.cost_frontier.helping import HelpingBracket

Array = np.ndarray
TRUTH = lca.PathIntegral(lca.RK4)
USUAL, ANY = "2 micro-batches", "any"
"""The training loop that most estimators need, and that of estimators which can watch any."""
WINDOWS = (1, 10, 50)
"""Lengths of the windows of steps whose intervals are tried; and the whole run."""


@dataclass(eq=False)
class Seen:
    """What is kept of one estimator: sums per (step, layer), totals per parameter, signs, error bars."""

    groups: Groups
    size: int
    rows: list[Array] = field(default_factory=list)
    helping: list[float] = field(default_factory=list)
    cost: Cost = Cost()
    losses: list[tuple[float, float]] = field(default_factory=list)
    bars: ErrorBars | None = None
    bracket: HelpingBracket | None = None
    totals: Array = field(init=False)
    halves: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.totals = np.zeros(self.size)

    def update(self, a: lca.StepAllocation) -> None:
        values = array_ops(a.values).to_numpy(a.values).astype(np.float64)
        self.rows.append(self.groups.total(values))
        self.totals += values
        self.helping.append(_helping(values))
        self.cost += a.cost
        self.losses.append((a.loss_start, a.loss_end))
        if a.replicates:
            self.bars = self.bars or ErrorBars(self.groups)
            self.bars.update(a)
            self.bracket = self.bracket or HelpingBracket()
            self.bracket.update(a)


def _helping(values: Array) -> float:
    moved = np.count_nonzero(values)
    return 100 * np.count_nonzero(values < 0) / moved if moved else np.nan


def run(case: Case, options: Options, estimators: Mapping[str, Estimator]) -> dict[str, dict[str, Any]]:
    """Figures of every estimator on the same training; ``refused`` with the reason instead."""
    loops: dict[str, dict[str, Estimator]] = {}
    for name, estimator in estimators.items():
        loops.setdefault(_loop_of(estimator), {})[name] = estimator
    anywhere = loops.pop(ANY, {})
    if anywhere:
        shared = USUAL if USUAL in loops else next(iter(loops), USUAL)
        loops.setdefault(shared, {}).update(anywhere)
    found: dict[str, dict[str, Any]] = {}
    for loop, own in loops.items():  # a training run for each
        try:
            found |= _watched(case, options, own)
        except LCAError as error:
            if loop == USUAL:
                raise
            found |= {name: {"refused": str(error)} for name in own}
    return {name: found[name] for name in estimators}


def _loop_of(estimator: Any) -> str:
    """The kind of training loop that an estimator can watch: how its batches are split."""
    fields = required_fields_of(estimator)
    if "halves" in fields:
        return "whole batches"
    return f"{estimator.micro_batches} micro-batches" if "micro_batches" in fields else ANY


def _watched(case: Case, options: Options, estimators: Mapping[str, Estimator]) -> dict[str, dict[str, Any]]:
    """Figures of estimators that can watch the same loop, or why they refuse the measured loss."""
    objective = case.objective()
    groups, size = objective.layout.groups("layer"), objective.layout.size
    allocators, refused = {"truth": TRUTH.start(objective)}, {}
    for name, estimator in estimators.items():
        try:
            allocators[name] = estimator.start(objective)
        except LCAError as error:
            refused[name] = {"refused": str(error)}
    seen = {name: Seen(groups, size) for name in allocators}

    def allocate(step: lca.Step) -> lca.StepAllocation:
        found = {name: allocate(step) for name, allocate in allocators.items()}
        for name, allocation in found.items():
            seen[name].update(allocation)
        return found["truth"]

    shown = [estimator for name, estimator in estimators.items() if name in allocators]
    supplied = SuppliedFields.required_by(shown)
    case.follow(objective, options, Shown(allocate, supplied.required_fields), supplied)
    truth = seen.pop("truth")
    return refused | {name: figures(case, found, truth) for name, found in seen.items()}


def figures(case: Case, found: Seen, truth: Seen) -> dict[str, Any]:
    """How one estimator compares with the truth on one run."""
    rows, true = np.array(found.rows), np.array(truth.rows)
    change, late = true.sum(), len(rows) // 2
    off = rows.sum(axis=0) - true.sum(axis=0)
    return {
        "passes": passes(case, found.cost) / len(rows),
        "total_error_percent": 100 * off.sum() / change,
        "layer_error_percent": 100 * float(np.abs(off).max()) / abs(change),
        "correlation": _correlation(rows, true),
        "correlation_late": _correlation(rows[late:], true[late:]),
        "correlation_parameters": _correlation(found.totals, truth.totals),
        "helping_percent": float(np.nanmean(found.helping)),
        **({"helping_percent_corrected": float(np.nanmean(found.bracket.high()))} if found.bracket else {}),
        "truth_error_percent": 100 * (change / (truth.losses[-1][1] - truth.losses[0][0]) - 1),
        "helping_percent_truth": float(np.nanmean(truth.helping)),
        "coverage": coverage(found.bars, true) if found.bars else None,
    }


def passes(case: Case, cost: Cost) -> float:
    """Backward passes on a training batch, a forward pass counted as a third."""
    full = case.examples * (cost.full_gradients + cost.full_losses / 3)
    return cost.batch_gradients + (full + cost.examples) / case.batch_size


def coverage(bars: ErrorBars, true: Array) -> dict[str, tuple[int, int]]:
    """``{window: (intervals that hold the truth, intervals)}`` over all windows and layers, at 95 %."""
    found = {}
    for length in (*WINDOWS, len(true)):
        inside = [
            _inside(bars, true, start, start + length) for start in range(0, len(true) - length + 1, length)
        ]
        found["run" if length == len(true) else str(length)] = (int(np.sum(inside)), int(np.size(inside)))
    return found


def _inside(bars: ErrorBars, true: Array, start: int, stop: int) -> Array:
    low, high = bars.interval(0.95, start, stop)
    value = true[start:stop].sum(axis=0)
    return (low <= value) & (value <= high)


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
