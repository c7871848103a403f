"""`Objective`: the contract between the estimators and whatever computes losses and gradients.

A backend, or a user with a hand-derived gradient, supplies `loss` and `loss_and_grad` at any θ; everything
else in this library is built on these two. `Stateful`, `Selective`, `Sampled`, `Scored` and `Checked` are
optional.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np

from lca._state import JointState, same, same_state
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout, check_same_layout

__all__ = [
    "Batch",
    "Checked",
    "Described",
    "Evaluation",
    "Objective",
    "Sampled",
    "Scaled",
    "Scored",
    "Selective",
    "State",
    "Stateful",
    "Sum",
    "at_state",
    "differentiated_by",
    "differentiating",
    "evaluate",
    "evaluate_each",
    "leaves",
    "state_at_update",
    "state_of",
    "what_changed",
]

Batch: TypeAlias = Any
"""What an objective takes as a batch; the NumPy models take `lca.reference.Batch`."""
State: TypeAlias = Mapping[str, Vector]
"""What a loss depends on besides θ, by name. Two states are equal only if they are the same object."""


@runtime_checkable
class Objective(Protocol):
    """The measured loss L(θ): a deterministic function of the flat parameter vector.

    Both methods take θ of shape (K,), in the parameters' own dtype and on their device, and an optional
    batch; ``batch=None`` means the whole data set. An objective without batches may leave out the parameter.
    The loss is a Python float accumulated in float64 (in the loss's own units); the gradient is a *new*
    vector of the same kind as θ that later calls do not overwrite. A call changes nothing that can be seen
    from outside, also when it raises.

    Examples
    --------
    ``L(θ) = ½ |θ|²``, written by hand:

    >>> class Bowl:
    ...     layout = Layout(("w",), ((2,),))
    ...     def loss(self, theta, batch=None):
    ...         return float(theta @ theta) / 2
    ...     def loss_and_grad(self, theta, batch=None):
    ...         return self.loss(theta), theta.copy()
    >>> isinstance(Bowl(), Objective)
    True
    """

    @property
    def layout(self) -> Layout:
        """Names and shapes of the tensors in θ."""

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        """L(θ) alone; costs one forward pass."""

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        """L(θ) and ∂L/∂θ, shape (K,); costs one gradient (a forward and a backward pass)."""


@runtime_checkable
class Stateful(Protocol):
    """An objective whose loss also depends on a state besides θ, such as running statistics.

    ``loss(θ)`` equals ``at_state(state()).loss(θ)``. The state moves during a run, as θ does. `Step.state`
    holds it at both ends of a step, and `StepAllocation.state_change` is the loss change that the state alone
    has caused.

    Examples
    --------
    ``L(θ) = ½ c |θ|²`` with a factor c that moves during the run:

    >>> from lca.reference import Quadratic
    >>> class Scheduled(Quadratic):
    ...     factor = np.array([3.0])
    ...     def loss(self, theta, batch=None):
    ...         return self.at_state(self.state()).loss(theta)
    ...     def loss_and_grad(self, theta, batch=None):
    ...         return self.at_state(self.state()).loss_and_grad(theta)
    ...     def state(self):
    ...         return {"factor": self.factor.copy()}
    ...     def at_state(self, state):
    ...         return Scaled(Quadratic(np.eye(2)), state["factor"][0])
    >>> objective = Scheduled(np.eye(2))
    >>> objective.at_state(objective.state()).loss(np.ones(2))
    3.0
    """

    def state(self) -> State | None:
        """A copy of the state as it is now; ``None`` if the loss depends on θ alone."""

    def at_state(self, state: State) -> Objective:
        """The same loss with this state, a function of θ alone.

        It may keep the arrays as they are, as no caller changes them later. Objectives in several states
        exist at once, and are evaluated in turn.
        """


@runtime_checkable
class Selective(Protocol):
    """An objective that differentiates some of its tensors by default, and others on request.

    Gradients of frozen layers would cost time and are mostly not needed: a parameter that does not move is
    allocated 0 whatever its gradient is. Estimators request the gradient of every parameter that moves, also
    of a frozen one that still moves by momentum.

    Examples
    --------
    ``L(θ) = ½ (a² + b²)``, whose gradient for b is 0 unless it is asked for:

    >>> class Bowl:
    ...     layout = Layout(("a", "b"), ((1,), (1,)))
    ...     differentiated = frozenset({"a"})
    ...     def differentiating(self, names):
    ...         other = Bowl()
    ...         other.differentiated = frozenset(names)
    ...         return other
    ...     def loss(self, theta, batch=None):
    ...         return float(theta @ theta) / 2
    ...     def loss_and_grad(self, theta, batch=None):
    ...         return self.loss(theta), theta * [name in self.differentiated for name in "ab"]
    >>> Bowl().loss_and_grad(np.ones(2))[1]
    array([1., 0.])
    >>> differentiating(Bowl(), {"a", "b"}).loss_and_grad(np.ones(2))[1]
    array([1., 1.])
    """

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed; that of the others is 0."""

    def differentiating(self, names: Collection[str]) -> Objective:
        """The same loss with the gradient of these tensors, and of no others."""


@runtime_checkable
class Checked(Protocol):
    """An objective that can tell whether it still measures what it was made for.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> class Careful(Quadratic):
    ...     device = "cpu"
    ...     def check(self):
    ...         if self.device != "cpu":
    ...             raise LCAError("the model was moved; make the objective anew.")
    >>> isinstance(Careful(np.eye(2)), Checked), isinstance(Quadratic(np.eye(2)), Checked)
    (True, False)
    """

    def check(self) -> None:
        """Raise `LCAError` if not. Trackers call it before each measured step, so it must cost little."""


@runtime_checkable
class Described(Protocol):
    """An objective with a description of its data, which a record stores and its report shows.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> class Stream(Quadratic):
    ...     measured_on = "the first 10,000 documents"
    >>> isinstance(Stream(np.eye(2)), Described), isinstance(Quadratic(np.eye(2)), Described)
    (True, False)
    """

    @property
    def measured_on(self) -> str:
        """What the loss is a mean over, such as ``"60,000 examples"``; empty if that is not known."""


@runtime_checkable
class Sampled(Objective, Protocol):
    """An objective that is a mean over examples, of which any sample can be made a batch.

    ``L(θ) = Σ_n w_n ℓ_n(θ) / Σ_n w_n`` over examples numbered 0 ... N-1.

    Examples
    --------
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> isinstance(loss, Sampled), loss.n_examples, len(loss.batch(np.array([1, 1, 0])))
    (True, 2, 3)
    """

    @property
    def n_examples(self) -> int:
        """Number of examples, N."""

    @property
    def weight(self) -> np.ndarray | None:
        """The weights w (N,); ``None`` if all are 1."""

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        """The batch of these examples (n,), repeats included, whose loss is their plain mean.

        With ``weight`` v (n,) its loss is ``Σ_j v_j ℓ_j / Σ_j v_j``. The weights w do not count in it. The
        batch may keep both arrays as they are: no caller changes them later.
        """


@runtime_checkable
class Scored(Sampled, Protocol):
    """A `Sampled` objective with a class and an error of each example, to draw important ones more often.

    Examples
    --------
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 4), np.eye(2), np.array([0, 2]))
    >>> isinstance(loss, Scored), loss.labels.tolist(), loss.scores(np.zeros(12)).tolist()
    (True, [0, 2], [0.75, 0.75])
    """

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, integers (N,); ``None`` if there are no classes."""

    def scores(self, theta: Vector, batch: Batch | None = None) -> np.ndarray:
        """A number ≥ 0 per example, about as large as its gradient: ``1 - p_model(label)`` of a classifier.

        A NumPy array (n,) for the examples of ``batch``, by default for all. Costs one forward pass.
        """


@dataclass(frozen=True)
class Scaled:
    """``factor · L(θ)``: an objective whose loss and gradient are multiplied by a constant.

    Raises
    ------
    LCAError
        If the objective is a `Sum`, whose terms would be hidden.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> Scaled(Quadratic(np.eye(2)), 0.5).loss(np.ones(2))
    0.5
    """

    objective: Objective
    factor: float
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.objective, Sum):
            raise LCAError("Scaled would hide the terms of a Sum; scale each term inside the Sum instead.")
        # A NumPy scalar would turn float32 gradients into float64 ones; a Python float does not.
        object.__setattr__(self, "factor", float(self.factor))
        object.__setattr__(self, "layout", self.objective.layout)

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return self.factor * evaluate(self.objective, theta, batch, gradient=False).loss

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        found = evaluate(self.objective, theta, batch)
        return self.factor * found.loss, self.factor * found.grad


@dataclass(frozen=True)
class Sum:
    """``Σ_j L_j(θ)``: one loss made of named terms, each of which is allocated beside the total.

    The terms (data and penalty, one class each, ...) are evaluated once at every node, and an
    estimator reports an allocation for each (`StepAllocation.terms`). Quadrature is linear, so these
    add up to the total to rounding.

    Parameters
    ----------
    terms
        Objectives by name, of one layout; none of them a `Sum`.
    whole
        The objective to which the terms add up, if they are its parts (``by_class()``). Where both are
        measured, their gradients are taken once.

    Raises
    ------
    LCAError
        If there are no terms, or one is a `Sum`.
    LayoutError
        If the layouts differ.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import L2Penalty
    >>> layout = Layout(("w",), ((2,),))
    >>> both = Sum({"weak": L2Penalty(layout, 0.1), "strong": L2Penalty(layout, 0.9)})
    >>> both.loss(np.array([1.0, 1.0]))
    1.0
    """

    terms: Mapping[str, Objective]
    whole: Objective | None = field(default=None, kw_only=True, repr=False, compare=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        if not self.terms:
            raise LCAError("a Sum needs at least one term; pass {'name': objective, ...}.")
        for name, term in self.terms.items():
            if isinstance(term, Sum):
                raise LCAError(f"term {name!r} is itself a Sum; list its terms directly.")
        layout = check_same_layout((t.layout for t in self.terms.values()), "the terms of a Sum")
        object.__setattr__(self, "layout", layout)

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return evaluate(self, theta, batch, gradient=False).loss

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        node = evaluate(self, theta, batch)
        return node.loss, node.grad


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Loss and gradient at one point, with those of each term if the objective is a `Sum`.

    ``grad`` is ``None`` if only the loss was evaluated.

    Parameters
    ----------
    loss
        The loss, a float.
    grad
        The gradient (K,); ``None`` if only the loss was evaluated.
    terms
        The evaluation of each term of a `Sum`, by name; empty for other objectives.

    Examples
    --------
    >>> import numpy as np
    >>> Evaluation(0.5, np.array([1.0, 0.0])).terms
    {}
    """

    loss: float
    grad: Vector
    terms: Mapping[str, "Evaluation"] = field(default_factory=dict)


def leaves(measured: Objective | Mapping[str, Objective]) -> Iterator[Objective]:
    """The innermost objectives: the terms of a `Sum`, the objective in a `Scaled`, the values of a mapping.

    Parameters
    ----------
    measured
        An objective, or several by name.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> bowl = Quadratic(np.eye(2))
    >>> list(leaves({"train": Sum({"half": Scaled(bowl, 0.5)})})) == [bowl]
    True
    """
    if isinstance(measured, Mapping):
        for objective in measured.values():
            yield from leaves(objective)
    elif isinstance(measured, Sum):
        yield from leaves(measured.terms)
    elif isinstance(measured, Scaled):
        yield from leaves(measured.objective)
    else:
        yield measured


def state_of(measured: Objective | Mapping[str, Objective]) -> State | None:
    """A copy of what the objectives, or any term of them, depend on besides θ; ``None`` if nothing.

    Entries that are equal under one name are one entry; `at_state` tells apart those that differ.

    Parameters
    ----------
    measured
        An objective, or several by name.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> state_of(Quadratic(np.eye(2))) is None
    True
    """
    stateful = [objective for objective in leaves(measured) if _is_stateful(objective)]
    states = [(objective, state) for objective in stateful if (state := objective.state())]
    if len(states) == 1:
        return states[0][1]  # itself, by which an unchanged state is recognised at once
    merged: dict[str, Vector] = {}
    for _, state in states:
        if not all(same(value, merged.setdefault(name, value)) for name, value in state.items()):
            return JointState(states)
    return merged or None


def at_state(objective: Objective, state: State | None) -> Objective:
    """``objective`` with this state; unchanged if ``state`` is ``None`` or the loss depends on θ alone.

    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> loss = Quadratic(np.eye(2))
    >>> at_state(loss, {"running_mean": np.zeros(2)}) is loss
    True
    """
    if state is None:
        return objective
    if isinstance(objective, Sum):
        return Sum({name: at_state(term, state) for name, term in objective.terms.items()})
    if isinstance(objective, Scaled):
        return Scaled(at_state(objective.objective, state), objective.factor)
    if not _is_stateful(objective):
        return objective
    return objective.at_state(state.of(objective) if isinstance(state, JointState) else state)


def state_at_update(
    measured: Objective | Mapping[str, Objective], previous: State | None, now: State | None
) -> State | None:
    """The state that the gradient of an update saw.

    What was changed since the step before (by a schedule, or by training another model) is what the gradient
    saw. Running statistics were moved by the forward pass of this very update: the gradient saw them as the
    step before had left them. An objective names these in an attribute ``moved_by_forward``.

    Parameters
    ----------
    measured
        The measured losses.
    previous, now
        Their states after the step before, and before the update; ``previous`` is returned if they are the
        same.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> class Normalised(Quadratic):
    ...     moved_by_forward = {"mean"}
    >>> previous = {"mean": np.array(1), "weight": np.array(1)}
    >>> now = {"mean": np.array(2), "weight": np.array(2)}
    >>> state_at_update(Normalised(np.eye(2)), previous, now)
    {'mean': array(1), 'weight': array(2)}
    """
    if previous is None or now is None or now is previous:
        return now
    if isinstance(previous, JointState) and not isinstance(now, JointState):
        now = JointState(
            [(own, {name: now[name] for name in past if name in now}) for own, past in previous.parts]
        )
    if isinstance(now, JointState):
        found: State = JointState([(own, _as_forward_saw(own, previous, part)) for own, part in now.parts])
    else:
        found = now
        for own in leaves(measured):
            found = _as_forward_saw(own, previous, found)
    return previous if same_state(found, previous) else found


def _as_forward_saw(objective: object, previous: State, now: State) -> State:
    if isinstance(previous, JointState):
        previous = previous.of(objective)
    moved = getattr(objective, "moved_by_forward", ())
    return {name: previous[name] if name in moved and name in previous else now[name] for name in now}


def what_changed(objective: Objective) -> str:
    """What is known to have moved the loss besides θ and state; empty if nothing is.

    An objective that can tell has a method ``what_changed()``, which returns a text.

    >>> from lca.reference import Quadratic
    >>> what_changed(Quadratic(np.eye(2)))
    ''
    """
    return "; ".join(text for own in leaves(objective) if (text := getattr(own, "what_changed", str)()))


def differentiated_by(objective: Objective) -> frozenset[str]:
    """Names of the tensors whose gradient the objective, and every term of it, computes.

    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> differentiated_by(Quadratic(np.eye(2)))
    frozenset({'theta'})
    """
    if isinstance(objective, Sum):
        return frozenset.intersection(*map(differentiated_by, objective.terms.values()))
    if isinstance(objective, Scaled):
        return differentiated_by(objective.objective)
    return objective.differentiated if _is_selective(objective) else frozenset(objective.layout.names)


def differentiating(objective: Objective, names: Collection[str]) -> Objective:
    """``objective`` with the gradient of these tensors; unchanged if it always computes all gradients.

    Parameters
    ----------
    objective
        The measured loss.
    names
        The tensors whose gradients are needed; the others may be 0.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> loss = Quadratic(np.eye(2))
    >>> differentiating(loss, {"theta"}) is loss
    True
    """
    if isinstance(objective, Sum):
        return Sum({name: differentiating(term, names) for name, term in objective.terms.items()})
    if isinstance(objective, Scaled):
        return Scaled(differentiating(objective.objective, names), objective.factor)
    return objective.differentiating(names) if _is_selective(objective) else objective


def _is_selective(objective: Objective) -> TypeGuard[Selective]:
    """As ``isinstance``, which takes 100 times as long for a protocol, and this is asked at every step."""
    return hasattr(objective, "differentiating")


def _is_stateful(objective: Objective) -> TypeGuard[Stateful]:
    """As ``isinstance``; see `_is_selective`."""
    return hasattr(objective, "at_state") and hasattr(objective, "state")


def evaluate(
    objective: Objective, theta: Vector, batch: Batch | None = None, *, gradient: bool = True
) -> Evaluation:
    """Loss and gradient at θ, with those of each term of a `Sum`; every term is evaluated once.

    Costs one gradient, or one forward pass with ``gradient=False``.

    Parameters
    ----------
    objective
        The measured loss.
    theta
        The parameters (K,).
    batch
        The data; ``None``: all data of the objective.
    gradient
        Whether to compute the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> loss = Sum({"data": Quadratic(np.eye(2)), "penalty": Quadratic(2 * np.eye(2))})
    >>> found = evaluate(loss, np.ones(2))
    >>> found.loss, found.terms["penalty"].grad
    (3.0, array([2., 2.]))
    """
    if isinstance(objective, Sum):
        terms = _evaluate_terms(objective, theta, batch, gradient=gradient)
        loss = sum(term.loss for term in terms.values())
        return Evaluation(loss, _total([term.grad for term in terms.values()]) if gradient else None, terms)
    given = () if batch is None else (batch,)  # an objective without batches need not have the parameter
    if gradient:
        return Evaluation(*objective.loss_and_grad(theta, *given))
    return Evaluation(objective.loss(theta, *given), None)


def _evaluate_terms(
    total: Sum, theta: Vector, batch: Batch | None, *, gradient: bool
) -> dict[str, Evaluation]:
    parts = [(t.objective, t.factor) if isinstance(t, Scaled) else (t, 1.0) for t in total.terms.values()]
    whole = [(part, None) for part, _ in parts]
    found = _evaluated_together(whole, theta, gradient=gradient) if batch is None else None
    if found is None:
        return {name: evaluate(term, theta, batch, gradient=gradient) for name, term in total.terms.items()}
    scaled = array_ops(theta).scaled
    return {
        name: Evaluation(factor * one.loss, scaled(one.grad, factor) if gradient else None)
        for name, (_, factor), one in zip(total.terms, parts, found, strict=True)
    }


def evaluate_each(objective: Objective, theta: Vector, batches: Sequence[Batch]) -> list[Evaluation]:
    """Loss and gradient on each of several batches at one θ; costs a gradient on each.

    Parameters
    ----------
    objective
        The measured loss.
    theta
        The parameters (K,).
    batches
        The data of each evaluation.

    Examples
    --------
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    >>> parts = [loss.batch(np.array([0])), loss.batch(np.array([1]))]
    >>> [float(found.grad[0]) for found in evaluate_each(loss, np.zeros(6), parts)]
    [-0.5, 0.0]
    """
    parts = [(objective, batch) for batch in batches]
    found = _evaluated_together(parts, theta, gradient=True)
    return found or [evaluate(objective, theta, batch) for batch in batches]


def _evaluated_together(
    parts: Sequence[tuple[Objective, Batch | None]], theta: Vector, *, gradient: bool
) -> list[Evaluation] | None:
    """Several evaluations at one θ by an objective that makes them at once; ``None`` if it does not.

    Such an objective has a method ``evaluate_together``, as `lca.frameworks.ModelObjective` has: one
    preparation serves all batches, or all parts of one loss (``by_class()``).
    """
    together = getattr(parts[0][0], "evaluate_together", None) if len(parts) > 1 else None
    found = None if together is None else together(parts, theta, gradient=gradient)
    return None if found is None else [Evaluation(*each) for each in found]


def _total(gradients: Sequence[Vector]) -> Vector:
    """Their sum; a new vector, unless there is only one."""
    first, *rest = gradients
    if not rest:
        return first
    ops, total = array_ops(first), first + rest[0]
    for gradient in rest[1:]:
        total = ops.add_scaled(total, 1.0, gradient)
    return total
