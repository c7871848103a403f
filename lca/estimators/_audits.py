"""`Audits`: the schedule of checks of a rule, and `RuleBySize`: a rule chosen by such checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import frexp, inf, isfinite, sqrt

import numpy as np

from lca.allocation import Cost
from lca.arrays import Vector, array_ops
from lca.estimators._checks import OVERFLOW, non_finite
from lca.estimators._sampling import Sample
from lca.objective import Objective
from lca.quadrature import SIMPSON, QuadratureRule
from lca.step import Step

LONGEST = 16
"""Largest number of steps between two audits of steps of one size."""
LONGER = 1.25
"""A step is audited if it is this many times as long as those audited within the last `LONGEST` steps."""
FEWEST = 2
"""Audits before the trapezoid is used."""
ENOUGH = 4
"""Audits of one size after which those of others no longer count for it."""
FORGET = 0.7
"""The weight of earlier audits: the error varies much between steps of one size."""
PART = 4
"""The sample of an audit is this part of that of a node."""


class Audits:
    """The schedule of audits: rare while they pass, at the next step after one that fails."""

    def __init__(self, longest: int | None) -> None:
        self._longest = longest
        self._interval = self._left = 1

    @property
    def memory(self) -> dict[str, float]:
        """The schedule, as numbers by name."""
        if self._longest is None:
            return {}
        return {"audit_interval": self._interval, "steps_to_audit": self._left}

    def recall(self, memory: Mapping[str, float]) -> None:
        """Continue the schedule that had this memory."""
        if self._longest is not None and "audit_interval" in memory:
            self._interval = min(int(memory["audit_interval"]), self._longest)
            self._left = min(int(memory["steps_to_audit"]), self._longest)

    def due(self) -> bool:
        """Count one step; whether it is to be audited."""
        if self._longest is None:
            return False
        self._left -= 1
        return self._left <= 0

    def record(self, *, passed: bool) -> None:
        """Record the result of an audit; ``passed`` doubles the interval, up to the longest."""
        assert self._longest is not None
        self._interval = min(2 * self._interval, self._longest) if passed else 1
        self._left = self._interval


class RuleBySize:
    """Simpson's rule on steps that are too large for the trapezoid, the trapezoid on the others.

    The relative error of the trapezoid grows with the length of the step, about as its square, and at the
    kinks of a ReLU network in proportion to it. Audits measure it on some steps of each size (the power of
    two nearest to the length of Δ). The expected error of a size with few audits is at least that of the
    nearest other size, scaled: by the square of the ratio of the two for larger steps, by the ratio for
    smaller ones.

    An audit evaluates one sample at both ends of a step. On the same sample the loss change and its trapezoid
    differ by the error of the rule alone, however noisy each of them is. The sample is independent of those
    of the step, so an audit that fails also serves the step itself, and its values stay unbiased.

    The curvature changes during a run. So each size is audited again and again, and so is a step that is
    longer than those audited lately.

    Parameters
    ----------
    coarse
        The trapezoid.
    limit
        The largest error allowed, relative to ``(|g_S(θ_t)·Δ| + |g_S(θ_{t+1})·Δ|) / 2``; ``None``: the
        trapezoid on all steps.
    """

    def __init__(self, coarse: QuadratureRule, limit: float | None) -> None:
        self._coarse, self._limit = coarse, limit
        self._audited: dict[int, _Size] = {}
        self._lengths: list[tuple[int, float]] = []  # of the steps audited lately, by number
        self._steps = 0
        self._length = 0.0  # of this step
        self._size: int | None = None

    def begin(self, step: Step) -> None:
        """Begin a step."""
        self._steps += 1
        if self._limit is not None:
            self._length = _length(step)
            self._size = frexp(self._length)[1] if self._length else None

    @property
    def rule(self) -> QuadratureRule:
        """The rule for this step; it depends on its length and on audits, so values stay unbiased."""
        return self._coarse if self._size is None or self._passes(self._size) else SIMPSON

    def due(self) -> bool:
        """Whether to audit this step: steps of its size, or as long, were last audited long ago."""
        if self._size is None:
            return False
        known = self._audited.get(self._size)
        if known is None or self._steps - known.last >= known.interval:
            return True
        self._lengths = [(t, length) for t, length in self._lengths if self._steps - t < LONGEST]
        longest = max((length for _, length in self._lengths), default=0.0)
        return self._length > LONGER * longest and self._passes(self._size)

    def audit(self, objective: Objective, step: Step, sample: Sample) -> Cost:
        """Learn from this step for it and the following ones; returns the cost of that."""
        assert self._limit is not None
        assert self._size is not None
        known = self._audited.setdefault(self._size, _Size())
        passed = known.error <= self._limit
        known.add(*_error_of_trapezoid(objective, step, sample))
        same = known.audits == 1 or passed == (known.error <= self._limit)
        known.interval = min(2 * known.interval, LONGEST) if same else 1
        known.last = self._steps
        self._lengths.append((self._steps, self._length))
        return Cost(examples=2.0 * sample.size)

    def _passes(self, size: int) -> bool:
        assert self._limit is not None
        return self._expected(size) <= self._limit

    def _expected(self, size: int) -> float:
        if sum(known.audits for known in self._audited.values()) < FEWEST:
            return inf  # the first steps are large
        own = self._audited.get(size)
        if own is not None and own.audits >= ENOUGH:
            return own.error
        others = [other for other in self._audited if other != size]
        expected = own.error if own is not None else 0.0
        if others:
            nearest = min(others, key=lambda other: (abs(other - size), -other))
            ratio = 2.0 ** (size - nearest)
            expected = max(
                expected, self._audited[nearest].error * max(ratio, ratio**2 if ratio > 1 else 0.0)
            )
        return expected


@dataclass
class _Size:
    """What audits have shown of steps of one size; the last ones count most."""

    missed: float = 0.0
    slope: float = 0.0
    newest: float = 0.0
    audits: int = 0
    interval: int = 1
    last: int = 0

    def add(self, missed: float, slope: float) -> None:
        """Add an audit: the error of the trapezoid, and the slope that it is relative to."""
        self.missed, self.slope = FORGET * self.missed + missed, FORGET * self.slope + slope
        self.newest = _relative(missed, slope)
        self.audits += 1

    @property
    def error(self) -> float:
        """The error of the trapezoid relative to the slopes: of the newest audit, or of all if larger."""
        return max(self.newest, _relative(self.missed, self.slope))


def _relative(missed: float, slope: float) -> float:
    return missed / slope if slope else inf if missed else 0.0


def _length(step: Step) -> float:
    """The length of the step; 0 if it has none, or one too large for a number."""
    moved = step.end - step.start
    square = array_ops(moved).total(moved * moved)
    return sqrt(square) if isfinite(square) else 0.0


def _error_of_trapezoid(objective: Objective, step: Step, sample: Sample) -> tuple[float, float]:
    """The error on a sample, and the mean of the slopes ``|g·Δ|`` at both ends."""
    before, first = _loss_and_slope(objective, step, step.start, sample)
    after, last = _loss_and_slope(objective, step, step.end, sample)
    return abs(after - before - (first + last) / 2), (abs(first) + abs(last)) / 2


def _loss_and_slope(objective: Objective, step: Step, theta: Vector, sample: Sample) -> tuple[float, float]:
    """The loss of a sample at θ, and ``g·Δ`` of its gradient there.

    Raises
    ------
    NonFiniteError
        If one of them is NaN or Inf.
    """
    loss, grad = objective.loss_and_grad(theta, sample.batch)
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        slope, mass = array_ops(theta).movement_sums([(1.0, grad)], step.start, step.end)
    if not isfinite(loss):
        raise non_finite(objective.layout, step, f"the loss of a sample is {loss}", grad)
    if not isfinite(mass):
        raise non_finite(objective.layout, step, OVERFLOW, grad)
    return loss, slope
