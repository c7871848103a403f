"""`Path` and `Segment`: the gradient of one step as a function of s in [0, 1], checked, counted and reused.

Every estimator needs the same four things: the gradient at θ_t + s Δ_t, the end-point of the last step where
this one begins, an error for NaN, and the sum ``Σ_k w_k g_k ∘ Δ`` (`lca.estimators`). They are here
once; estimators differ in the rule and in `GradientAt`, which says where a gradient comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, nextafter
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from lca.allocation import Cost
from lca.arrays import ArrayOps, Vector, array_ops
from lca.estimators._checks import (
    OVERFLOW,
    check_gradient,
    check_loss,
    check_step,
    check_trained,
    non_finite,
)
from lca.objective import (
    Evaluation,
    Objective,
    State,
    at_state,
    differentiated_by,
    differentiating,
    evaluate,
)
from lca.step import Step


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a step.

    Parameters
    ----------
    step
        The step from θ_t to θ_{t+1}.
    s
        Where on it, in [0, 1].
    theta
        ``θ_t + s Δ_t`` (K,); at the ends the step's own vector.
    time
        ``t + s``, which identifies the point along the run.
    """

    step: Step
    s: float
    theta: Vector
    time: float


class GradientAt(Protocol):
    """Evaluates the gradient at a point, and says what that cost.

    ``objective`` is in the state that the step began in, and differentiates every tensor that the step moves.
    The result's ``grad`` is a vector (K,) of θ's dtype; its ``loss`` is read only from an evaluation of the
    whole objective, and NaN otherwise.
    """

    def __call__(self, objective: Objective, point: Point) -> tuple[Evaluation, Cost]: ...


def full_gradient(objective: Objective, point: Point) -> tuple[Evaluation, Cost]:
    """Loss and gradient of the whole objective, with those of each term of a `Sum`; costs a full gradient."""
    return evaluate(objective, point.theta), Cost(full_gradients=1)


class Residual(Protocol):
    """The residual of a rule with these weights of the nodes, given its sum ``total``."""

    def __call__(self, segment: "Segment", weights: Mapping[Evaluation, float], total: float) -> float: ...


def residual_of_sum(segment: "Segment", weights: Mapping[Evaluation, float], total: float) -> float:
    """The loss change minus the sum."""
    return segment.end.loss - segment.start.loss - total


class Path:
    """Splits a run into segments, and carries the evaluation at a shared end-point over to the next one.

    Parameters
    ----------
    objective
        The measured loss.
    gradient_at
        Where gradients come from; by default from the whole objective.
    sampled
        Declares that gradients are estimated from batches or samples: no loss is measured.
    reuse_ends
        Whether the gradient at the end of a step is also the one at the start of the next.
    residual
        Computes the residual of a rule; default: the loss change minus the sum of the rule.

    Examples
    --------
    >>> from lca.reference import bowl
    >>> segment = Path(bowl(1)).segment(Step(np.array([2.0]), np.array([1.0])))
    >>> segment.start.grad, segment.at(0.5).grad, segment.cost.full_gradients
    (array([2.]), array([1.5]), 2.0)
    """

    def __init__(
        self,
        objective: Objective,
        gradient_at: GradientAt = full_gradient,
        *,
        sampled: bool = False,
        reuse_ends: bool = True,
        residual: "Residual | None" = None,
    ) -> None:
        self.objective = objective
        self.gradient_at = gradient_at
        self.sampled = sampled
        self.residual = residual or residual_of_sum
        self._reuse_ends = reuse_ends
        self._end: _End | None = None
        self._moved = Moved(objective)

    def segment(self, step: Step, *, gradients: bool = True) -> "Segment":
        """Check the vectors of a step and begin its evaluation.

        With ``gradients=False`` only the losses are evaluated at the ends; open rules need no more. A tensor
        that moves is differentiated, also where the objective would leave it out (`lca.objective.Selective`).

        Raises
        ------
        LCAError
            If a vector does not fit the layout, or the two dtypes differ.
        """
        check_step(self.objective.layout, step)
        last, self._end = self._end, None
        known = last if last is not None and last.is_start_of(step) else None
        objective = at_state(self.objective, _states(step)[0])
        trained = differentiated_by(objective)
        moved = self._moved.beyond(trained & known.names if known else trained, step)
        if known is not None and not moved <= known.names:
            known = None  # evaluated while a tensor that moves now was frozen
        # A point at the same time elsewhere is another point.
        apart = last is not None and known is None and last.time == step.index
        time = nextafter(step.index, inf) if apart else step.index
        evaluation = None if known is None else known.evaluation
        return Segment(
            self,
            step,
            names=trained | moved,
            untrained=moved - trained,
            start=evaluation,
            start_time=time,
            gradients=gradients,
        )

    def arrived(self, step: Step, state: State | None, evaluation: Evaluation, names: frozenset[str]) -> None:
        """Keep the evaluation at the end of a step, in ``state``, for the next one.

        It has differentiated ``names``.
        """
        if self._reuse_ends:
            snapshot = array_ops(step.end).snapshot(step.end)
            self._end = _End(snapshot, state, step.index + 1, evaluation, names)

    def forget(self) -> None:
        """Release the evaluation at the end of the last step."""
        self._end = None


class Moved:
    """Which tensors of an objective move in a step.

    >>> from lca.reference import bowl
    >>> Moved(bowl(1)).beyond(frozenset(), Step(np.array([2.0]), np.array([1.0])))
    frozenset({'theta'})
    """

    def __init__(self, objective: Objective) -> None:
        self._objective, layout = objective, objective.layout
        self._all = frozenset(layout.names)
        self._parts = {
            name: slice(offset, offset + size)
            for name, offset, size in zip(layout.names, layout.offsets, layout.sizes, strict=True)
        }

    def beyond(self, known: frozenset[str], step: Step) -> frozenset[str]:
        """The tensors that move, apart from those known; costs nothing if these are all."""
        names = sorted(self._all - known)
        if not names:
            return frozenset()
        moved = array_ops(step.start).moved(step.start, step.end, [self._parts[name] for name in names])
        return frozenset(name for name, moves in zip(names, moved, strict=True) if moves)

    def require_trained(self, step: Step) -> None:
        """Check the vectors of a step, and that each tensor that moves is one that trains.

        Raises
        ------
        LCAError
            If a vector does not fit the layout, or the two dtypes differ.
        IncompleteStepError
            If a tensor moved that does not train.
        """
        check_step(self._objective.layout, step)
        check_trained(step, self.beyond(differentiated_by(self._objective), step))


@dataclass(frozen=True, eq=False)
class _End:
    """The end of the last step: a snapshot of θ, and the evaluation there with the state that it is in.

    ``names`` are the tensors that were differentiated.
    """

    theta: object
    state: State | None
    time: float
    evaluation: Evaluation
    names: frozenset[str]

    def is_start_of(self, step: Step) -> bool:
        return self.state is _states(step)[0] and array_ops(step.start).unchanged(self.theta, step.start)


def _states(step: Step) -> tuple[State | None, State | None]:
    """The states before and after the update."""
    return step.state or (None, None)


class Segment:
    """One step under evaluation: ``at(s)`` evaluates, ``cost`` counts what was newly evaluated.

    ``start_cost`` is the part of it that was spent at the start.

    ``objective`` is the measured loss in the state that the step began in, with the gradient of all tensors
    that the step moves and of all that train.

    Points are evaluated in the state that the step began in, ``start`` and ``end`` when they are first asked
    for. ``arrival`` is the end in the state that the step ended in: the same as ``end`` if nothing but the
    parameters moved. Sampled gradients have no loss that would need it; where the state moved, the next step
    has a sample of its own at its start.

    Parameters
    ----------
    path
        The path that the step belongs to; it keeps the evaluation at the end for the next step.
    step
        The step.
    names
        The tensors that are differentiated.
    untrained
        Those among them that the objective says do not train.
    start
        The evaluation at θ_t, if the last step has it; else ``None``.
    start_time
        The ``Point.time`` of the start.
    gradients
        Whether the gradient is evaluated at the ends too; else only the loss is.

    Examples
    --------
    >>> from lca.reference import bowl
    >>> segment = Path(bowl(1)).segment(Step(np.array([2.0]), np.array([1.0])))
    >>> segment.end.loss - segment.start.loss
    -1.5
    """

    arrival: Evaluation

    def __init__(
        self,
        path: Path,
        step: Step,
        *,
        names: frozenset[str],
        untrained: frozenset[str],
        start: Evaluation | None,
        start_time: float,
        gradients: bool,
    ) -> None:
        self.step = step
        self.untrained = untrained
        self.layout = path.objective.layout
        self.sampled = path.sampled
        self.ops: ArrayOps = array_ops(step.start)
        self.cost = self.start_cost = Cost()
        self._path, self.names = path, names
        self._gradients = gradients
        self._known_start, self._start_time = start, start_time
        self._masses: WeakKeyDictionary[Evaluation, float] = WeakKeyDictionary()  # keeps no gradient alive

    @property
    def state_moved(self) -> bool:
        """Whether something that the loss depends on moved besides θ."""
        before, after = _states(self.step)
        return after is not before

    @cached_property
    def objective(self) -> Objective:
        """The measured loss of this step; made when first read, as training gradients need none."""
        return self._in_state(_states(self.step)[0])

    @cached_property
    def start(self) -> Evaluation:
        """The evaluation at θ_t; costs nothing if the last step ended there."""
        known, self._known_start = self._known_start, None
        if known is not None:
            return known
        before = self.cost
        node = self._evaluate(0.0, gradient=self._gradients)
        self.start_cost = self.cost - before
        return node

    @cached_property
    def end(self) -> Evaluation:
        """The evaluation at θ_{t+1}. Also evaluates ``arrival``."""
        self.arrival = end = self._evaluate(1.0, gradient=self._gradients)
        before, after = _states(self.step)
        if self.state_moved and not self.sampled:
            there = self._in_state(after)
            self.arrival = self._evaluate(1.0, gradient=self._gradients, objective=there)
        self._path.arrived(self.step, before if self.sampled else after, self.arrival, self.names)
        return end

    def at(self, s: float) -> Evaluation:
        """The evaluation at θ_t + s Δ_t, with the gradient; a known end of the step costs nothing."""
        if self._gradients and s in (0.0, 1.0):
            return self.end if s else self.start
        return self._evaluate(s)

    def sums(self, weights: Mapping[Evaluation, float]) -> tuple[float, float]:
        """``Σ_i a_i`` and ``Σ_i |a_i|`` of ``a = Δ ∘ Σ_k w_k g_k``, without forming a.

        Also computes the `mass` of each node that has none yet, so that a device is synchronised only once.
        """
        new = [node for node in weights if node not in self._masses]
        combined = [(weight, node.grad) for node, weight in weights.items()]
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            *alone, found = self.ops.movement_sums_each(
                [*([(1.0, node.grad)] for node in new), combined], self.step.start, self.step.end
            )
        for node, (_, mass) in zip(new, alone, strict=True):
            self._masses[node] = self._finite(mass, node)
        return found

    def residual(self, weights: Mapping[Evaluation, float], total: float) -> float:
        """The residual of a rule with these weights of the nodes and the sum ``total``."""
        return self._path.residual(self, weights, total)

    def mass(self, node: Evaluation) -> float:
        """``Σ_i |g_i Δ_i|``, once a node.

        Raises
        ------
        NonFiniteError
            If the gradient or the movement holds NaN or Inf; names the step and the tensor.
        """
        if node not in self._masses:
            with np.errstate(over="ignore", invalid="ignore"):  # reported below
                mass = self.ops.movement_sums([(1.0, node.grad)], self.step.start, self.step.end)[1]
            self._masses[node] = self._finite(mass, node)
        return self._masses[node]

    def _finite(self, mass: float, node: Evaluation) -> float:
        # This one scalar is finite only if everything that went in is; vectors are searched only if not.
        if not isfinite(mass):
            raise non_finite(self.layout, self.step, OVERFLOW, node.grad)
        return mass

    def _in_state(self, state: State | None) -> Objective:
        return differentiating(at_state(self._path.objective, state), self.names)

    def _evaluate(self, s: float, *, gradient: bool = True, objective: Objective | None = None) -> Evaluation:
        if objective is None:
            objective = self.objective
        if gradient:
            node, cost = self._path.gradient_at(objective, self._point(s))
            check_gradient(self.layout, self.step, node.grad)
        else:
            node = evaluate(objective, self._point(s).theta, gradient=False)
            cost = Cost(full_losses=1)
        self.cost += cost
        if not self.sampled:
            check_loss(self.layout, self.step, node, s)
        return node

    def _point(self, s: float) -> Point:
        start, end = self.step.start, self.step.end
        ends = {0.0: start, 1.0: end}  # the step's own vectors: start + 1.0 * delta may differ by rounding
        theta = ends[s] if s in ends else self.ops.between(start, end, float(s))
        return Point(self.step, s, theta, self.step.index + s if s else self._start_time)
