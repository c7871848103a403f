"""`allocate`: the one loop that turns the steps of a path into allocations of the loss change."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError, NonDeterministicError, TrajectoryError
from lca.objective import Batch, Objective, Sampled, at_state
from lca.step import Step
from lca.tolerances import repeat


@dataclass(frozen=True)
class Cost:
    """What a measurement spent (or declares to spend) beyond training.

    ``full_gradients`` and ``full_losses`` count passes over the measured data set (a gradient is one
    forward and one backward pass, a loss one forward pass); ``batch_gradients`` counts gradients on a
    training batch; ``examples`` counts gradients of single examples, in samples whose size is no batch's.
    """

    full_gradients: float = 0.0
    full_losses: float = 0.0
    batch_gradients: float = 0.0
    examples: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.full_gradients + other.full_gradients,
            self.full_losses + other.full_losses,
            self.batch_gradients + other.batch_gradients,
            self.examples + other.examples,
        )


@dataclass(frozen=True, eq=False)
class StepAllocation:
    """How the loss change of one step is split over the parameters.

    ``values[i] < 0``: parameter i *helped* (its movement lowered the loss); ``> 0``: it *hurt*;
    exactly 0: it did not move, or had no gradient. Units: those of the loss.

    Attributes
    ----------
    values
        (K,) vector of the parameters' own kind, dtype and device. It sums to `loss_change` up to
        ``residual``.
    loss_start, loss_end
        L(θ_t) and L(θ_{t+1}); NaN from an estimator that does not measure them.
    residual
        ``loss_end - loss_start - state_change - Σ_i values[i]``, the sum taken in float64; NaN where the
        losses are.
    mass
        ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|``, the scale of rounding: allocations cancel, so errors are
        judged in units of eps·mass, never of the total.
    step
        The index of the step.
    state_change
        The part of the loss change made by buffers that are not parameters (BatchNorm statistics).
    evaluations
        What was newly evaluated for this step; reused gradients are not counted.
    tolerance
        The largest ``|residual|`` the estimator promised for this step; ``None``: no promise.
    converged, reason
        Whether the estimator met its own tolerances, and why it stopped.
    stderr
        Standard error of ``values`` for stochastic estimators, else ``None``.
    replicates
        From a stochastic estimator with error bars: for each node, at time ``t + s``, m independent and
        unbiased copies (K,) of that node's share of ``values``, which is their mean. Neighbouring steps
        share the sample at the node between them, under the same key. Those of `CrossFit` have the right
        spread only, and another mean.
    terms
        One allocation for each term when the objective is a `Sum`.
    source
        The step that was allocated. In a training run its vectors may be the model's own memory and hold
        until the next update; copy what is to be kept.
    """

    values: Vector
    loss_start: float
    loss_end: float
    residual: float
    mass: float
    step: int = 0
    state_change: float = 0.0
    cost: Cost = field(default_factory=Cost)
    tolerance: float | None = None
    converged: bool = True
    reason: str = ""
    stderr: Vector | None = None
    replicates: Mapping[float, Sequence[Vector]] = field(default_factory=dict)
    terms: Mapping[str, "StepAllocation"] = field(default_factory=dict)
    source: Step | None = None
    sampled: bool = False

    @property
    def loss_change(self) -> float:
        """``loss_end - loss_start``: negative when the step lowered the loss."""
        return self.loss_end - self.loss_start


class Allocator(Protocol):
    """The state of one run of an estimator: called once a step, in order."""

    def __call__(self, step: Step) -> StepAllocation: ...


_FEW = 64
"""Examples on which an objective is tried out for an estimator that samples."""


@runtime_checkable
class Estimator(Protocol):
    """A recipe for allocating a step; stateless, so one description serves any number of runs.

    What it declares, `lca.testing.check_estimator` holds it to.
    """

    @property
    def target(self) -> str:
        """Which loss change is allocated: ``"full"`` (the whole data set), ``"batch"`` or ``"probe"``."""

    @property
    def degree(self) -> int:
        """Exact (in the mean, if stochastic) while the loss along a step has at most degree + 1."""

    @property
    def cost(self) -> Cost:
        """Cost of a step once a run is under way; the least, where it depends on the step."""

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""


def allocate(
    objective: Objective,
    trajectory: Iterable[Step],
    estimator: Estimator,
    *,
    check: bool = True,
) -> Iterator[StepAllocation]:
    """Allocate the loss change of every step of a path, one `StepAllocation` at a time.

    ``A_{t,i} = Δ_{t,i} ∫₀¹ ∂_i L(θ_t + s Δ_t) ds`` with ``Δ_t = θ_{t+1} - θ_t``, as ``estimator``
    approximates it. Memory does not grow with the number of steps.

    Parameters
    ----------
    objective
        The measured loss. A `Sum` gives an allocation for each of its terms as well.
    trajectory
        The steps, in order: a `Trajectory` of stored points, or any iterable of `Step`, such as a
        training run under way.
    estimator
        Which rule to use, e.g. ``PathIntegral(SIMPSON)`` or ``Adaptive(tol=1e-3)``.
    check
        Evaluate loss and gradient twice at the first point and refuse an objective that gives two
        values (two gradients a run, not counted in ``cost``).

    Raises
    ------
    TrajectoryError
        If there are fewer than two points, or no step at all.
    NonDeterministicError
        If the objective is not a function of θ alone.
    NonFiniteError
        If parameters, loss or gradient hold NaN or Inf; the message names step and tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Trajectory, allocate
    >>> from lca.reference.models import Quadratic
    >>> bowl = Quadratic(np.diag([2.0, 4.0]))
    >>> run = Trajectory(np.array([[1.0, 1.0], [0.0, 0.5]]))
    >>> [a] = allocate(bowl, run, PathIntegral(SIMPSON))
    >>> a.values, a.loss_change
    (array([-1. , -1.5]), -2.5)
    """
    return (rows[""] for rows in allocate_each({"": objective}, trajectory, estimator, check=check))


def allocate_each(
    objectives: Mapping[str, Objective],
    trajectory: Iterable[Step],
    estimator: Estimator,
    *,
    check: bool = True,
) -> Iterator[dict[str, StepAllocation]]:
    """Allocate several measured losses (train and held-out, say) in one pass along the path.

    Each objective is integrated on its own, exactly as `allocate` would: measuring one more loss
    changes no number of the others. For rows that must add up use one `Sum` objective instead.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Trajectory
    >>> from lca.reference.models import Quadratic
    >>> losses = {"train": Quadratic(np.eye(1)), "heldout": Quadratic(2 * np.eye(1))}
    >>> run = Trajectory(np.array([[1.0], [0.0]]))
    >>> [rows] = allocate_each(losses, run, PathIntegral(SIMPSON))
    >>> {name: a.loss_change for name, a in rows.items()}
    {'train': -0.5, 'heldout': -1.0}
    """
    allocate_step = start_each(objectives, estimator, check=check)

    def run() -> Iterator[dict[str, StepAllocation]]:
        none_yet = True
        for step in trajectory:
            none_yet = False
            yield allocate_step(step)
        if none_yet:
            raise TrajectoryError("there was no step to allocate; was the trajectory already consumed?")

    return run()


def start_each(
    objectives: Mapping[str, Objective], estimator: Estimator, *, check: bool = True
) -> Callable[[Step], dict[str, StepAllocation]]:
    """`allocate_each` for a training loop that hands its steps over: call what this returns once a step.

    Raises
    ------
    LCAError
        If there is no objective, or ``estimator`` is none.
    """
    if not objectives:
        raise LCAError("measuring needs at least one objective; pass {'train': objective, ...}.")
    if not isinstance(objectives, Mapping):
        raise LCAError(f"objectives are taken by name, got {objectives!r}; pass {{'train': ...}}.")
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise LCAError(
            f"expected an estimator, got {estimator!r}; e.g. lca.PathIntegral(lca.SIMPSON), lca.Adaptive() "
            "or lca.estimators.CrossFit(); lca.estimators.registry.make_estimator makes one from a name."
        )
    allocators = {name: estimator.start(objective) for name, objective in objectives.items()}
    unchecked = dict(objectives) if check else {}

    def allocate_step(step: Step) -> dict[str, StepAllocation]:
        if not isinstance(step, Step):
            raise TrajectoryError(
                f"expected an iterable of Step, got an item of type {type(step).__name__}; wrap stored "
                "points θ_0 ... θ_T as Trajectory(points)."
            )
        for objective in unchecked.values():
            objective.layout.check(step.start, f"start of step {step.index}")
            measured = at_state(objective, step.state[0] if step.state else None)
            if estimator.target == "full":
                check_deterministic(measured, step.start)
            elif estimator.target == "probe" and isinstance(objective, Sampled):
                few = np.arange(min(_FEW, objective.n_examples))
                check_deterministic(measured, step.start, objective.batch(few))
        unchecked.clear()
        return {name: allocator(step) for name, allocator in allocators.items()}

    return allocate_step


def with_terms(rows: Mapping[str, StepAllocation]) -> dict[str, StepAllocation]:
    """Measured losses by name, and after each one its terms (``train/penalty``)."""
    found = {}
    for name, allocation in rows.items():
        found[name] = allocation
        for term, part in allocation.terms.items():
            found[f"{name}/{term}"] = part
    return found


def check_deterministic(objective: Objective, theta: Vector, batch: Batch | None = None) -> None:
    """Raise `NonDeterministicError` if two calls of the objective at θ differ; costs two gradients.

    On the whole data, or on a ``batch`` for estimators that sample; what is allocated by those on training
    batches is the loss of training itself, which need not be deterministic.

    The gradient counts as well: at θ = 0 a classifier has the same loss on any sample of its data. Two
    runs of a parallel sum may differ by rounding, so that much is let pass.
    """
    objective.layout.check(theta, "theta")
    given = () if batch is None else (batch,)
    (loss, grad), (other_loss, other_grad) = (objective.loss_and_grad(theta, *given) for _ in range(2))
    ops = array_ops(theta)
    eps = ops.eps(theta)
    scale, moved = ops.abs_total(grad), ops.abs_total(ops.add_scaled(other_grad, -1.0, grad))
    if abs(loss - other_loss) > repeat(loss, eps) or moved > repeat(scale, eps):
        raise NonDeterministicError(
            f"the objective gave a loss of {loss!r} and then {other_loss!r} at the same parameters, and "
            f"gradients that differ by {moved:.3g} in sum, so its loss change has no unique allocation. Turn "
            "off dropout and other random layers while measuring, and shuffle or augment no data inside "
            "the objective."
        )
