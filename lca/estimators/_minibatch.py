"""`SameBatch` and `NextBatch`: the training batches themselves as samples of the data."""

from dataclasses import dataclass
from math import nan
from typing import ClassVar, Self

from lca.allocation import Allocator, Cost, StepAllocation
from lca.errors import LCAError
from lca.estimators._checks import check_trained
from lca.estimators._integral import integrate
from lca.estimators._path import Path, Point
from lca.estimators._stochastic import check_required_fields
from lca.objective import Evaluation, Objective
from lca.quadrature import LEFT, TRAPEZOID, QuadratureRule
from lca.step import Step


@dataclass(frozen=True)
class SameBatch:
    """``A = g_{B_t}(θ_t) ∘ Δ_t``: the training gradient times the update. No extra cost, strongly biased.

    The batch caused the update, so its loss falls more than that of the data: on MNIST-FC the sum over a run
    was 2 to 3 times the true change. This is the path integral of synaptic intelligence, offered for
    comparison.

    Notes
    -----
    Requires ``Step.gradient``. The loss allocated is that of training itself: dropout, batch statistics and
    penalties included.

    Raises
    ------
    IncompleteStepError
        If a step has no ``gradient``.

    References
    ----------
    Zenke, Poole, Ganguli. Continual Learning Through Synaptic Intelligence. ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import bowl
    >>> step = Step(np.array([2.0]), np.array([1.0]), gradient=np.array([4.0]))
    >>> SameBatch().start(bowl(1))(step).values
    array([-4.])
    """

    target: ClassVar[str] = "batch"
    vectors: ClassVar[int] = 3
    degree: ClassVar[int] = LEFT.degree
    unbiased: ClassVar[bool] = False
    bias: ClassVar[str] = "large: the batch caused the step; and no curvature"
    cost: ClassVar[Cost] = Cost()
    required_fields: ClassVar[tuple[str, ...]] = ("gradient",)
    citation: ClassVar[str] = """@inproceedings{zenke2017synaptic,
  title     = {Continual Learning Through Synaptic Intelligence},
  author    = {Zenke, Friedemann and Poole, Ben and Ganguli, Surya},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  pages     = {3987--3995},
  year      = {2017}
}"""

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws no random numbers."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        path = Path(objective, training_gradient, sampled=True, reuse_ends=False)

        def allocate_step(step: Step) -> StepAllocation:
            check_required_fields(step, self.required_fields, "SameBatch")
            segment = path.segment(step)
            check_trained(step, segment.untrained)
            return integrate(segment, LEFT).allocation()

        return allocate_step


@dataclass(frozen=True)
class NextBatch:
    """``A = Δ_t ∘ Σ_k w_k g_{B_{t+1}}(θ_t + c_k Δ_t)``: the path integral on the batch of the next step.

    That batch did not cause the step. Its gradient at θ_{t+1} is the next step's own and costs nothing.
    Either end alone is off by the curvature along the step; the trapezoid of both is not.

    Parameters
    ----------
    rule
        ``LEFT``, ``RIGHT``, ``TRAPEZOID``, ``SIMPSON`` (for large steps) or any other `lca.QuadratureRule`.
        All nodes are evaluated on the same batch.

    Notes
    -----
    Cost a step: one gradient on a training batch for each node before the end.

    Unbiased up to the rule's degree if batches are drawn independently of each other. With shuffled epochs
    the next batch holds the examples that have not been seen for longest, which the last updates helped
    least: sums come out some percent too small in absolute value, more so the more the network memorises.
    If batches are not in random order at all, even signs are wrong: domains or tasks that take turns, a time
    series in its order, a loader that does not shuffle. Trackers warn of updates that have gradients of
    different parameters in turn.
    The right end allocates the loss of training (dropout, batch statistics, penalty), the other nodes that
    of the objective.

    Raises
    ------
    LCAError
        If ``rule`` is not a `lca.QuadratureRule`.
    IncompleteStepError
        If a step lacks one of `required_fields`.

    Examples
    --------
    >>> from lca import SIMPSON
    >>> NextBatch(TRAPEZOID).cost.batch_gradients, NextBatch(SIMPSON).cost.batch_gradients
    (1, 2)
    """

    rule: QuadratureRule = TRAPEZOID
    target: ClassVar[str] = "batch"
    vectors: ClassVar[int] = 6
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "error of the rule; a few % small in shuffled epochs"

    def __post_init__(self) -> None:
        check_rule(self.rule, "NextBatch")

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """One gradient on a training batch for each node before the end."""
        return Cost(batch_gradients=sum(node < 1 for node in self.rule.nodes))

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The next batch for nodes before the end, its training gradient for the end."""
        fields = ("next_batch",) if self.rule.nodes[0] < 1 else ()
        return (*fields, "next_gradient") if self.rule.nodes[-1] == 1 else fields

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws no random numbers."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        path = Path(objective, next_batch_gradient, sampled=True, reuse_ends=False)

        def allocate_step(step: Step) -> StepAllocation:
            check_required_fields(step, self.required_fields, f"NextBatch({self.rule.name})")
            segment = path.segment(step)
            if "next_gradient" in self.required_fields:
                check_trained(step, segment.untrained)
            return integrate(segment, self.rule).allocation()

        return allocate_step


def training_gradient(objective: Objective, point: Point) -> tuple[Evaluation, Cost]:
    """The gradient of training at an end of the step, which costs nothing (`GradientAt`)."""
    step = point.step
    return Evaluation(nan, step.next_gradient if point.s else step.gradient), Cost()


def next_batch_gradient(objective: Objective, point: Point) -> tuple[Evaluation, Cost]:
    """The gradient on the next batch; at the end of the step it is the one of training (`GradientAt`)."""
    if point.s == 1:
        return training_gradient(objective, point)
    _, gradient = objective.loss_and_grad(point.theta, point.step.next_batch)
    return Evaluation(nan, gradient), Cost(batch_gradients=1)


def check_rule(rule: object, name: str) -> None:
    """Raise `LCAError` unless ``rule``, given to the estimator ``name``, is a quadrature rule."""
    if not isinstance(rule, QuadratureRule):
        raise LCAError(f"{name} needs a QuadratureRule, got {rule!r}; e.g. {name}(lca.TRAPEZOID).")
