"""What the zoo is made of: the row of its tables, and two ways to get one thing wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, Cost, PathIntegral, QuadratureRule, Step, StepAllocation
from lca.allocation import Allocator, Estimator
from lca.objective import Objective


@dataclass(frozen=True)
class Wrong:
    """Something with one bug: where it was met, and the check that must reject it."""

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
    """A right estimator whose allocations go through ``change(allocation, step, objective)``."""

    change: Callable[[StepAllocation, Step, Objective], StepAllocation]
    inner: Estimator = PathIntegral(SIMPSON)

    def start(self, objective: Objective) -> Allocator:
        allocate_step = self.inner.start(objective)
        return lambda step: self.change(allocate_step(step), step, objective)


@dataclass(frozen=True)
class Through(Disguised):
    """A right estimator that sees the objective through ``wrap(objective)``."""

    wrap: Callable[[Objective], Objective]
    inner: Estimator = PathIntegral(SIMPSON)

    def start(self, objective: Objective) -> Allocator:
        return self.inner.start(self.wrap(objective))


@dataclass(frozen=True)
class Unchecked(QuadratureRule):
    """A rule that believes any numbers; `QuadratureRule` refuses the wrong ones when built."""

    def _check_moments(self) -> None:
        pass


@dataclass(eq=False)
class Passing:
    """An objective that passes everything on; a wrong one overrides one thing."""

    objective: Objective

    @property
    def layout(self):
        return self.objective.layout

    def loss(self, theta, batch=None):
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta, batch)


def with_values(a: StepAllocation, values: np.ndarray) -> StepAllocation:
    """Other values with an honest residual, so that the values are all that is wrong."""
    mass = max(a.mass, float(np.abs(values).sum(dtype=np.float64)))
    return replace(a, values=values, mass=mass, residual=left(a, values))


def left(a: StepAllocation, values: np.ndarray) -> float:
    """What ``values`` leave of the loss change."""
    return a.loss_end - a.loss_start - float(values.sum(dtype=np.float64))
