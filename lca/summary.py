"""The summary of a run: what `lca demo` prints and writes to ``summary.json``.

Everything in it follows from the seed and the settings, except ``seconds``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.allocation import StepAllocation
from lca.layout import Layout
from lca.views import GroupTotals, HelpingCounts, LogHistogram, Trace
from lca.views.signs import NOISY


@dataclass(frozen=True, eq=False)
class RunViews:
    """The views of one measured loss along a run; itself a `View`.

    Memory: O(K), and a few numbers a step and tensor.
    """

    trace: Trace
    tensors: GroupTotals
    layers: GroupTotals
    signs: HelpingCounts
    histogram: LogHistogram

    @classmethod
    def of(cls, layout: Layout) -> "RunViews":
        """Fresh views for the tensors and layers of ``layout``."""
        tensors, layers = layout.groups("tensor"), layout.groups("layer")
        return cls(Trace(), GroupTotals(tensors), GroupTotals(layers), HelpingCounts(tensors), LogHistogram())

    def update(self, allocation: StepAllocation) -> None:
        for view in (self.trace, self.tensors, self.layers, self.signs, self.histogram):
            view.update(allocation)


def summarize(run: RunViews) -> dict[str, Any]:
    """One measured loss in numbers: plain Python values, ready for JSON.

    ``loss_end - loss_start = lca_total + state_change + residual + unmeasured_change`` up to float64
    rounding. The first three are sums over the measured steps; ``unmeasured_change`` is what happened to the
    loss between the end of one and the start of the next: steps left out (``every=``), and jumps.
    Allocations, residuals and ``mass`` are in units of the loss, negative = helped. ``helping_percent`` is
    the mean over the steps that have one (`Signs`), ``null`` if none has. From an estimator on samples or
    batches there are no losses (NaN) and no helping percentages (``null``); ``helping_refused`` says why.

    Examples
    --------
    >>> run = RunViews.of(Layout(("fc.weight", "fc.bias"), ((1, 2), (1,))))
    >>> run.update(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.75, residual=0.25, mass=1.5))
    >>> summary = summarize(run)
    >>> summary["lca_total"], summary["per_tensor"], summary["helping_percent"]
    (-0.5, {'fc.weight': -1.0, 'fc.bias': 0.5}, 50.0)
    """
    rows, signs = run.trace.rows, run.signs.per_step()
    sampled = bool(np.isnan(rows["loss_end"]).any())
    loss_start, loss_end = float(rows["loss_start"][0]), float(rows["loss_end"][-1])
    lca_total, state_change = float(rows["total"].sum()), float(rows["state_change"].sum())
    return {
        "parameters": run.tensors.groups.parameters,
        "steps": len(rows),
        "loss_start": loss_start,
        "loss_end": loss_end,
        "lca_total": lca_total,
        "residual": float(rows["residual"].sum()),
        "state_change": state_change,
        "unmeasured_change": float((rows["loss_start"][1:] - rows["loss_end"][:-1]).sum()),
        "mass": float(rows["mass"].sum()),
        "max_step_residual": float(np.abs(rows["residual"]).max()),
        "unconverged_steps": int(np.count_nonzero(~rows["converged"])),
        "full_gradients_per_step": float(rows["full_gradients"].mean()),
        "helping_percent": None if sampled else _number(signs.mean_helping_percent()),
        **({"helping_refused": NOISY} if sampled else {}),
        "zero_percent": _number(signs.mean_zero_percent()),
        "steps_without_helping_percent": int(signs.steps_without_percent()),
        "per_tensor": run.tensors.by_name(),
        "helping_percent_per_tensor": _helping_by_name(run.signs, sampled=sampled),
    }


def summarize_run(
    settings: Mapping[str, Any], train: RunViews, heldout: RunViews, *, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The whole of ``summary.json``: settings, the training loss, the held-out loss, times.

    Parameters
    ----------
    settings
        What determines the run: backend, dtype, seed, ...
    train, heldout
        Views of both losses along the same steps. The held-out loss is found under ``heldout``.
    seconds
        ``train`` and ``allocate``: the only numbers that change from one run to the next.
    """
    return {**settings, **summarize(train), "heldout": summarize(heldout), "seconds": dict(seconds)}


def to_json(summary: Mapping[str, Any]) -> str:
    """``summary`` as text; floats keep every bit, NaN and Inf are refused."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def _helping_by_name(signs: HelpingCounts, *, sampled: bool) -> dict[str, float | None]:
    assert signs.groups is not None
    percents = signs.per_group().mean_helping_percent()
    return {
        name: None if sampled else _number(p) for name, p in zip(signs.groups.names, percents, strict=True)
    }


def _number(percent: np.ndarray) -> float | None:
    """JSON has no NaN: a percentage that does not exist is ``null``."""
    number = float(percent)
    return None if math.isnan(number) else number
