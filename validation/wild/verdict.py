"""`judge`: what the four runs of a case say, from their figures."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from lca.errors import LCAError
from validation.wild.case import Case, Outcome
from validation.wild.fingerprint import difference
from validation.wild.oracle import StepTruth, Truth

KINDS = ("right", "refused", "wrong", "silent", "changed", "broken")
NO_REASON = "no gradient reaches"  # a warning that explains no missing part of the loss change


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


def judge(case: Case, outcomes: Mapping[str, Outcome]) -> Verdict:
    """The first that applies: broken, changed, refused, wrong, silent, right."""
    for found in chain(_broken(outcomes), _changed(outcomes)):
        return found
    truth, measured = outcomes["oracle"].truth, outcomes["measured"]
    refusal = measured.raised or measured.tracker.error
    if refusal is not None:
        return Verdict("refused" if isinstance(refusal, LCAError) else "wrong", _line(refusal))
    if truth is None or not truth.steps:
        return Verdict("broken", "the oracle saw no step")
    found = _judge_figures(case, truth, measured)
    if found.kind == "right" and not found.detail.startswith("sampled") and not outcomes["failing"].stopped:
        return Verdict("broken", "the error half-way never came")
    return found


def _broken(outcomes: Mapping[str, Outcome]) -> Iterator[Verdict]:
    """Does the case train at all, and the same way each time?"""
    for name in ("plain", "oracle"):
        if outcomes[name].raised is not None:
            yield Verdict("broken", f"the {name} run raised {_line(outcomes[name].raised)}")
    moved = difference(outcomes["plain"].fingerprint, outcomes["oracle"].fingerprint)
    if moved:
        yield Verdict("broken", f"training with and without the oracle differs in {_few(moved)}")


def _changed(outcomes: Mapping[str, Outcome]) -> Iterator[Verdict]:
    for name in ("measured", "failing"):
        own = outcomes[name]
        if own.raised is None:
            moved = difference(outcomes["plain"].fingerprint, own.fingerprint)
            if moved:
                yield Verdict("changed", f"{name}: {_few(moved)}")
        elif not isinstance(own.raised, LCAError):
            yield Verdict("changed", f"{name}: the loop was ended by {_line(own.raised)}")


def _judge_figures(case: Case, truth: Truth, measured: Outcome) -> Verdict:
    try:
        summary = measured.tracker.summary()["train"]
    except LCAError as reason:
        return Verdict("refused", _line(reason))
    view = measured.tracker.views["train"]
    rows, said = view.trace.rows, [text for text in measured.warnings if NO_REASON not in text]
    tracked = [step for step in truth.steps if step.tracked]
    followed = tracked if rows["step"].max() < len(tracked) else truth.steps
    if rows["step"].max() >= len(followed):
        return Verdict("wrong", f"step {rows['step'].max()} was measured, the run has {len(followed)}")
    steps = [followed[index] for index in rows["step"]]
    off = _tensors_off(case, view, steps)
    if off:
        reasons = [text for text in said if "tolerance" in text]
        return Verdict("refused", reasons[0].splitlines()[0]) if reasons else Verdict("wrong", off)
    if rows["sampled"].any():
        return Verdict("right", f"sampled; {_off_total(summary, steps):.1%} of the mass off")
    missing = _books_off(case, summary, truth, steps)
    if missing:
        return Verdict("refused", said[0].splitlines()[0]) if said else Verdict("silent", missing)
    return Verdict("right", f"with a warning: {said[0].splitlines()[0]}" if said else "")


def _tensors_off(case: Case, view: Any, steps: list[StepTruth]) -> str:
    """The tensor whose total is furthest from the truth, if that is beyond the tolerance."""
    found = view.tensors.by_name()
    truth = {name: sum(step.totals.get(name, 0.0) for step in steps) for name in found}
    mass = sum(step.mass for step in steps)
    allowed = case.tolerance * mass + sum(step.error for step in steps)
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
    terms = sum(summary[term] for term in ("lca_total", "residual", "state_change", "unmeasured_change"))
    if _apart(change, terms) > rounding:
        return f"the terms add up to {terms:+.5g}, not to {change:+.5g}"
    if _apart(summary["loss_start"], truth.loss_start) > rounding:
        return f"the loss began at {summary['loss_start']:.6g}, it is {truth.loss_start:.6g}"
    if _apart(change, expected) > rounding:
        return f"the loss changed by {change:+.5g} in the summary, by {expected:+.5g} in truth"
    carried = summary["state_change"] + summary["unmeasured_change"]
    by_others = expected - sum(sum(step.totals.values()) for step in steps)
    if _apart(carried, by_others) > rounding + case.tolerance * mass / 10 + sum(step.error for step in steps):
        return f"{by_others:+.5g} is due to something else than these steps, of which {carried:+.5g} is said"
    return ""


def _off_total(summary: dict[str, Any], steps: list[StepTruth]) -> float:
    truth = sum(sum(step.totals.values()) for step in steps)
    return abs(summary["lca_total"] - truth) / sum(step.mass for step in steps)


def _apart(found: float, truth: float) -> float:
    """Their distance; infinite if there is none."""
    distance = abs(found - truth)
    return math.inf if math.isnan(distance) else distance


def _line(error: Exception | None) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def _few(paths: list[str]) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
