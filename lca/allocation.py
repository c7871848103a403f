"""`allocate`: the loop that turns the steps of a path into allocations of the loss change."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Protocol, runtime_checkable

import numpy as np

from lca._each_step import each_step
from lca._opening import Openings
from lca._replay import Replay
from lca._shares import check_shares, shared_losses
from lca.arrays import Vector, array_ops
from lca.errors import LayoutError, LCAError, NonDeterministicError, TrajectoryError
from lca.layout import Layout
from lca.objective import Batch, Objective, Sampled, at_state
from lca.step import Step, Trajectory
from lca.tolerances import repeat

__all__ = [
    "Allocator",
    "Cost",
    "Estimator",
    "Resumable",
    "StepAllocation",
    "allocate",
    "allocate_each",
    "check_deterministic",
    "largest_cost_of",
    "start_each",
    "with_terms",
]


@dataclass(frozen=True)
class Cost:
    """The cost of measuring a step beyond training: declared by an `Estimator`, spent in a `StepAllocation`.

    A gradient is one forward and one backward pass, a loss one forward pass.

    Parameters
    ----------
    full_gradients
        Gradients over the whole measured data set.
    full_losses
        Losses over the whole measured data set, without a gradient.
    batch_gradients
        Gradients on a training batch.
    examples
        Gradients of single examples, in samples of any size.

    Examples
    --------
    >>> Cost(full_gradients=1) + Cost(full_gradients=0.5, examples=256)
    Cost(full_gradients=1.5, full_losses=0.0, batch_gradients=0.0, examples=256.0)
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

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.full_gradients - other.full_gradients,
            self.full_losses - other.full_losses,
            self.batch_gradients - other.batch_gradients,
            self.examples - other.examples,
        )


@dataclass(frozen=True, eq=False)
class StepAllocation:
    """The loss change of one step, split over the parameters.

    ``values[i] < 0``: parameter i *helped* (its movement lowered the loss); ``> 0``: it *hurt*;
    exactly 0: it did not move, or had no gradient. Units: those of the loss.

    Attributes
    ----------
    values
        A vector (K,) of the parameters' own type, dtype and device. It sums to `loss_change` up to
        ``residual``.
    loss_start, loss_end
        L(θ_t) and L(θ_{t+1}); NaN if they were not measured.
    residual
        ``loss_end - loss_start - state_change - Σ_i values[i]``, the sum taken in float64; NaN if the losses
        were not measured.
    mass
        ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|``, the scale of rounding: values cancel in their sum, so errors are
        judged in units of eps·mass, not of the total.
    step
        The index t of the step.
    state_change
        The part of the loss change made by state that is not a parameter (BatchNorm statistics): between the
        step before and the update (`Step.previous_state`), and from ``state[0]`` to ``state[1]``.
    cost
        What was newly evaluated for this step; reused gradients are not counted.
    start_cost
        The part of ``cost`` that was spent at θ_t, which costs nothing if the estimator was there before.
    tolerance
        The largest ``|residual|`` that the estimator allows for this step; ``None``: no limit.
    converged, reason
        Whether the estimator met its own tolerances, and why it stopped.
    stderr
        Standard error of ``values``, if a sampled estimator provides one, else ``None``.
    replicates
        From a sampled estimator with error bars: for each node, by its time ``t + s``, m independent and
        unbiased copies (K,) of the node's contribution to ``values``, which is their mean. Neighbouring steps
        share the sample at the node between them, under the same key. Those of `CrossFit` have the right
        spread but another mean.
    terms
        One allocation for each term, by name, when the objective is a `Sum`.
    source
        The step that was allocated. In a training run its vectors may be the model's own memory, valid until
        the next update; copy what is to be kept. `lca.estimators.CrossFit` replaces its
        micro-batches by their sum.
    sampled
        Whether the values are estimated from batches or samples, by an estimator that measures no loss. Noise
        then turns signs, so a helping percentage of them has no meaning.
    memory
        What a `Resumable` estimator needs to continue the run after this step, as numbers by name; among them
        ``steps``, the number of steps so far.

    Examples
    --------
    >>> a = StepAllocation(np.array([-1.0, 0.5]), loss_start=2.0, loss_end=1.75, residual=0.25, mass=1.5)
    >>> a.loss_change, float(a.values.sum()) + a.residual
    (-0.25, -0.25)
    """

    values: Vector
    loss_start: float
    loss_end: float
    residual: float
    mass: float
    step: int = 0
    state_change: float = 0.0
    cost: Cost = field(default_factory=Cost)
    start_cost: Cost = field(default_factory=Cost)
    tolerance: float | None = None
    converged: bool = True
    reason: str = ""
    stderr: Vector | None = None
    replicates: Mapping[float, Sequence[Vector]] = field(default_factory=dict)
    terms: Mapping[str, "StepAllocation"] = field(default_factory=dict)
    source: Step | None = None
    sampled: bool = False
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss_change(self) -> float:
        """``loss_end - loss_start``: negative when the step lowered the loss."""
        return self.loss_end - self.loss_start


class Allocator(Protocol):
    """One run of an estimator; called once a step, in order."""

    def __call__(self, step: Step) -> StepAllocation: ...


_FEW = 64
"""Examples on which determinism is checked for an estimator that samples."""


@runtime_checkable
class Estimator(Protocol):
    """A description of how to allocate steps; it keeps no state, so one serves any number of runs.

    `lca.testing.check_estimator` tests that it keeps what it declares. An estimator on batches or samples
    declares more: `lca.estimators.StochasticEstimator`. An attribute ``largest_cost``, a `Cost`, bounds what
    a step after the first may cost, where steps differ. A dataclass attribute ``citation``, a
    BibTeX entry, is cited by `lca.Record.cite`. An attribute ``vectors``, the most vectors (K,) that one run
    holds besides both ends of a step and its fields, the values included, is shown by a tracker's
    ``estimate()``. A method ``reduced``, from the fields of an update by name to what the estimator uses of
    them, is called by a tracker before the update is made, so that it need not keep more; it may overwrite
    the updates of micro-batches.

    Examples
    --------
    >>> from lca import PathIntegral
    >>> estimator = PathIntegral()
    >>> isinstance(estimator, Estimator), estimator.target, estimator.degree
    (True, 'full', 3)
    """

    @property
    def target(self) -> str:
        """The loss that is allocated.

        ``"full"``: of the whole measured data; ``"batch"``: of training batches; ``"probe"``: of samples.
        """

    @property
    def degree(self) -> int:
        """Exact for losses that are polynomials of degree ≤ degree + 1 along the step.

        For a sampled estimator the mean is exact.
        """

    @property
    def cost(self) -> Cost:
        """Mean cost of a step in a long run.

        Where it depends on the steps, that of a run whose steps never need more than the least.
        """

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""


@runtime_checkable
class Resumable(Estimator, Protocol):
    """An estimator that continues a run as if there had been no stop.

    A step may depend on earlier ones by more than the gradient at θ_t, as the audits of `Adaptive` do. What
    it depends on is in `StepAllocation.memory`, which a `lca.Record` stores.

    Examples
    --------
    >>> from lca import Adaptive, PathIntegral
    >>> isinstance(Adaptive(), Resumable), isinstance(PathIntegral(), Resumable)
    (True, False)
    """

    def resume(self, objective: Objective, memory: Mapping[str, float]) -> Allocator:
        """Continue a run whose last allocation had this ``memory``."""


def largest_cost_of(estimator: Estimator) -> Cost:
    """The most that a step after the first may cost: the declared ``largest_cost``, or the cost itself.

    Parameters
    ----------
    estimator
        The estimator; only its declarations are read.

    Examples
    --------
    >>> from lca import Adaptive, PathIntegral
    >>> largest_cost_of(PathIntegral()).full_gradients, largest_cost_of(Adaptive()).full_gradients
    (2, 34)
    """
    found: Cost = getattr(estimator, "largest_cost", estimator.cost)
    return found


def allocate(
    objective: Objective,
    trajectory: Iterable[Step],
    estimator: Estimator,
    *,
    check: bool = True,
) -> Iterator[StepAllocation]:
    """Allocate the loss change of every step of a path, one `StepAllocation` at a time.

    ``A_{t,i} = Δ_{t,i} ∫₀¹ ∂_i L(θ_t + s Δ_t) ds`` with ``Δ_t = θ_{t+1} - θ_t``, approximated by
    ``estimator``. Memory does not grow with the number of steps.

    Parameters
    ----------
    objective
        The measured loss. A `Sum` gives an allocation for each of its terms as well.
    trajectory
        The steps, in order: a `Trajectory` of stored points, or any iterable of `Step`, such as a running
        training loop.
    estimator
        How a step is allocated, e.g. ``PathIntegral(SIMPSON)`` or ``Adaptive(tol=1e-3)``.
    check
        Refuse an objective that gives two results at one point: evaluate loss and gradient twice at the
        first point, and for an estimator of the full loss, the loss again at the start of steps that do not
        converge, of the 2nd, 4th, 8th, ... and every 64th. Costs two gradients a run and 0.5 % of a gradient
        a step, not counted in ``cost``.

    Raises
    ------
    TrajectoryError
        If there are fewer than two points, or no step at all.
    LayoutError
        If the trajectory has a layout, and it is not that of the objective.
    NonDeterministicError
        If the objective is not a function of θ (and its state) alone.
    NonFiniteError
        If parameters, loss or gradient hold NaN or Inf; the message names step and tensor.
    IncompleteStepError
        If a step lacks a field that the estimator requires.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Trajectory, allocate
    >>> from lca.reference import Quadratic
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
    memory: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[dict[str, StepAllocation]]:
    """Allocate several measured losses (train and held-out, say) in one pass along the path.

    Each objective is integrated on its own, exactly as by `allocate`: measuring one more loss changes no
    number of the others. One exception saves half of the gradients: a loss that is measured beside its own
    parts (`Sum.whole`, as of ``by_class()``) is their sum, equal to rounding. For other losses that add up
    to a total use one `Sum` objective instead.

    Parameters
    ----------
    objectives
        The measured losses by name, all over the same parameters.
    trajectory, estimator, check
        As in `allocate`; the estimator runs separately on each objective.
    memory
        To continue a run: the `StepAllocation.memory` of its last step, by loss (`lca.Record.memory`). An
        estimator that is not `Resumable` begins anew.

    Returns
    -------
    Iterator of dict
        For each step, the `StepAllocation` of each loss by name.

    Raises
    ------
    LCAError
        If there is no objective, or ``estimator`` is not an Estimator; later, as `allocate`.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Trajectory
    >>> from lca.reference import Quadratic
    >>> losses = {"train": Quadratic(np.eye(1)), "heldout": Quadratic(2 * np.eye(1))}
    >>> run = Trajectory(np.array([[1.0], [0.0]]))
    >>> [rows] = allocate_each(losses, run, PathIntegral(SIMPSON))
    >>> {name: a.loss_change for name, a in rows.items()}
    {'train': -0.5, 'heldout': -1.0}
    """
    allocate_step = start_each(objectives, estimator, check=check, memory=memory)
    if isinstance(trajectory, Trajectory) and trajectory.layout is not None:
        for objective in objectives.values():
            _check_fits(trajectory.layout, objective.layout)
    return each_step(trajectory, allocate_step)


def _check_fits(points: Layout, objective: Layout) -> None:
    """Raise `LayoutError` if the points of a trajectory are the parameters of another objective."""
    if (points.names, points.shapes) != (objective.names, objective.shapes):
        differing = next(
            (mine, theirs)
            for mine, theirs in zip_longest(*(_tensors(layout) for layout in (points, objective)))
            if mine != theirs
        )
        raise LayoutError(
            f"the points of the trajectory have another layout than the objective: {differing[0]} where the "
            f"objective has {differing[1]}. lca.importers.replay_hdf5(path, objective) matches the tensors "
            "of a file and transposes them; if all entries are in the same order, Trajectory(run.points) has "
            "no layout."
        )


def _tensors(layout: Layout) -> list[str]:
    return [f"{name} {shape}" for name, shape in zip(layout.names, layout.shapes, strict=True)]


def start_each(
    objectives: Mapping[str, Objective],
    estimator: Estimator,
    *,
    check: bool = True,
    memory: Mapping[str, Mapping[str, float]] | None = None,
) -> Callable[[Step], dict[str, StepAllocation]]:
    """`allocate_each` one step at a time: returns a function to be called with each step of a run.

    Parameters
    ----------
    objectives, estimator, check, memory
        As in `allocate_each`.

    Raises
    ------
    LCAError
        If there is no objective, or ``estimator`` is not an Estimator; if there are several objectives and
        the estimator allocates the loss of training batches (its ``target`` is ``"batch"``).

    Examples
    --------
    >>> from lca import PathIntegral
    >>> from lca.reference import bowl
    >>> allocate_step = start_each({"train": bowl(1)}, PathIntegral())
    >>> allocate_step(Step(np.array([2.0]), np.array([1.0])))["train"].values
    array([-1.5])
    """
    if not objectives:
        raise LCAError("measuring needs at least one objective; pass {'train': objective, ...}.")
    if not isinstance(objectives, Mapping):
        raise LCAError(f"expected objectives by name, got {objectives!r}; pass {{'train': objective}}.")
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise LCAError(
            f"expected an Estimator, got {estimator!r}; pass e.g. lca.PathIntegral(lca.SIMPSON), "
            "lca.Adaptive() or lca.estimators.CrossFit(); "
            "lca.estimators.make_estimator makes one from a name."
        )
    if estimator.target == "batch" and len(objectives) > 1:
        raise LCAError(
            f"{type(estimator).__name__} allocates the loss of the training batches, so that "
            f"{', '.join(map(repr, objectives))} would get the same values; pass the loss of training alone, "
            "and measure others with lca.Adaptive (cheaper with span= or every=) or "
            "lca.estimators.SampledPathIntegral."
        )
    shared = shared_losses(objectives, estimator)
    every, objectives = objectives, {name: o for name, o in objectives.items() if name not in shared}
    allocators = {
        name: _begin(estimator, objective, (memory or {}).get(name)) for name, objective in objectives.items()
    }
    openings = {name: Openings(objective) for name, objective in objectives.items()}
    unchecked = dict(objectives) if check else {}
    replays = {
        name: Replay(objective, name)
        for name, objective in objectives.items()
        if check and estimator.target == "full"
    }

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
        if unchecked:
            check_shares(every, shared, step)
        unchecked.clear()
        found = {name: allocator(step) for name, allocator in allocators.items()}
        for name, replay in replays.items():
            replay.check(step, found[name])
        found = {name: openings[name](step, a) for name, a in found.items()}
        return {name: _taken(name, found, shared) for name in every}

    return allocate_step


def _begin(estimator: Estimator, objective: Objective, memory: Mapping[str, float] | None) -> Allocator:
    """Begin a run, or continue the one that has this memory."""
    if memory and isinstance(estimator, Resumable):
        return estimator.resume(objective, memory)
    return estimator.start(objective)


def _taken(name: str, found: Mapping[str, StepAllocation], shared: Mapping[str, str]) -> StepAllocation:
    """The allocation of a loss: its own, or that of the sum of its parts."""
    if name in shared:
        return replace(found[shared[name]], terms={})
    return replace(found[name], cost=Cost(), start_cost=Cost()) if name in shared.values() else found[name]


def with_terms(rows: Mapping[str, StepAllocation]) -> dict[str, StepAllocation]:
    """The allocations of measured losses by name, each followed by those of its terms (``train/penalty``).

    Parameters
    ----------
    rows
        The allocations of one step, by the name of the loss.

    Examples
    --------
    >>> term = StepAllocation(np.zeros(1), 1.0, 1.0, residual=0.0, mass=0.0)
    >>> whole = StepAllocation(np.zeros(1), 2.0, 2.0, residual=0.0, mass=0.0, terms={"penalty": term})
    >>> list(with_terms({"train": whole}))
    ['train', 'train/penalty']
    """
    found = {}
    for name, allocation in rows.items():
        found[name] = allocation
        for term, of_term in allocation.terms.items():
            found[f"{name}/{term}"] = of_term
    return found


def check_deterministic(objective: Objective, theta: Vector, batch: Batch | None = None) -> None:
    """Raise `NonDeterministicError` if two calls of the objective at θ differ; costs two gradients.

    The whole data are used, or ``batch`` for an estimator that samples. The gradient is compared as well: at
    θ = 0 a classifier has the same loss on any sample of its data. Differences within rounding are allowed,
    as a parallel sum may change its order.

    Parameters
    ----------
    objective
        The measured loss.
    theta
        A parameter vector (K,).
    batch
        The data of both calls; ``None``: all data of the objective.

    Raises
    ------
    NonDeterministicError
        If the losses or the gradients differ by more than rounding.
    LCAError
        If the gradient is a read-only array, which an estimator could not overwrite.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> check_deterministic(Quadratic(np.eye(2)), np.ones(2))
    """
    objective.layout.check(theta, "theta")
    given = () if batch is None else (batch,)
    (loss, grad), (other_loss, other_grad) = (objective.loss_and_grad(theta, *given) for _ in range(2))
    if isinstance(grad, np.ndarray) and not grad.flags.writeable:
        raise LCAError(
            "loss_and_grad returned a read-only array, as np.asarray makes of an array of JAX; return a "
            "gradient that the caller may overwrite: np.array(gradient)."
        )
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
