"""`Audits`: the schedule of checks of a rule, and `RuleByAudit`: a rule chosen by such checks."""

from lca.allocation import Cost
from lca.arrays import array_ops
from lca.estimators._sampling import Sample
from lca.objective import Objective
from lca.quadrature import SIMPSON, QuadratureRule
from lca.step import Step

LONGEST = 32
"""Largest number of steps between two audits of a sampled rule."""
CALM = 6
"""Neighbouring steps that must pass before the trapezoid is used again: sizes of steps may alternate."""
MOST = SIMPSON.new_gradients + 2
"""Samples in a step with Simpson's rule and an audit."""


class Audits:
    """The schedule of audits: rare while they pass, at the next step after one that fails."""

    def __init__(self, longest: int | None) -> None:
        self._longest = longest
        self._interval = self._left = 1

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


class RuleByAudit:
    """Simpson's rule while steps are too large for the trapezoid, the trapezoid while they are not.

    An audit evaluates one sample at both ends of a step. On the same sample the loss change and its trapezoid
    differ by the error of the rule alone, however noisy each of them is.

    Parameters
    ----------
    coarse
        The trapezoid.
    limit
        The largest error allowed, relative to ``(|g_S(θ_t)·Δ| + |g_S(θ_{t+1})·Δ|) / 2``; ``None``: no audits.

    Attributes
    ----------
    rule
        The rule for the next step. It depends on the samples of earlier steps only, so values stay unbiased.
    """

    def __init__(self, coarse: QuadratureRule, limit: float | None) -> None:
        self._coarse, self._limit = coarse, limit
        self._audits = Audits(None if limit is None else LONGEST)
        self._passed = 0
        self.rule = coarse if limit is None else SIMPSON  # the first steps are large

    def due(self) -> bool:
        """Count one step; whether it is to be audited."""
        return self._audits.due()

    def audit(self, objective: Objective, step: Step, sample: Sample) -> Cost:
        """Choose the rule for the following steps; returns the cost of that."""
        assert self._limit is not None
        ops = array_ops(step.start)
        before, first = objective.loss_and_grad(step.start, sample.batch)
        slope = ops.movement_sums([(1.0, first)], step.start, step.end)[0]
        del first
        after, last = objective.loss_and_grad(step.end, sample.batch)
        slopes = slope, ops.movement_sums([(1.0, last)], step.start, step.end)[0]
        missed = abs(after - before - sum(slopes) / 2) > self._limit * sum(map(abs, slopes)) / 2
        known = self.rule, self._passed
        if missed:
            self.rule, self._passed = SIMPSON, 0
        elif self.rule is SIMPSON:
            self._passed += 1
            if self._passed == CALM:
                self.rule, self._passed = self._coarse, 0
        self._audits.record(passed=(self.rule, self._passed) == known)
        return Cost(examples=2.0 * sample.size)
