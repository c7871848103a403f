"""Wrappers around an objective that record or disturb what an estimator does with it."""

from dataclasses import dataclass, field

import numpy as np

from lca.allocation import Cost
from lca.layout import Layout
from lca.objective import Batch, Objective

Array = np.ndarray


@dataclass(eq=False)
class CountingObjective:
    """Counts the evaluations of an objective, and records their points (``points``, θ as bytes)."""

    objective: Objective
    cost: Cost = field(default_factory=Cost)
    points: list[bytes] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        self._note(theta, Cost(full_losses=1))
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self._note(theta, Cost(full_gradients=1) if batch is None else Cost(batch_gradients=1))
        return self.objective.loss_and_grad(theta, batch)

    def _note(self, theta: Array, cost: Cost) -> None:
        self.cost += cost
        self.points.append(theta.tobytes())


@dataclass(frozen=True, eq=False)
class Reparametrized:
    """The same loss with parameters permuted and rescaled: ``L'(φ) = L(θ)`` with ``φ_j = c_j θ_{p_j}``.

    ``order`` is p (K,), a permutation, and ``units`` is c (K,).
    """

    objective: Objective
    order: Array
    units: Array
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(("reparametrized",), ((self.objective.layout.size,),)))

    def forward(self, values: Array) -> Array:
        """Convert θ (..., K) to φ."""
        coordinates: Array = values[..., self.order] * self.units
        return coordinates

    def _theta(self, phi: Array) -> Array:
        theta = np.empty_like(phi)
        theta[self.order] = phi / self.units
        return theta

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(self._theta(theta), batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(self._theta(theta), batch)
        return loss, grad[self.order] / self.units


@dataclass(frozen=True, eq=False)
class WithUnusedTensor:
    """The same loss with an additional tensor, ``unused.weight``, that it does not depend on."""

    objective: Objective
    size: int
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        inner = self.objective.layout
        layout = Layout((*inner.names, "unused.weight"), (*inner.shapes, (self.size,)))
        object.__setattr__(self, "layout", layout)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta[: -self.size], batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta[: -self.size], batch)
        return loss, np.append(grad, np.zeros(self.size, grad.dtype))


@dataclass(frozen=True, eq=False)
class WithQuadraticTensor:
    """``L(θ) + ½‖φ‖²`` with an additional tensor φ, ``quadratic.weight``, whose gradient is linear."""

    objective: Objective
    size: int
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        inner = self.objective.layout
        layout = Layout((*inner.names, "quadratic.weight"), (*inner.shapes, (self.size,)))
        object.__setattr__(self, "layout", layout)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        phi = theta[-self.size :].astype(np.float64)
        return self.objective.loss(theta[: -self.size], batch) + float(phi @ phi) / 2

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        _, grad = self.objective.loss_and_grad(theta[: -self.size], batch)
        return self.loss(theta, batch), np.append(grad, theta[-self.size :])


@dataclass(eq=False)
class NonFiniteObjective:
    """Returns non-finite numbers after ``after`` evaluations.

    With ``what="gradient"``, entry ``entry`` of each later gradient is NaN; with ``what="loss"``, each later
    loss is infinite.
    """

    objective: Objective
    what: str
    entry: int
    after: int
    calls: int = 0

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return float("inf") if self._failing() and self.what == "loss" else self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta, batch)
        if self._failing():
            if self.what == "loss":
                return float("inf"), grad
            grad = grad.copy()
            grad[self.entry] = np.nan
        return loss, grad

    def _failing(self) -> bool:
        self.calls += 1
        return self.calls > self.after
