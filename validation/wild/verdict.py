"""`judge`: what the four runs of a case say, from their figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.errors import LCAError
from validation.wild.case import Case, Outcome
from validation.wild.fingerprint import difference
from validation.wild.oracle import StepTruth, Truth

KINDS = ("right", "refused", "wrong", "silent", "changed", "broken")


@dataclass(frozen=True)
class Verdict:
    """One row of the table.

    Attributes
    ----------
    kind
        ``right``; ``refused`` (with the reason); ``wrong``: a figure is off, with no word about it;
        ``silent``: a part of the loss change is in no figure, with no word about it; ``changed``: training is
        not what it was; ``broken``: the case itself fails.
    detail
        The reason, or what is off and by how much.
    """

    kind: str
    detail: str = ""


def judge(case: Case, outcomes: dict[str, Outcome]) -> Verdict:
    """The first that applies: broken, changed, refused, wrong, silent, right."""
    plain, oracle, measured = (outcomes.get(mode, Outcome()) for mode in ("plain", "oracle", "measured"))
    for name, own in (("plain", plain), ("oracle", oracle)):
        if own.raised is not None:
            return Verdict("broken", f"the {name} run raised {_line(own.raised)}")
    moved = difference(plain.fingerprint, oracle.fingerprint)
    if moved:
        return Verdict("broken", f"training with and without the oracle differs in {_few(moved)}")
    if isinstance(measured.raised, LCAError):
        return Verdict("refused", _line(measured.raised))
    for name in ("measured", "failing"):
        own = outcomes[name]
        if own.raised is not None and not isinstance(own.raised, LCAError):
            return Verdict("changed", f"{name}: the loop was ended by {_line(own.raised)}")
        moved = difference(plain.fingerprint, own.fingerprint) if own.raised is None else []
        if moved:
            return Verdict("changed", f"{name}: {_few(moved)}")
    return _judge_figures(case, oracle.truth, measured)


def _judge_figures(case: Case, truth: Truth | None, measured: Outcome) -> Verdict:
    error = measured.tracker.error
    if error is not None:
        return Verdict("refused" if isinstance(error, LCAError) else "wrong", _line(error))
    try:
        summary = measured.tracker.summary()["train"]
    except LCAError as reason:
        return Verdict("refused", _line(reason))
    view = measured.tracker.views["train"]
    if truth is None or not truth.steps:
        return Verdict("broken", "the oracle saw no step")
    rows, said = view.trace.rows, measured.warnings
    if rows["step"].max() >= len(truth.steps):
        return Verdict("wrong", f"{len(rows)} steps were measured, the run has {len(truth.steps)}")
    steps = [truth.steps[index] for index in rows["step"]]
    off = _tensors_off(case, view, steps)
    if off:
        return Verdict("wrong", off)
    if rows["sampled"].any():
        return Verdict("right", f"sampled; {_off_total(summary, steps):.1%} of the mass off")
    open_books = _books_off(case, summary, truth, steps)
    if open_books:
        return Verdict("refused", said[0].splitlines()[0]) if said else Verdict("silent", open_books)
    return Verdict("right", f"with a warning: {said[0].splitlines()[0]}" if said else "")


def _tensors_off(case: Case, view: Any, steps: list[StepTruth]) -> str:
    """The tensor whose total is furthest from the truth, if that is beyond the tolerance."""
    rows = view.trace.rows
    missed = float(np.abs(rows["residual"][~rows["converged"]]).sum())  # said, step by step
    found = view.tensors.by_name()
    truth = {name: sum(step.totals.get(name, 0.0) for step in steps) for name in found}
    mass = sum(step.mass for step in steps)
    allowed = case.tolerance * mass + missed + sum(step.error for step in steps) + 1e-12
    name = max(found, key=lambda tensor: _apart(found[tensor], truth[tensor]))
    if _apart(found[name], truth[name]) > allowed:
        return f"{name}: {found[name]:+.4g} for {truth[name]:+.4g} (mass {mass:.3g})"
    return ""


def _books_off(case: Case, summary: dict[str, Any], truth: Truth, steps: list[StepTruth]) -> str:
    """What the summary says of the loss change of the run, beside that of the user's own model."""
    change = summary["loss_end"] - summary["loss_start"]
    expected = truth.loss_end - truth.loss_start
    mass = sum(step.mass for step in steps)
    rounding = 30 * case.eps * (mass + abs(truth.loss_start) + abs(truth.loss_end))
    terms = ("lca_total", "residual", "state_change", "unmeasured_change")
    if _apart(change, sum(summary[term] for term in terms)) > rounding:
        return f"the terms add up to {sum(summary[term] for term in terms):+.5g}, not to {change:+.5g}"
    if _apart(summary["loss_start"], truth.loss_start) > rounding:
        return f"the loss began at {summary['loss_start']:.6g}, it is {truth.loss_start:.6g}"
    if _apart(change, expected) > rounding:
        return f"the loss changed by {change:+.5g} in the summary, by {expected:+.5g} in truth"
    return ""


def _off_total(summary: dict[str, Any], steps: list[StepTruth]) -> float:
    truth = sum(sum(step.totals.values()) for step in steps)
    return abs(summary["lca_total"] - truth) / sum(step.mass for step in steps)


def _apart(found: float, truth: float) -> float:
    distance = abs(found - truth)
    return distance if distance == distance else float("inf")


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def _few(paths: list[str]) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
