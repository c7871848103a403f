"""`PathIntegral`: the same quadrature rule on every step."""

from dataclasses import dataclass, replace
from typing import ClassVar

from lca._numbers import use_python_numbers
from lca.allocation import Allocator, Cost, StepAllocation
from lca.errors import LCAError
from lca.estimators._integral import integrate
from lca.estimators._path import Path
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
        Any `lca.QuadratureRule`.
    tol
        If given, a step whose ``|residual|`` exceeds it (absolute, in units of the loss) is flagged
        ``converged=False``. A fixed rule does not refine such a step; `Adaptive` does.

    Notes
    -----
    Exact for losses that are polynomials of degree ≤ degree + 1 along the step.

    Cost a step: ``rule.new_gradients`` full gradients, plus one forward pass for open rules, which evaluate
    no gradient at the ends and so get no losses with it. The first step costs one more of its kind. Memory:
    O(K), for rules of any length.

    Raises
    ------
    LCAError
        If ``rule`` is not a `lca.QuadratureRule`, or ``tol`` is not positive.

    References
    ----------
    Lan, Liu, Zhou, Yosinski. LCA: Loss Change Allocation for Neural Network Training. NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import Trajectory, allocate
    >>> from lca.reference import Quadratic
    >>> run = Trajectory(np.array([[1.0, 1.0], [0.0, 0.5]]))
    >>> [a] = allocate(Quadratic(np.diag([2.0, 4.0])), run, PathIntegral(SIMPSON))
    >>> a.values, a.residual, PathIntegral(SIMPSON).cost.full_gradients
    (array([-1. , -1.5]), 0.0, 2)
    """

    rule: QuadratureRule = SIMPSON
    tol: float | None = None
    target: ClassVar[str] = "full"
    vectors: ClassVar[int] = 5

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if not isinstance(self.rule, QuadratureRule):
            raise LCAError(
                f"PathIntegral needs a QuadratureRule, got {self.rule!r}; e.g. PathIntegral(lca.SIMPSON)."
            )
        if self.tol is not None and not self.tol > 0:
            raise LCAError(f"tol must be positive, got {self.tol}.")

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """Declared cost of a step once the run is under way."""
        return Cost(full_gradients=self.rule.new_gradients, full_losses=int(not self.rule.closed))

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return self.along(Path(objective))

    def along(self, path: Path) -> Allocator:
        """Begin a run whose gradients come from ``path``."""

        def allocate_step(step: Step) -> StepAllocation:
            segment = path.segment(step, gradients=self.rule.closed)
            return self._flag(integrate(segment, self.rule).allocation())

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
