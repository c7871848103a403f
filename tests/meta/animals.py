"""The row of the tables of the zoo, and wrappers that give a correct estimator one defect."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, Cost, PathIntegral, QuadratureRule, Step, StepAllocation
from lca.allocation import Allocator, Estimator
from lca.objective import Objective


@dataclass(frozen=True)
class Wrong:
    """A subject with one defect: where it was seen, and the check that must detect it."""

    bug: str
    check: str
    make: Callable[[], Any] = field(repr=False)


class Disguised:
    """Declares what the right estimator inside declares."""

    inner: Estimator
    target: ClassVar[str] = "full"

    @property
    def degree(self) -> int:
        return self.inner.degree

    @property
    def cost(self) -> Cost:
        return self.inner.cost


@dataclass(frozen=True)
class Altered(Disguised):
    """A correct estimator whose allocations are changed by ``change(allocation, step, objective)``."""

    change: Callable[[StepAllocation, Step, Objective], StepAllocation]
    inner: Estimator = PathIntegral(SIMPSON)

    def start(self, objective: Objective) -> Allocator:
        allocate_step = self.inner.start(objective)
        return lambda step: self.change(allocate_step(step), step, objective)


@dataclass(frozen=True)
class Through(Disguised):
    """A correct estimator whose objective is wrapped by ``wrap(objective)``."""

    wrap: Callable[[Objective], Objective]
    inner: Estimator = PathIntegral(SIMPSON)

    def start(self, objective: Objective) -> Allocator:
        return self.inner.start(self.wrap(objective))


@dataclass(frozen=True)
class Unchecked(QuadratureRule):
    """A quadrature rule without the check of its moments."""

    def _check_moments(self) -> None:
        pass


@dataclass(eq=False)
class Passing:
    """An objective that delegates to another one; subclasses override one method."""

    objective: Objective

    @property
    def layout(self):
        return self.objective.layout

    def loss(self, theta, batch=None):
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta, batch)


def with_values(a: StepAllocation, values: np.ndarray) -> StepAllocation:
    """Other values with the correct residual, so that only the values are incorrect."""
    mass = max(a.mass, float(np.abs(values).sum(dtype=np.float64)))
    return replace(a, values=values, mass=mass, residual=left(a, values))


def left(a: StepAllocation, values: np.ndarray) -> float:
    """The residual of ``values``."""
    return a.loss_end - a.loss_start - float(values.sum(dtype=np.float64))
