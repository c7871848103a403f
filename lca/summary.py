"""The summary of a run: what a tracker's ``summary()`` returns and `lca demo` writes to ``summary.json``."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca._verdict import wide_interval
from lca.divisions import _noun
from lca.errors import LCAError, NonFiniteError, UnknownNameError
from lca.layout import Layout, _in_words
from lca.row import Row
from lca.tables import Column, HasTable, Table
from lca.views import GroupTotals, HelpingCounts, LogHistogram, RowView, Trace
from lca.views._signs import NOISY

__all__ = [
    "RunViews",
    "Summary",
    "summarize",
    "summarize_run",
    "to_json",
]


@dataclass(frozen=True, eq=False)
class RunViews(RowView):
    """The views of one measured loss from which `summarize` makes its summary; the default of a tracker.

    Memory: fixed; the numbers of earlier steps are in a temporary file, and none is dropped.

    Attributes
    ----------
    layout
        The layout of the parameters.
    trace
        The scalars of every step.
    tensors, layers
        The totals of every step and of the run.
    signs, histogram
        Counts of helping, hurting and zero parameters, by tensor, and the distribution of |A|; empty for
        sampled allocations, of which they would show the noise.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> run = RunViews.of(Layout(("fc.weight", "fc.bias"), ((1, 2), (1,))))
    >>> run.update(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.75, residual=0.25, mass=1.5))
    >>> run.layers.by_name(), run.trace.rows["mass"]
    ({'fc': -0.5}, array([1.5]))
    """

    layout: Layout
    trace: Trace
    tensors: GroupTotals
    layers: GroupTotals
    signs: HelpingCounts
    histogram: LogHistogram

    @classmethod
    def of(cls, layout: Layout) -> "RunViews":
        """Fresh views for the tensors and layers of ``layout``."""
        tensors, layers = layout.groups("tensor"), layout.groups("layer")
        return cls(
            layout, Trace(), GroupTotals(tensors), GroupTotals(layers), HelpingCounts(tensors), LogHistogram()
        )

    def read(self, row: Row) -> None:
        """Process the row of one step."""
        if not row.allocation.sampled:
            row.reduce_at_once()
        self.trace.add(row.scalars)
        self.tensors.add(row.totals("tensor"))
        self.layers.add(row.totals("layer"))
        if not row.allocation.sampled:  # they would show the noise
            self.signs.add(row.signs("tensor"))
            self.histogram.add(row.magnitudes, self.layout.size)


_COSTS = "full_gradients_per_step", "batch_gradients_per_step", "examples_per_step"
"""The keys of a summary that tell what an update cost."""


def summarize(run: RunViews, loss_end: float | None = None) -> dict[str, Any]:
    """The summary of one measured loss: plain Python values, ready for JSON.

    ``loss_end - loss_start = lca_total + state_change + residual + unmeasured_change`` up to float64
    rounding. The first three terms are sums over the measured steps; ``unmeasured_change`` is the change of
    the loss between the end of one measured step and the start of the next (steps skipped by ``every=``, and
    discontinuities), and from the end of the last one to the end of the run. ``loss_start`` is that of the
    first measured step, so that updates before it are in no term. Allocations, residuals and
    ``mass`` are in units of the loss; negative: helping.

    ``helping_percent`` is the mean over the steps that have one (`lca.views.Signs`), or ``None``. For
    sampled allocations the losses and ``state_change`` are NaN, these percentages and that of exact zeros are
    ``None``, and ``helping_percent_note`` says why. What was spent is counted in gradients over the measured
    data, on training batches and of single examples, a step. ``tied`` has the further names of tied tensors,
    if there are any.

    Parameters
    ----------
    run
        The views of at least one step.
    loss_end
        The loss at the end of the run; ``None`` if that is where the last measured step ended.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> run = RunViews.of(Layout(("fc.weight", "fc.bias"), ((1, 2), (1,))))
    >>> run.update(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.75, residual=0.25, mass=1.5))
    >>> summary = summarize(run)
    >>> summary["lca_total"], summary["per_tensor"], summary["helping_percent"]
    (-0.5, {'fc.weight': -1.0, 'fc.bias': 0.5}, 50.0)
    """
    rows, signs = run.trace.rows, run.signs.per_step()
    sampled, tied = bool(rows["sampled"].any()), run.layout.tied
    last = float(rows["loss_end"][-1])
    end = last if loss_end is None else loss_end
    return {
        "parameters": run.layout.size,
        "steps": len(rows),
        "loss_start": float(rows["loss_start"][0]),
        "loss_end": end,
        "lca_total": float(rows["total"].sum()),
        "residual": float(rows["residual"].sum()),
        "state_change": math.nan if sampled else float(rows["state_change"].sum()),
        "unmeasured_change": float((rows["loss_start"][1:] - rows["loss_end"][:-1]).sum()) + (end - last),
        "mass": float(rows["mass"].sum()),
        "max_step_residual": float(np.abs(rows["residual"]).max()),
        "unconverged_steps": int(np.count_nonzero(~rows["converged"])),
        "full_gradients_per_step": float(rows["full_gradients"].mean()),
        "batch_gradients_per_step": float(rows["batch_gradients"].mean()),
        "examples_per_step": float(rows["examples"].mean()),
        "helping_percent": None if sampled else _number(signs.mean_helping_percent()),
        **({"helping_percent_note": NOISY} if sampled else {}),
        "zero_percent": _number(signs.mean_zero_percent()),
        "steps_without_helping_percent": None if sampled else int(signs.steps_without_percent()),
        "per_tensor": run.tensors.by_name(),
        "helping_percent_per_tensor": _helping_by_name(run, sampled=sampled),
        **({"tied": {name: list(others) for name, others in run.layout.tied.items()}} if tied else {}),
    }


class Summary(HasTable, dict[str, dict[str, Any]]):
    """What ``tracker.summary()`` returns: `summarize` of each measured loss, by name, and a table of it.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> run = RunViews.of(Layout(("fc.weight", "fc.bias"), ((1, 2), (1,))))
    >>> run.update(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.75, residual=0.25, mass=1.5))
    >>> print(Summary(train=summarize(run)).table())
    LCA of each tensor over 1 measured step, in units of the loss; negative: helping.
    tensor              train  helping %
    fc.weight              −1        100
    fc.bias              +0.5          0
    residual            +0.25
    change of the loss  −0.25
    """

    def table(self, *, by: str = "tensor") -> Table:
        """The allocation of each tensor to each loss, and below it what is not an allocation.

        For a sampled estimator, whose steps have no residual, the rows below are the sum over the steps that
        the self-check covers, with its 95 % interval if there are error bars, and the measured change of the
        loss over them, on all data or on ``check_examples=`` of them, without what a state that moved has
        done. The caption says where that interval is wide, and what to do. Losses of classes, and terms of a
        `lca.Sum`, follow the losses. The helping percentages are those of the first loss.

        Parameters
        ----------
        by
            ``"tensor"``, or a division of the tracker: ``"group"`` or the name that ``groups=`` gave it;
            ``"head"``, with ``heads=``.

        Raises
        ------
        LCAError
            If the summary is empty.
        UnknownNameError
            If there is no such division.
        """
        if not self:
            raise LCAError("the summary is empty; no step was measured.")
        sums = {name: _sums_by(of_loss) for name, of_loss in self.items()}
        first, known = next(iter(self.values())), next(iter(sums.values()))
        if by not in known:
            raise UnknownNameError("grouping", by, known)
        below = [_below(of_loss) for of_loss in self.values()]
        changes = [
            row
            for row in dict.fromkeys(row for own in below for row in own)
            if row not in _UNLESS_ZERO or any(own.get(row) for own in below)
        ]
        groups = list(known[by])
        columns = [Column(by, [*groups, *changes])]
        for (name, of_loss), own in zip(self.items(), below, strict=True):
            of_group = sums[name].get(by, {})  # heads are those of whole losses, not of terms
            values = [*map(of_group.get, groups), *map(own.get, changes)]
            columns.append(Column(name, values, half=_interval(of_loss, len(values))))
        percents = first["helping_percent_per_tensor"].values() if by == "tensor" else [None] * len(groups)
        helping = [*percents, *[None] * len(changes)]
        if any(value is not None for value in helping):
            columns.insert(2, Column("helping %", helping, sign=False, digits=3))
        what = "Estimated LCA" if "checked_steps" in first else "LCA"
        caption = f"{what} of each {_noun(by)} over {_steps(first)}, in units of the loss; negative: helping."
        if not changes:
            caption += " Not checked against the measured loss."
        examples = [n for of_loss in self.values() if (n := of_loss.get("checked_examples"))]
        if examples:
            caption += f" The change of the loss is that of {examples[0]:,} examples."
        if skipped := first.get("skipped_steps", 0):
            caption += f" {skipped:,} step{'s'[: skipped != 1]} more could not be measured."
        state = max(of_loss.get("state_moved_steps", 0) for of_loss in self.values())
        if state:
            caption += f" In {state:,} of them the state moved; the loss change by this is in no row."
        caption += _path_difference(first) + _wide_intervals(self)
        if "tied" in first:
            caption += f" Tied, each one tensor under its first name: {_in_words(first['tied'])}."
        return Table(columns, caption)


def _steps(summary: Mapping[str, Any]) -> str:
    """What the sums are over, in words."""
    more = "s"[: summary["steps"] != 1]
    if "span" in summary:
        return f"{summary['steps']:,} straight line{more} of {summary['span']:,} updates"
    if "checkpoints" not in summary:
        return f"{summary['steps']:,} measured step{more}"
    lines = summary["checkpoints"]
    return (
        f"{summary['steps']:,} straight line{more} between the checkpoints {lines['first']:,} and "
        f"{lines['last']:,} (at most {lines['largest_gap']:,} apart), not the path between them"
    )


def _sums_by(summary: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The sums over tensors, over the groups of each division, and over heads."""
    heads = {"head": summary["per_head"]} if "per_head" in summary else {}
    return {"tensor": summary["per_tensor"], **summary.get("per_group", {}), **heads}


_CHANGE = "change of the loss"
_UNLESS_ZERO = "state change", "change between measured steps", "residual"
"""Rows that a table does not have if they are 0 for every loss."""


def _below(summary: Mapping[str, Any]) -> dict[str, float]:
    """What a table has below the allocations of a loss: the rest of its change, or what was checked of it."""
    change = summary["loss_end"] - summary["loss_start"]
    if math.isnan(change):  # of a sampled estimator
        steps = summary.get("checked_steps")
        if not steps:
            return {}
        return {
            **({} if steps == summary["steps"] else {"sum": summary["lca_total"]}),
            f"sum over {steps:,} checked step{'s'[: steps != 1]}": summary["checked_total"],
            _CHANGE if steps == summary["steps"] else f"{_CHANGE} over these": summary["checked_change"],
        }
    rest = (summary[key] for key in ("state_change", "unmeasured_change", "residual"))
    return {**dict(zip(_UNLESS_ZERO, rest, strict=True)), _CHANGE: change}


def _interval(summary: Mapping[str, Any], rows: int) -> list[float] | None:
    """Half the intervals in a column of the table: the checked sum, in the last row but one, may have one."""
    margin = summary.get("checked_margin")
    return None if margin is None else [*[math.nan] * (rows - 2), margin, math.nan]


def _path_difference(summary: Mapping[str, Any]) -> str:
    """How far straight lines are from the updates, to follow a caption; empty if it is not known."""
    difference, lines = summary.get("path_difference"), summary.get("path_difference_steps")
    if difference is None or math.isnan(difference):
        return ""
    where = f"{lines:,} line{'s'[: lines != 1]}"
    return (
        f" Where the updates were measured as well ({where}), the sums by layer differ by {difference:.1%} "
        "from those of the lines."
    ).replace("%", " %")


def _wide_intervals(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """`wide_interval` of each loss whose checked sum has one, to follow a caption."""
    found = {
        name: wide_interval(own["checked_margin"], own["checked_change"])
        for name, own in summaries.items()
        if own.get("checked_margin")
    }
    named = len(summaries) > 1
    return "".join(f" {name}: {text}" if named else f" {text}" for name, text in found.items() if text)


def summarize_run(
    settings: Mapping[str, Any], train: RunViews, heldout: RunViews, *, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """All of ``summary.json``: the settings, the training loss, the held-out loss, and times.

    Everything but ``seconds`` is determined by the settings.

    Parameters
    ----------
    settings
        What determines the run: backend, dtype, seed, ...
    train, heldout
        The views of both losses along the same steps. The summary of the second is under ``heldout``.
    seconds
        The times ``train`` and ``allocate``.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> run = RunViews.of(Layout(("w",), ((1,),)))
    >>> run.update(StepAllocation(np.array([-0.25]), 2.0, 1.75, residual=0.0, mass=0.25))
    >>> summary = summarize_run({"seed": 0}, run, run, seconds={"train": 1.0, "allocate": 2.0})
    >>> summary["seed"], summary["lca_total"], summary["heldout"]["lca_total"]
    (0, -0.25, -0.25)
    """
    return {**settings, **summarize(train), "heldout": summarize(heldout), "seconds": dict(seconds)}


def to_json(summary: Mapping[str, Any]) -> str:
    r"""``summary`` as JSON text; floats keep every bit.

    Raises
    ------
    NonFiniteError
        If a number is NaN or infinite.

    Examples
    --------
    >>> to_json({"seed": 0})
    '{\n  "seed": 0\n}\n'
    """
    try:
        return json.dumps(summary, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise NonFiniteError(
            f"the summary holds a number that JSON cannot hold ({error}); if the run diverged, lower the "
            "learning rate."
        ) from error


def _helping_by_name(run: RunViews, *, sampled: bool) -> dict[str, float | None]:
    percents = run.signs.mean_helping_percent_per_group()
    names = run.tensors.groups.names
    return {name: None if sampled else _number(p) for name, p in zip(names, percents, strict=True)}


def _number(percent: np.ndarray) -> float | None:
    """A percentage for JSON, which has no NaN."""
    number = float(percent)
    return None if math.isnan(number) else number
