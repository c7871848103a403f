"""`Segment`: the gradient of one step as a function of s in [0, 1], checked, counted and reused.

Every estimator over the full objective needs the same four things: evaluate at θ_t + s Δ_t, share the
end-point with the next step, refuse NaN, and add up ``w · g ∘ Δ``. They live here once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from numbers import Real
from weakref import WeakKeyDictionary

import numpy as np

from lca.allocation import Cost, StepAllocation
from lca.arrays import ArrayOps, Vector, array_ops
from lca.errors import LCAError, NonFiniteError, TrajectoryError
from lca.objective import Evaluation, Objective, State, at_state, evaluate
from lca.step import Step


class Path:
    """Cuts a path into `Segment` s and carries the evaluation at each shared end-point across."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._end: _End | None = None

    def segment(self, step: Step, *, gradients: bool = True) -> "Segment":
        """Check a step and evaluate its start, unless the last step ended there; its end when asked for.

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
        return Segment(self, step, gradients=gradients)

    def reused(self, step: Step) -> Evaluation | None:
        """The evaluation at the end of the last step, if this one begins there; handed out once."""
        last, self._end = self._end, None
        state = step.state[0] if step.state else None
        if last is None or last.state is not state:
            return None
        return last.evaluation if array_ops(step.start).unchanged(last.theta, step.start) else None

    def arrived(self, step: Step, evaluation: Evaluation) -> None:
        """Keep what was evaluated at the end of a step for the next one."""
        state = step.state[1] if step.state else None
        self._end = _End(array_ops(step.end).snapshot(step.end), state, evaluation)


@dataclass(frozen=True, eq=False)
class _End:
    """Where a step ended (a snapshot of θ, and the state of the model), and what was evaluated there."""

    theta: object
    state: State | None
    evaluation: Evaluation


class Segment:
    """One step under evaluation: ``at(s)`` evaluates, ``cost`` counts what was newly evaluated.

    Both ends are evaluated in the state that the step began in, ``end`` when it is first asked for: until
    then it takes no memory. ``arrival`` is the end in the state that the step ended in, the same as ``end``
    if nothing but parameters moved.
    """

    arrival: Evaluation

    def __init__(self, path: Path, step: Step, *, gradients: bool) -> None:
        self.step = step
        self.ops: ArrayOps = array_ops(step.start)
        self.cost = Cost()
        self._path = path
        self._gradients = gradients
        self._masses: WeakKeyDictionary[Evaluation, float] = WeakKeyDictionary()  # keeps no gradient alive
        self.start = path.reused(step) or self._evaluate(0.0, gradient=gradients)

    @cached_property
    def end(self) -> Evaluation:
        """At θ_{t+1}. Also evaluates `arrival`."""
        end = self._evaluate(1.0, gradient=self._gradients)
        before, after = self.step.state or (None, None)
        moved = after is not before
        self.arrival = self._evaluate(1.0, gradient=self._gradients, state=after) if moved else end
        self._path.arrived(self.step, self.arrival)
        return end

    def at(self, s: float) -> Evaluation:
        """At θ_t + s Δ_t, with the gradient; costs one, unless it is an end that is already known."""
        if self._gradients and s in (0.0, 1.0):
            return self.end if s else self.start
        return self._evaluate(s)

    def sums(self, weights: Mapping[Evaluation, float]) -> tuple[float, float]:
        """``Σ_i a_i`` and ``Σ_i |a_i|`` of ``a = Δ ∘ Σ_k w_k g_k``: what it adds up to, before it is made."""
        weighted = [(weight, node.grad) for node, weight in weights.items()]
        return self.ops.movement_sums(weighted, self.step.start, self.step.end)

    def mass(self, node: Evaluation) -> float:
        """``Σ_i |g_i Δ_i|``, once a node; refuses what is not finite, with step and tensor."""
        if node not in self._masses:
            with np.errstate(over="ignore", invalid="ignore"):  # reported here
                self._masses[node] = self.sums({node: 1.0})[1]
            # One scalar tells whether everything that went in is finite; vectors are searched only if not.
            if not isfinite(self._masses[node]):
                raise self.non_finite("gradient times movement overflows", node.grad)
        return self._masses[node]

    def _evaluate(self, s: float, *, gradient: bool = True, state: State | None = None) -> Evaluation:
        if state is None and self.step.state:
            state = self.step.state[0]
        objective = at_state(self._path.objective, state)
        node = evaluate(objective, self._theta(s), gradient=gradient)
        self.cost += Cost(full_gradients=1) if gradient else Cost(full_losses=1)
        if not isinstance(node.loss, Real):
            raise LCAError(
                f"the objective's loss must be a Python float, got {type(node.loss).__name__}; return "
                "float(loss)."
            )
        if gradient:
            objective.layout.check(node.grad, "the objective's gradient")
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
            tensors = self._path.objective.layout.unflatten(self.ops.to_numpy(vector)).items()
            bad = [name for name, tensor in tensors if not np.isfinite(tensor).all()]
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
        return self.ops.between(self.step.start, self.step.end, s)


class Integral:
    """``Δ ∘ Σ_k w_k g_k`` over the nodes of a segment, for the loss and for each of its terms.

    Gradients are added as they come and then dropped, so a rule of any length needs O(K) memory.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._mass = 0.0
        self._sum: Vector | None = None
        self._terms: dict[str, Integral] = {}

    def add(self, weight: float, node: Evaluation, *, last_use: bool = False) -> None:
        """Add one node with its weight (a fraction of the whole step); on ``last_use`` it is used up."""
        segment = self._segment
        self._mass += abs(weight) * segment.mass(node)
        if self._sum is not None:
            self._sum = segment.ops.add_scaled(self._sum, weight, node.grad)
        elif last_use and len(node.terms) != 1:  # a single term shares its gradient with the total
            self._sum = segment.ops.scaled(node.grad, weight)
        else:
            self._sum = weight * node.grad
        for name, term in node.terms.items():
            self._terms.setdefault(name, Integral(self._segment)).add(weight, term, last_use=last_use)

    def allocation(self) -> StepAllocation:
        """The finished `StepAllocation`, its residual taken against the losses at both ends; uses this up."""
        segment = self._segment
        return self._finish(segment.start, segment.end, segment.arrival, segment.cost)

    def _finish(self, start: Evaluation, end: Evaluation, arrival: Evaluation, cost: Cost) -> StepAllocation:
        segment, values = self._segment, self._sum
        with np.errstate(over="ignore", invalid="ignore"):
            values = segment.ops.times_movement(values, segment.step.start, segment.step.end)
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
            cost=cost,
            terms={
                name: term._finish(start.terms[name], end.terms[name], arrival.terms[name], Cost())
                for name, term in self._terms.items()
            },
            source=segment.step,
        )
