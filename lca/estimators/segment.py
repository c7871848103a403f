"""`Segment`: the gradient of one step as a function of s in [0, 1], checked, counted and reused.

Every estimator over the full objective needs the same four things: evaluate at θ_t + s Δ_t, share the
end-point with the next step, refuse NaN, and add up ``w · g ∘ Δ``. They live here once.
"""

from dataclasses import dataclass
from math import isfinite
from numbers import Real

import numpy as np

from lca.allocation import Cost, StepAllocation
from lca.errors import LCAError, NonFiniteError, TrajectoryError
from lca.objective import Evaluation, Objective, State, at_state, evaluate
from lca.step import Step
from lca.vectors import Vector, VectorOps, vector_ops


class Path:
    """Cuts a path into `Segment` s and carries the evaluation at each shared end-point across."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._end: _End | None = None

    def segment(self, step: Step, *, gradients: bool = True) -> "Segment":
        """Check a step and evaluate both its ends, the first only if the last step did not end there.

        With ``gradients=False`` only the losses are evaluated at the ends (open rules need no more).
        """
        layout, index = self.objective.layout, step.index
        layout.check(step.start, f"start of step {index}")
        layout.check(step.end, f"end of step {index}")
        if step.start.dtype != step.end.dtype:
            raise TrajectoryError(
                f"step {index} goes from {step.start.dtype} to {step.end.dtype}; store all points in one "
                "dtype."
            )
        before, after = step.state or (None, None)
        segment = Segment(at_state(self.objective, before), step)
        segment.start = self._reused(step) or segment.at(0.0, gradient=gradients)
        segment.end = segment.arrival = segment.at(1.0, gradient=gradients)
        if after is not before:
            arrived = Segment(at_state(self.objective, after), step)
            segment.arrival = arrived.at(1.0, gradient=gradients)
            segment.cost += arrived.cost
        self._end = _End(segment.ops.snapshot(step.end), after, segment.arrival)
        return segment

    def _reused(self, step: Step) -> Evaluation | None:
        """The evaluation at the end of the last step, if this one begins there."""
        last, state = self._end, step.state[0] if step.state else None
        if last is None or last.state is not state:
            return None
        return last.evaluation if vector_ops(step.start).unchanged(last.theta, step.start) else None


@dataclass(frozen=True, eq=False)
class _End:
    """Where a step ended (a snapshot of θ, and the state of the model), and what was evaluated there."""

    theta: object
    state: State | None
    evaluation: Evaluation


class Segment:
    """One step under evaluation: ``at(s)`` evaluates, ``cost`` counts what was newly evaluated.

    ``start`` and ``end`` are the evaluations at both ends in the state that the step began in; ``arrival`` is
    that at the end in the state it ended in, the same as ``end`` if nothing but parameters moved.
    """

    start: Evaluation
    end: Evaluation
    arrival: Evaluation

    def __init__(self, objective: Objective, step: Step) -> None:
        self.objective = objective
        self.step = step
        self.ops: VectorOps = vector_ops(step.start)
        self.delta: Vector = step.end - step.start
        self.cost = Cost()

    def at(self, s: float, *, gradient: bool = True) -> Evaluation:
        """Evaluate at θ_t + s Δ_t; costs one gradient, or one forward pass without ``gradient``."""
        node = evaluate(self.objective, self._theta(s), gradient=gradient)
        self.cost += Cost(full_gradients=1) if gradient else Cost(full_losses=1)
        if not isinstance(node.loss, Real):
            raise LCAError(
                f"the objective's loss must be a Python float, got {type(node.loss).__name__}; return "
                "float(loss)."
            )
        if gradient:
            self.objective.layout.check(node.grad, "the objective's gradient")
            if node.grad.dtype != self.step.start.dtype:
                raise LCAError(
                    f"the objective's gradient is {node.grad.dtype} where θ is {self.step.start.dtype}; "
                    "compute it in θ's dtype, or convert the points to the gradient's."
                )
        if not isfinite(node.loss):
            raise self.non_finite(f"the loss at s = {s:g} is {node.loss}", node.grad)
        return node

    def non_finite(self, otherwise: str, grad: Vector | None) -> NonFiniteError:
        """The error that says where NaN or Inf came in: parameters, gradient, or what ``otherwise`` says."""
        named = {"parameters at the start": self.step.start, "parameters at the end": self.step.end}
        if grad is not None:
            named["gradient"] = grad
        found = otherwise
        for what, vector in named.items():
            tensors = self.objective.layout.unflatten(vector).items()
            bad = [name for name, tensor in tensors if not self.ops.all_finite(tensor)]
            if bad:
                found = f"NaN or Inf in the {what}, in {', '.join(bad)}"
                break
        return NonFiniteError(
            f"step {self.step.index}: {found}; training has probably diverged (lower the learning rate or "
            "clip the gradient), or the data hold NaN or Inf."
        )

    def _theta(self, s: float) -> Vector:
        if s in (0.0, 1.0):  # the very vectors of the step: start + 1.0 * delta may differ by rounding
            return self.step.end if s else self.step.start
        return self.step.start + s * self.delta


class Integral:
    """``Δ ∘ Σ_k w_k g_k`` over the nodes of a segment, for the loss and for each of its terms.

    Gradients are added as they come and then dropped, so a rule of any length needs O(K) memory.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._mass = 0.0
        self._sum: Vector | None = None
        self._terms: dict[str, Integral] = {}

    def add(self, weight: float, node: Evaluation) -> None:
        """Add one node with its weight (a fraction of the whole step)."""
        segment = self._segment
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, with step and tensor
            mass = abs(weight) * segment.ops.abs_dot(node.grad, segment.delta)
        # One scalar tells whether everything that went in is finite; vectors are searched only if not.
        if not isfinite(mass):
            raise segment.non_finite("gradient times movement overflows", node.grad)
        self._mass += mass
        if self._sum is None:
            self._sum = weight * node.grad
        else:
            self._sum = segment.ops.add_scaled(self._sum, weight, node.grad)
        for name, term in node.terms.items():
            self._terms.setdefault(name, Integral(self._segment)).add(weight, term)

    def allocation(self) -> StepAllocation:
        """The finished `StepAllocation`, its residual taken against the losses at both ends; uses this up."""
        segment = self._segment
        return self._finish(segment.start, segment.end, segment.arrival, segment.cost)

    def _finish(self, start: Evaluation, end: Evaluation, arrival: Evaluation, cost: Cost) -> StepAllocation:
        segment, values = self._segment, self._sum
        with np.errstate(over="ignore", invalid="ignore"):
            values *= segment.delta  # in place: the sum is nobody else's
        total = segment.ops.total(values)
        if not isfinite(total):
            raise segment.non_finite("gradient times movement overflows", None)
        return StepAllocation(
            values=values,
            loss_start=start.loss,
            loss_end=arrival.loss,
            residual=end.loss - start.loss - total,
            mass=self._mass,
            step=segment.step.index,
            state_change=arrival.loss - end.loss,
            evaluations=cost,
            terms={
                name: term._finish(start.terms[name], end.terms[name], arrival.terms[name], Cost())
                for name, term in self._terms.items()
            },
        )
