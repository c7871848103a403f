"""`PathIntegral`: the same quadrature rule on every step."""

from dataclasses import dataclass, replace
from typing import ClassVar

from lca.allocation import Allocator, Cost, StepAllocation
from lca.errors import LCAError
from lca.estimators.segment import Integral, Path
from lca.objective import Objective
from lca.quadrature import SIMPSON, QuadratureRule
from lca.step import Step


@dataclass(frozen=True)
class PathIntegral:
    """Integrate the gradient along each step with a fixed rule.

    ``A_i = Δ_i Σ_k w_k ∂_i L(θ_t + c_k Δ_t)``. With `SIMPSON` (= `RK4`) this is the method of Lan et
    al. 2019; with `LEFT` its first-order form.

    Parameters
    ----------
    rule
        Any `QuadratureRule`.
    tol
        If given, a step whose ``|residual|`` exceeds it (absolute, in units of the loss) is flagged
        ``converged=False``. A fixed rule cannot do anything about it; `Adaptive` can.

    Notes
    -----
    Cost a step: ``rule.new_gradients`` full gradients, plus one forward pass for open rules, which
    have no gradient at the ends that would bring the losses with it. The first step pays one more of
    its kind. Memory: O(K), for rules of any length.

    References
    ----------
    Lan, Liu, Zhou, Yosinski. LCA: Loss Change Allocation for Neural Network Training. NeurIPS 2019.

    Examples
    --------
    >>> PathIntegral(SIMPSON).cost
    Cost(full_gradients=2, full_losses=0, batch_gradients=0.0, examples=0.0)
    """

    rule: QuadratureRule = SIMPSON
    tol: float | None = None
    target: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        if not isinstance(self.rule, QuadratureRule):
            raise LCAError(
                f"PathIntegral needs a QuadratureRule, got {self.rule!r}; e.g. PathIntegral(lca.SIMPSON)."
            )
        if self.tol is not None and not self.tol > 0:
            raise LCAError(f"tol must be positive, got {self.tol}.")

    @property
    def degree(self) -> int:
        """The rule's: the allocation adds up exactly for losses of at most degree + 1 along a step."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """Declared cost of a step once the run is under way."""
        return Cost(full_gradients=self.rule.new_gradients, full_losses=int(not self.rule.closed))

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        path = Path(objective)

        def allocate_step(step: Step) -> StepAllocation:
            segment = path.segment(step, gradients=self.rule.closed)
            integral = Integral(segment)
            for node, weight in zip(self.rule.nodes, self.rule.weights, strict=True):
                integral.add(weight, segment.at(node), last_use=node < 1)  # the end is the next step's start
            return self._flag(integral.allocation())

        return allocate_step

    def _flag(self, allocation: StepAllocation) -> StepAllocation:
        if self.tol is None:
            return allocation
        met = abs(allocation.residual) <= self.tol
        return replace(
            allocation,
            tolerance=self.tol,
            converged=met,
            reason=f"|residual| {'≤' if met else '>'} {self.tol:g}",
        )
