"""`SameBatch` and `NextBatch`: the training batches themselves as samples of the data."""

from dataclasses import dataclass
from typing import ClassVar, Self

from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.estimators.stochastic import Tally, check_required_fields
from lca.objective import Objective, at_state
from lca.quadrature import TRAPEZOID, QuadratureRule
from lca.step import Step


@dataclass(frozen=True)
class SameBatch:
    """``A = g_{B_t}(θ_t) ∘ Δ_t``: the gradient that made the step, times the step. Free, and far off.

    The batch caused the movement, so its loss falls more than that of the data: on MNIST-FC the sum over a
    run was 2 to 3 times the true change. It is the path integral of synaptic intelligence, and stands here
    for comparison. What is allocated is the loss of training itself: dropout, batch statistics and penalties
    included.

    References
    ----------
    Zenke, Poole, Ganguli. Continual Learning Through Synaptic Intelligence. ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference.models import bowl
    >>> step = Step(np.array([2.0]), np.array([1.0]), gradient=np.array([4.0]))
    >>> SameBatch().start(bowl(1))(step).values
    array([-4.])
    """

    target: ClassVar[str] = "batch"
    degree: ClassVar[int] = 0
    unbiased: ClassVar[bool] = False
    bias: ClassVar[str] = "large: the batch caused the step; and no curvature"
    cost: ClassVar[Cost] = Cost()
    required_fields: ClassVar[tuple[str, ...]] = ("gradient",)

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws nothing."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""

        def allocate_step(step: Step) -> StepAllocation:
            check_required_fields(step, self.required_fields, "SameBatch")
            tally = Tally(objective, step)
            tally.add(1.0, step.gradient)
            return tally.allocation(Cost())

        return allocate_step


@dataclass(frozen=True)
class NextBatch:
    """``A = Δ_t ∘ Σ_k w_k g_{B_{t+1}}(θ_t + c_k Δ_t)``: the batch that comes next measures the step.

    B_{t+1} had no part in Δ_t. At θ_{t+1} its gradient is the training gradient of the next step, which the
    loop hands over; at any other node it costs one gradient on a training batch. Either end alone misses the
    curvature along the step, the trapezoid of both does not.

    Parameters
    ----------
    rule
        ``LEFT``, ``RIGHT``, ``TRAPEZOID``, ``SIMPSON`` (large steps) or any other `lca.QuadratureRule`. All
        nodes are measured on the same batch.

    Notes
    -----
    With batches drawn independently, unbiased up to the rule's degree. With epochs shuffled anew, the next
    batch holds examples that have not been seen for longest, on which the last updates helped least: sums
    come out some percent too small in absolute value, more so the more the network has memorised. The right
    end is the loss of training (dropout, batch statistics, penalty), the others are the objective's.

    Examples
    --------
    >>> from lca import SIMPSON
    >>> NextBatch(TRAPEZOID).cost.batch_gradients, NextBatch(SIMPSON).cost.batch_gradients
    (1, 2)
    """

    rule: QuadratureRule = TRAPEZOID
    target: ClassVar[str] = "batch"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "the rule's; shuffled epochs: some % small"

    def __post_init__(self) -> None:
        check_rule(self.rule, "NextBatch")

    @property
    def degree(self) -> int:
        """The rule's."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """One gradient on a training batch for every node but the end."""
        return Cost(batch_gradients=sum(node < 1 for node in self.rule.nodes))

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The next batch for the nodes before the end, its training gradient for the end."""
        fields = ("next_batch",) if self.rule.nodes[0] < 1 else ()
        return (*fields, "next_gradient") if self.rule.nodes[-1] == 1 else fields

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws nothing."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""

        def allocate_step(step: Step) -> StepAllocation:
            check_required_fields(step, self.required_fields, f"NextBatch({self.rule.name})")
            tally = Tally(objective, step)
            measured = at_state(objective, step.state[0] if step.state else None)
            for node, weight in zip(self.rule.nodes, self.rule.weights, strict=True):
                if node == 1:
                    tally.add(weight, step.next_gradient)
                else:
                    theta = array_ops(step.start).between(step.start, step.end, node) if node else step.start
                    tally.add(weight, measured.loss_and_grad(theta, step.next_batch)[1])
            return tally.allocation(self.cost)

        return allocate_step


def check_rule(rule: object, name: str) -> None:
    """Raise `LCAError` unless this is a quadrature rule."""
    if not isinstance(rule, QuadratureRule):
        raise LCAError(f"{name} needs a QuadratureRule, got {rule!r}; e.g. {name}(lca.TRAPEZOID).")
