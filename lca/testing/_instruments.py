"""Wrappers around an objective that record or disturb what an estimator does with it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lca.allocation import Cost
from lca.layout import Layout
from lca.objective import Batch, Objective, Selective, State, Stateful, Sum
from lca.testing._report import CheckFailure

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


@dataclass(eq=False)
class OddGradient:
    """The same loss, except that one entry of one gradient is ``value``: that of call number ``call``."""

    objective: Objective
    call: int
    entry: int
    value: float

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta, batch)
        if self.call == 0:
            grad = grad.copy()
            grad[self.entry] = self.value
        self.call -= 1
        return loss, grad


@dataclass(eq=False)
class Meter:
    """How many evaluations of an objective are left in a step; ``reset`` at the beginning of each."""

    limit: int
    spent: int = 0

    def reset(self) -> None:
        self.spent = 0

    def count(self) -> None:
        """Raise `CheckFailure` instead of letting a step go on for ever."""
        self.spent += 1
        if self.spent > self.limit:
            raise CheckFailure(
                f"a step evaluated the loss more than {self.limit:,} times, with no end in sight; stop at a "
                "largest number of gradients, and return converged=False. If a step may cost as much, "
                "declare it as largest_cost."
            )


@dataclass(frozen=True, eq=False)
class _Limited:
    """The same loss, whose evaluations are counted by ``meter``."""

    objective: Any
    meter: Meter

    @property
    def layout(self) -> Layout:
        layout: Layout = self.objective.layout
        return layout

    def loss(self, *given: Any, **named: Any) -> float:
        self.meter.count()
        loss: float = self.objective.loss(*given, **named)
        return loss

    def loss_and_grad(self, *given: Any, **named: Any) -> tuple[float, Array]:
        self.meter.count()
        found: tuple[float, Array] = self.objective.loss_and_grad(*given, **named)
        return found


class _LimitedStateful(_Limited):
    def state(self) -> State | None:
        state: State | None = self.objective.state()
        return state

    def at_state(self, state: State) -> _Limited:
        return _Limited(self.objective.at_state(state), self.meter)


class _LimitedSelective(_Limited):
    @property
    def differentiated(self) -> frozenset[str]:
        names: frozenset[str] = self.objective.differentiated
        return names

    def differentiating(self, names: Collection[str]) -> _Limited:
        return _LimitedSelective(self.objective.differentiating(names), self.meter)


def limited(objective: Objective, meter: Meter) -> Objective:
    """The same objective, with its state and its terms, whose evaluations are counted."""
    if isinstance(objective, Sum):
        return Sum({name: limited(term, meter) for name, term in objective.terms.items()})
    if isinstance(objective, Stateful):
        return _LimitedStateful(objective, meter)
    return (_LimitedSelective if isinstance(objective, Selective) else _Limited)(objective, meter)


@dataclass(frozen=True, eq=False)
class Staircase:
    """``height · ⌊a·θ⌋``, whose gradient is 0 at every point: no rule finds the change of the loss."""

    direction: Array
    height: float
    layout: Layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.height * float(np.floor(self.direction @ theta.astype(np.float64)))

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        return self.loss(theta), np.zeros_like(theta)


@dataclass(frozen=True, eq=False)
class Ripples:
    """``height · sin(10^6 a·θ)``, of which nodes see nothing but noise: no two rules agree."""

    direction: Array
    height: float
    layout: Layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.height * float(np.sin(1e6 * (self.direction @ theta.astype(np.float64))))

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        slope = self.height * 1e6 * float(np.cos(1e6 * (self.direction @ theta.astype(np.float64))))
        return self.loss(theta), (slope * self.direction).astype(theta.dtype)
