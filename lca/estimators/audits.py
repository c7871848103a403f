"""`Audits`: when to spend gradients on checking a rule, and `RuleByAudit`: a probe's rule, chosen by them."""

from lca.allocation import Cost
from lca.arrays import array_ops
from lca.estimators.sampling import Sample
from lca.objective import Objective
from lca.quadrature import SIMPSON, QuadratureRule
from lca.step import Step

LONGEST = 32
"""Most steps between two audits of a probe's rule."""
CALM = 6
"""Neighbouring steps that must pass before the trapezoid returns: sizes may alternate, and errors cancel."""
MOST = SIMPSON.new_gradients + 2
"""Samples that a step with Simpson's rule and an audit takes."""


class Audits:
    """When the next one is due: rarely while they find nothing new, at once after one that did."""

    def __init__(self, longest: int | None) -> None:
        self._longest = longest
        self._interval = self._left = 1

    def due(self) -> bool:
        """Count one step; true when it is to be audited."""
        if self._longest is None:
            return False
        self._left -= 1
        return self._left <= 0

    def record(self, *, passed: bool) -> None:
        """What the audit found: nothing new (``passed``), or not."""
        assert self._longest is not None
        self._interval = min(2 * self._interval, self._longest) if passed else 1
        self._left = self._interval


class RuleByAudit:
    """Simpson's rule while steps are too large for the trapezoid, and the trapezoid while they are not.

    An audit takes one sample to both ends of a step. There the loss change is known as well as its trapezoid,
    and on one and the same sample they differ by the rule's error alone, however noisy each is.

    Parameters
    ----------
    coarse
        The trapezoid.
    share
        Its largest error, as a share of ``(|g_S(θ_t)·Δ| + |g_S(θ_{t+1})·Δ|) / 2``; ``None``: never audited.

    Attributes
    ----------
    rule
        For the next step. It depends on earlier steps' samples only, so that values stay unbiased.
    """

    def __init__(self, coarse: QuadratureRule, share: float | None) -> None:
        self._coarse, self._share = coarse, share
        self._audits = Audits(None if share is None else LONGEST)
        self._passed = 0
        self.rule = coarse if share is None else SIMPSON  # the first steps go far

    def due(self) -> bool:
        """Count one step; true when a sample is to be taken along it."""
        return self._audits.due()

    def audit(self, objective: Objective, step: Step, sample: Sample) -> Cost:
        """Choose the rule for the steps that follow; returns what that cost."""
        assert self._share is not None
        ops = array_ops(step.start)
        before, first = objective.loss_and_grad(step.start, sample.batch)
        slope = ops.movement_sums([(1.0, first)], step.start, step.end)[0]
        del first
        after, last = objective.loss_and_grad(step.end, sample.batch)
        slopes = slope, ops.movement_sums([(1.0, last)], step.start, step.end)[0]
        missed = abs(after - before - sum(slopes) / 2) > self._share * sum(map(abs, slopes)) / 2
        known = self.rule, self._passed
        if missed:
            self.rule, self._passed = SIMPSON, 0
        elif self.rule is SIMPSON:
            self._passed += 1
            if self._passed == CALM:
                self.rule, self._passed = self._coarse, 0
        self._audits.record(passed=(self.rule, self._passed) == known)
        return Cost(examples=2.0 * sample.size)
