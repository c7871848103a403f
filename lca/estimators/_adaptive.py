"""`Adaptive`: the trapezoid everywhere, more gradients only on the steps that need them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import ClassVar, Literal, TypeAlias, get_args

from lca._numbers import use_python_numbers
from lca.allocation import Allocator, Cost, StepAllocation
from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.estimators._audits import Audits
from lca.estimators._integral import Integral
from lca.estimators._panel import Panel, simpson, trapezoid
from lca.estimators._path import Path, Segment
from lca.objective import Evaluation, Objective
from lca.quadrature import TRAPEZOID
from lca.step import Step
from lca.tolerances import allocation as allocation_rounding
from lca.tolerances import conservation

Per: TypeAlias = Literal["step", "change", "run"]
_MANY_PANELS, _FAR_ABOVE = 4, 10
"""A residual is not a quadrature error from this many panels on, if it exceeds by this factor what the last
refinement moved."""


@dataclass(frozen=True)
class Adaptive:
    """Start each step from the trapezoid and refine, by local bisection, until two controls are met.

    The trapezoid needs one new gradient a step, and the losses that come with the gradients give the
    residual of every step at no extra cost. If the residual of a step is too large, its midpoint is added
    (Simpson's rule); if that is not enough, the panel on which the last refinement changed the allocation
    most is bisected, and so on. Every gradient is kept and reused.

    Two controls are needed, as neither sees every error:

    - the *residual*, ``|L(θ_{t+1}) - L(θ_t) - ΣA| ≤ tol``: it costs nothing, but errors of opposite sign in
      different parameters cancel in it;
    - the *nested difference*, ``Σ_i |A_i - A'_i| ≤ nested_tol · Σ_i |A_i|``, where A' is the next coarser
      rule on the same nodes: nothing cancels, but it costs the midpoint. It is checked on every refined step
      and in *audits*, on steps whose residual is small. After an audit that passes, twice as many steps go
      by until the next one, up to ``audit``; after one that fails, the next step is audited.

    Parameters
    ----------
    tol
        ``per="step"``: the largest ``|residual|`` of a step, absolute, in units of the loss.
        ``per="change"``: relative to the step, ``|residual| ≤ tol · |L(θ_{t+1}) - L(θ_t)|``, and never less
        than rounding, ``8 eps (mass + |L|)``. Serves losses of any scale.
        ``per="run"``: ``Σ_t |residual_t|`` as a fraction of the loss change of the run.
    per
        For ``"change"`` a step whose movements nearly cancel is refined further than its neighbours, as its
        loss hardly changes. For ``"run"`` the loss change is not known in advance, so the largest change seen
        so far is used instead: step t may use half of the remainder, ``½ (tol · max_{s≤t} |L(θ_{s+1}) -
        L(θ_0)| - Σ_{s<t} |residual_s|)``. The remainder never reaches 0, and over the steps that converge
        ``Σ|residual| ≤ tol · max_t |L(θ_t) - L(θ_0)|`` holds at every moment of the run. A loss that first
        explodes and then recovers therefore loosens the bound.
    nested_tol
        The largest part of ``Σ_i |A_i|`` that the last refinement may move.
    audit
        Largest number of steps between audits; 1 audits every step, ``None`` no step.
    max_gradients
        Largest number of new gradients inside a step. A step that does not meet its tolerances by then is
        returned with ``converged=False`` and the reason; nothing is dropped.

    Notes
    -----
    Exact for losses that are polynomials of degree ≤ degree + 1 along the step, i.e. quadratic ones.

    Cost a step: one full gradient, plus one for an audit, plus ``1 + 2·bisections`` where refined.
    Memory: one gradient a node while a step is being refined, O(K) otherwise. For a `Sum` the controls apply
    to the total, and its terms use the same nodes.

    Raises
    ------
    LCAError
        If a parameter is out of range.

    Warns
    -----
    LCAWarning
        At the first step, if an absolute ``tol`` has no meaning for this loss: it is larger than the loss and
        the mass of the step, so that every step would pass, or smaller than their rounding. At the first step
        that misses its tolerance although the nested rules agree: then the gradient is not that of the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import Trajectory, allocate
    >>> from lca.reference import Quartic
    >>> run = Trajectory(np.array([[1.0], [0.5]]))
    >>> [a] = allocate(Quartic([2.0]), run, Adaptive(tol=1e-6))
    >>> round(a.loss_change, 4), a.converged, a.cost.full_gradients
    (-0.9375, True, 5.0)
    """

    tol: float = 1e-3
    per: Per = "step"
    nested_tol: float = 0.05
    audit: int | None = 64
    max_gradients: int = 33
    target: ClassVar[str] = "full"
    vectors: ClassVar[int] = 6  # and one a node while a step is refined
    degree: ClassVar[int] = TRAPEZOID.degree

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if self.per not in get_args(Per):
            raise UnknownNameError("tolerance scope (per)", self.per, get_args(Per))
        for name in ("tol", "nested_tol"):
            if not getattr(self, name) > 0:
                raise LCAError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.audit is not None and self.audit < 1:
            raise LCAError(f"audit must be at least 1 (every step) or None (never), got {self.audit}.")
        if self.max_gradients < 1:
            raise LCAError(f"max_gradients must be at least 1, got {self.max_gradients}.")

    @property
    def cost(self) -> Cost:
        """The cost of a step that needs no refinement."""
        return Cost(full_gradients=2 if self.audit == 1 else 1)

    @property
    def largest_cost(self) -> Cost:
        """The gradients allowed inside a step, and the one at its end; after a gap there is one more."""
        return Cost(full_gradients=1 + self.max_gradients)

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return self.along(Path(objective))

    def along(self, path: Path) -> Allocator:
        """Begin a run whose gradients and residuals come from ``path``."""
        return _AdaptiveRun(self, path)

    def resume(self, objective: Objective, memory: Mapping[str, float]) -> Allocator:
        """Continue a run whose last allocation had this ``memory`` (`lca.allocation.Resumable`)."""
        run = _AdaptiveRun(self, Path(objective))
        run.recall(memory)
        return run


class _AdaptiveRun:
    """One run: the remaining tolerance, the schedule of audits, and the refinement of a step."""

    def __init__(self, config: Adaptive, path: Path) -> None:
        self._config = config
        self._path = path
        self._allowance = _Allowance(config.tol, config.per)
        self._audits = Audits(config.audit)
        self._unexplained = ""
        self._warned = False
        self._steps = 0

    @property
    def memory(self) -> dict[str, float]:
        return {"steps": self._steps, **self._audits.memory, **self._allowance.memory}

    def recall(self, memory: Mapping[str, float]) -> None:
        self._steps = int(memory["steps"])
        self._audits.recall(memory)
        self._allowance.recall(memory)

    def __call__(self, step: Step) -> StepAllocation:
        self._warn_of_gradient()
        segment = self._path.segment(step)
        audited = self._audits.due()
        # Evaluated before the end: with its gradient in memory the midpoint would need one more vector.
        middle = segment.at(0.5) if audited else None
        tol = self._allowance.of(segment)
        fit = _Fit(segment, trapezoid(segment))
        looks_fine = abs(fit.residual) <= tol
        if looks_fine and not audited:
            converged, reason = True, f"|residual| ≤ {tol:.3g}"
        else:
            panels = [Panel.whole(segment, middle or segment.at(0.5))]
            fit, converged, reason = self._refine(segment, panels, tol)
            if looks_fine:
                self._audits.record(passed=converged and len(panels) == 1)
            del panels
        del middle
        result = replace(fit.allocation(), tolerance=tol, converged=converged, reason=reason)
        self._allowance.spend(fit.residual, tol)
        self._steps += 1
        return replace(result, memory=self.memory)

    def _refine(self, segment: Segment, panels: list[Panel], tol: float) -> tuple["_Fit", bool, str]:
        """Bisect the panel that changed most until both controls are met; ``(fit, converged, reason)``."""
        while True:
            fit = _Fit(segment, simpson(panels))
            stop = self._verdict(fit, panels, tol)
            if stop is not None:
                return fit, *stop
            worst = max(panels, key=lambda panel: panel.difference)
            panels.remove(worst)
            panels += worst.bisect(segment)

    def _verdict(self, fit: "_Fit", panels: list[Panel], tol: float) -> tuple[bool, str] | None:
        """``(converged, reason)``, or ``None`` to go on refining."""
        segment = fit.segment
        eps = segment.ops.eps(segment.step.start)
        moved = sum(panel.difference for panel in panels)
        allowed = self._config.nested_tol * fit.abs_total
        residual_met = abs(fit.residual) <= tol
        nested_met = moved <= max(allowed, allocation_rounding(fit.mass, eps))
        if residual_met and nested_met:
            return True, f"|residual| ≤ {tol:.3g} and nested difference ≤ {self._config.nested_tol:g}"
        floor = conservation(fit.mass, segment.arrival.loss, eps)
        if nested_met and abs(fit.residual) <= floor:
            return False, f"|residual| > {tol:.3g}, which is below rounding ({floor:.2g})"
        if 2 * len(panels) + 1 > self._config.max_gradients:  # 2n - 1 spent inside, 2 more for a cut
            missed = "nested difference" if residual_met else "|residual|"
            if len(panels) >= _MANY_PANELS and nested_met and abs(fit.residual) > _FAR_ABOVE * moved + floor:
                self._unexplained = _unexplained(fit, moved)
            return False, f"{missed} too large at the limit of {self._config.max_gradients} gradients inside"
        return None

    def _warn_of_gradient(self) -> None:
        """Warn, once a run, of a residual of the step before that no quadrature explains.

        Only now, because a loss that has changed by itself is found and named once the step is allocated.
        """
        if self._unexplained and not self._warned:
            self._warned = True
            warnings.warn(self._unexplained, LCAWarning, stacklevel=2)


def _unexplained(fit: "_Fit", moved: float) -> str:
    change = fit.segment.end.loss - fit.segment.start.loss
    return (
        f"step {fit.segment.step.index}: the loss changed by {change:+.4g}, and {fit.residual:+.4g} of "
        f"that is in no allocation, although the last refinement moved the allocation by {moved:.2g} "
        "only. Most likely the gradient is not that of the loss (gradient reversal, straight-through "
        "estimators, detached parts, hooks that alter gradients), or the loss is computed in a lower "
        "precision than theta. The residual of each step says how much is missing."
    )


class _Fit:
    """A rule on the nodes evaluated so far; its sums are known before the allocation is formed."""

    def __init__(self, segment: Segment, weights: Mapping[Evaluation, float]) -> None:
        self.segment = segment
        self._weights = weights
        self._total, self.abs_total = segment.sums(weights)
        self.mass = sum(abs(weight) * segment.mass(node) for node, weight in weights.items())
        self.residual = segment.residual(weights, self._total)

    def allocation(self) -> StepAllocation:
        """The allocation; uses up all nodes but the end, where the next step begins."""
        integral = Integral(self.segment)
        for node, weight in self._weights.items():
            integral.add(weight, node, last_use=node is not self.segment.end)
        return integral.allocation(total=self._total)


class _Allowance:
    """The residual that the next step may leave (`Adaptive`, ``per``)."""

    def __init__(self, tol: float, per: Per) -> None:
        self._tol = tol
        self._per = per
        self._first_loss: float | None = None
        self._largest_change = 0.0
        self._spent = 0.0

    @property
    def memory(self) -> dict[str, float]:
        """What the tolerance of the next step depends on."""
        if self._per != "run" or self._first_loss is None:
            return {}
        return {
            "first_loss": self._first_loss,
            "largest_change": self._largest_change,
            "spent": self._spent,
        }

    def recall(self, memory: Mapping[str, float]) -> None:
        """Continue with this memory; the scale of the tolerance was looked at when the run began."""
        self._first_loss = memory.get("first_loss", None if self._per == "run" else nan)
        self._largest_change = memory.get("largest_change", 0.0)
        self._spent = memory.get("spent", 0.0)

    def of(self, segment: Segment) -> float:
        first = self._first_loss
        self._first_loss = segment.start.loss if first is None else first
        if self._per == "step":
            if first is None:
                _warn_of_scale(self._tol, segment)
            return self._tol
        if self._per == "change":
            return max(self._tol * abs(segment.end.loss - segment.start.loss), _scales(segment)[1])
        change = abs(segment.end.loss - self._first_loss)
        self._largest_change = max(self._largest_change, change)
        return max(0.0, self._tol * self._largest_change - self._spent) / 2

    def spend(self, residual: float, tol: float) -> None:
        # A residual beyond the tolerance is reported with its step, not charged to later ones.
        self._spent += min(abs(residual), tol)


def _scales(segment: Segment) -> tuple[float, float]:
    """The largest of both losses and the mass of the trapezoid, and the rounding of a residual."""
    mass = sum(abs(weight) * segment.mass(node) for node, weight in trapezoid(segment).items())
    loss = max(abs(segment.start.loss), abs(segment.end.loss))
    return max(mass, loss), conservation(mass, loss, segment.ops.eps(segment.step.start))


def _warn_of_scale(tol: float, segment: Segment) -> None:
    """Warn if no residual can exceed the tolerance, or rounding alone does."""
    scale, rounding = _scales(segment)
    if 0 < scale <= tol:
        problem = (
            f"larger than the loss and its changes ({scale:.2g} at the first step), so every step passes"
        )
    elif tol < rounding:
        problem = f"below the rounding of this loss ({rounding:.2g}), so steps may not converge"
    else:
        return
    warnings.warn(
        f"the tolerance of Adaptive, {tol:g} in units of the loss, is {problem}; use a tol that fits the "
        'loss, or Adaptive(per="change"), whose tol is a fraction of the loss change of each step.',
        LCAWarning,
        stacklevel=2,
    )
