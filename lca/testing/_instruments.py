"""Wrappers around an objective that record or disturb what an estimator does with it."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from lca.allocation import Cost
from lca.layout import Layout
from lca.objective import Batch, Objective, State

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


@dataclass(frozen=True, eq=False)
class Affine:
    """``factor · L(θ) + offset``."""

    objective: Objective
    factor: float
    offset: float
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", self.objective.layout)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.factor * self.objective.loss(theta, batch) + self.offset

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta, batch)
        return self.factor * loss + self.offset, self.factor * grad


@dataclass(frozen=True, eq=False)
class Scheduled:
    """``c · L(θ) + b``, where c and b are a state that moves in training; ``now`` is that of the model."""

    objective: Objective
    now: State
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", self.objective.layout)

    def state(self) -> State:
        return dict(self.now)

    def at_state(self, state: State) -> Affine:
        return Affine(self.objective, float(state["factor"][0]), float(state["shift"][0]))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.at_state(self.now).loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        return self.at_state(self.now).loss_and_grad(theta, batch)


@dataclass(frozen=True, eq=False)
class Partial:
    """The same loss with the gradient of the tensors ``differentiated`` only (`lca.objective.Selective`)."""

    objective: Objective
    differentiated: frozenset[str]
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", self.objective.layout)

    def differentiating(self, names: Collection[str]) -> "Partial":
        return Partial(self.objective, frozenset(names))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta, batch)
        for name, tensor in self.layout.unflatten(grad).items():
            if name not in self.differentiated:
                tensor[...] = 0
        return loss, grad


@dataclass(eq=False)
class NonFiniteAt:
    """The same loss, except that it is not finite at one point (θ as bytes).

    With ``what="gradient"``, entry ``entry`` of the gradient there is ``value``; with ``what="loss"``, the
    loss there is.
    """

    objective: Objective
    point: bytes
    what: str
    entry: int
    value: float

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.value if self._is_at(theta, "loss") else self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta, batch)
        if self._is_at(theta, "gradient"):
            grad = grad.copy()
            grad[self.entry] = self.value
        return self.value if self._is_at(theta, "loss") else loss, grad

    def _is_at(self, theta: Array, what: str) -> bool:
        return self.what == what and theta.tobytes() == self.point
