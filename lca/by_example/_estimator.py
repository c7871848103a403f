"""`ByExample`: the allocation of steps to groups of parameters and to examples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lca._each_step import each_step
from lca._numbers import check_seed, use_python_numbers
from lca.allocation import Allocator, Estimator
from lca.arrays import array_ops
from lca.by_example._allocation import ExampleAllocation
from lca.by_example._chosen import choose
from lca.by_example._nodes import Nodes
from lca.by_example._protocol import separable
from lca.divisions import Selectors
from lca.errors import LCAError
from lca.estimators import Adaptive, Path
from lca.estimators._checks import check_step
from lca.groups import Groups
from lca.layout import GroupBy
from lca.objective import Objective, State, at_state, differentiated_by, differentiating
from lca.step import Step
from lca.tolerances import conservation

By = GroupBy | Selectors | Callable[[str], str]


@dataclass(frozen=True)
class ByExample:
    """Split the loss change of a step over groups of parameters and over examples.

    ``A_{g,n} = ω_n Σ_{i ∈ g} Δ_i ∫₀¹ ∂_i ℓ_n(θ_t + s Δ_t) ds`` for a loss ``L = Σ_n ω_n ℓ_n``. The sum over
    all examples is the allocation of the group, the sum over groups is the change of ``ω_n ℓ_n``. Both sums
    are checked: the estimator refines its rule until ``Σ_n |residual_n|`` is within its tolerance, and the
    sums over examples are compared with the allocation computed from gradients at the same nodes.

    Parameters
    ----------
    groups
        As in `lca.Layout.groups`: ``"tensor"``, ``"layer"``, ``"neuron"``, the selectors of each group, as
        in ``groups=`` of a tracker, or a function from the name of a tensor to that of its group.
    examples
        The indices of the examples; ``None``: all.
    labels
        The label of each example of the data, (N,), for each labelling: ``{"domain": [...]}``. The classes of
        the objective are available as the labelling ``"class"``.
    estimator
        `lca.Adaptive`, or `lca.PathIntegral` with any rule.
    chunk
        The number of groups that are differentiated in one pass: a larger number is faster and takes more
        memory.
    sample
        Draw this many of the examples at random, once for the whole run, and increase their weights to
        compensate. Sums over examples then estimate those over all of them, with the standard error
        `ExampleAllocation.stderr`. ``None``: no sample.
    seed
        The seed of the sample.

    Notes
    -----
    A slope is the derivative of the loss of one example along the movement of one group. Cost per node of a
    step: one gradient over the chosen examples, to check the sums over examples, and, in forward mode, about
    2 such gradients for each group that changed; less where several groups are differentiated in one pass.
    Per-example gradients are never formed: memory is O(chunk · K + groups · examples), with K the number of
    parameters. Slopes are derivatives along the update of one step, so an end point cannot be reused by the
    next step. Prefer a two-node Gauss rule: it has the same order as Simpson's rule with three nodes.

    Raises
    ------
    LCAError
        If the estimator uses batches or samples, ``chunk`` is not positive, or ``sample`` is below 2. When a
        run begins: if the objective has no losses of single examples.

    Examples
    --------
    >>> from lca import PathIntegral, Step, gauss_legendre
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> allocate_step = ByExample("tensor", estimator=PathIntegral(gauss_legendre(2))).start(loss)
    >>> a = allocate_step(Step(np.zeros(9), 0.1 * np.arange(9)))
    >>> a.groups, a.values.shape
    (('fc1.weight', 'fc1.bias'), (2, 2))
    >>> bool(abs(a.values.sum() - (loss.loss(0.1 * np.arange(9)) - loss.loss(np.zeros(9)))) < 1e-6)
    True
    """

    groups: By = "layer"
    examples: Sequence[int] | np.ndarray | None = None
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    estimator: Estimator = field(default_factory=Adaptive)
    chunk: int = 8
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if isinstance(self.estimator, type) or not isinstance(self.estimator, Estimator):
            raise LCAError(f"expected an Estimator, got {self.estimator!r}; pass e.g. lca.Adaptive().")
        if self.estimator.target != "full":
            raise LCAError(
                f"{type(self.estimator).__name__} allocates the loss of a {self.estimator.target}, and "
                "examples are allocated one by one; use lca.Adaptive or lca.PathIntegral, and choose fewer "
                "examples if that is too much."
            )
        check_seed(self.seed)
        if self.chunk < 1:
            raise LCAError(f"chunk must be at least 1 group, got {self.chunk}.")
        if self.sample is not None and self.sample < 2:
            raise LCAError(
                "sample must be at least 2 examples, whose spread gives the standard error, got "
                f"{self.sample}."
            )

    def start(self, objective: Objective) -> "Callable[[Step], ExampleAllocation]":
        """Begin a run along one path; call the result with each step, in order."""
        return _Run(self, objective)


def allocate_by_example(
    objective: Objective, trajectory: Iterable[Step], by_example: ByExample | None = None
) -> Iterator[ExampleAllocation]:
    """Allocate every step of a path by group and example; yields one `ExampleAllocation` per step.

    Parameters
    ----------
    objective
        A `Separable` objective, such as those of `lca.reference`, `lca_torch` and `lca_tensorflow`.
    trajectory
        The steps, in order, as in `lca.allocate`.
    by_example
        The groups, the examples and the estimator; default: layers, all examples, `lca.Adaptive`.

    Raises
    ------
    LCAError
        If the objective has no losses of single examples.
    TrajectoryError
        If there is no step.

    Examples
    --------
    >>> from lca import Trajectory
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> run = Trajectory([np.zeros(9), 0.1 * np.arange(9)])
    >>> [a] = allocate_by_example(loss, run, ByExample("tensor"))
    >>> bool(np.abs(a.residual).sum() <= a.tolerance)
    True
    """
    return each_step(trajectory, (by_example or ByExample()).start(objective))


class _Run:
    """One run of `ByExample`."""

    def __init__(self, config: ByExample, objective: Objective) -> None:
        self._objective, self._factor = separable(objective)
        self._layout = objective.layout
        self._chosen = choose(
            self._objective, config.examples, config.labels, sample=config.sample, seed=config.seed
        )
        self._groups: Groups = self._layout.groups(config.groups)
        self._nodes = Nodes(self._chosen, self._groups, config.chunk)
        self._allocate: Allocator = _started(config.estimator, self._nodes)

    def __call__(self, step: Step) -> ExampleAllocation:
        check_step(self._layout, step)
        before, after = step.state or (None, None)
        moved = self._moved(step)
        nodes = self._nodes
        found = self._allocate(nodes.begin(self._in_state(before, moved), self._factor, step))
        values, by_gradient, mass = nodes.split(found.values)
        start, end = nodes.losses(0.0), nodes.losses(1.0)
        weight, departure, arrival = self._factor * self._chosen.weight, start, end
        if step.previous_state is not None:  # what moved the state before the update
            departure = weight * nodes.losses_by(self._in_state(step.previous_state, moved), 0.0)
        if after is not before:
            arrival = weight * nodes.losses_by(self._in_state(after, moved), 1.0)
        allocation = ExampleAllocation(
            values=values,
            groups=self._groups.names,
            examples=self._chosen.index,
            loss_start=departure,
            loss_end=arrival,
            weight=weight,
            by_gradient=by_gradient,
            state_change=(start - departure) + (arrival - end),
            mass=mass,
            step=step.index,
            labels=self._chosen.labels,
            population=self._chosen.population,
            nodes=nodes.evaluated,
            tolerance=found.tolerance,
        )
        return _judged(allocation, found.converged, found.reason, array_ops(step.start).eps(step.start))

    def _in_state(self, state: State | None, moved: frozenset[str]) -> Any:
        return differentiating(at_state(self._objective, state), moved)

    def _moved(self, step: Step) -> frozenset[str]:
        """Trainable tensors, and others that nevertheless changed in this step."""
        layout, trained = self._layout, differentiated_by(self._objective)
        others = [name for name in layout.names if name not in trained]
        parts = dict(zip(layout.names, zip(layout.offsets, layout.sizes, strict=True), strict=True))
        slices = [slice(at, at + size) for at, size in (parts[name] for name in others)]
        moves = array_ops(step.start).moved(step.start, step.end, slices) if others else []
        return trained | {name for name, moved in zip(others, moves, strict=True) if moved}


def _started(estimator: Estimator, nodes: Nodes) -> Allocator:
    """Start the estimator on φ.

    An estimator with an ``along`` method checks the residual of each example, not only their sum.
    """
    along = getattr(estimator, "along", None)
    if along is None:
        return estimator.start(nodes)
    found: Allocator = along(Path(nodes, reuse_ends=False, residual=nodes.residual))
    return found


def _judged(allocation: ExampleAllocation, converged: bool, reason: str, eps: float) -> ExampleAllocation:  # noqa: FBT001
    """Set ``converged`` and ``reason`` according to both marginal sums."""
    missed = float(np.abs(allocation.residual).sum())
    if allocation.tolerance is not None and missed > allocation.tolerance:
        reason = f"Σ|residual| of the examples > {allocation.tolerance:.3g}" if converged else reason
        converged = False
    apart = float(np.abs(allocation.group_residual).sum())
    rounding = conservation(allocation.mass, float(np.abs(allocation.loss_end).sum()), eps)
    allowed = max(rounding, allocation.tolerance or 0.0)
    if apart > allowed:
        converged = False
        reason = f"the sums over examples and the gradient differ by {apart:.3g} > {allowed:.3g}; {reason}"
    return replace(allocation, converged=converged, reason=reason)
