"""Optimizers as pure updates: ``(state, gradient, θ) -> (state, Δ)``, the movement that LCA allocates.

Nothing is changed in place and nothing is remembered but the state that goes in and comes out, so a step
can be replayed or made without one micro-batch. Only ``+ - * / **`` are used: the same code runs on any
array type. All forms equal those of ``torch.optim`` with the same arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lca.arrays import Vector
from lca.errors import LCAError, UnknownNameError


class Optimizer(Protocol):
    """What a training loop required_fields: where to start, and one update."""

    def init(self, theta: Vector) -> Any:
        """The state before the first update."""

    def update(self, state: Any, grad: Vector, theta: Vector) -> tuple[Any, Vector]:
        """The next state and Δ = θ_{t+1} - θ_t, from the gradient at θ_t; all three arguments stay."""


def leave_one_out(
    optimizer: Optimizer,
    state: Any,
    gradients: Sequence[Vector],
    theta: Vector,
    *,
    sizes: Sequence[float] | None = None,
) -> tuple[Vector, ...]:
    """Δ^{(−m)} for each micro-batch m: the update that ``optimizer`` would have made without it.

    ``Δ^{(−m)} = update(state, Σ_{k≠m} n_k g_k / Σ_{k≠m} n_k, θ)``: g_m and Δ^{(−m)} share no example. It is
    the real update, momentum, running squares, bias correction and decay included: Adam's linearised form
    fails in its first steps. Element-wise work, one update a micro-batch; nothing is changed.

    Parameters
    ----------
    state
        The optimizer's state *before* the update that all micro-batches make together.
    gradients
        g_m(θ), (K,) each; of the same kind as ``theta``.
    sizes
        n_m, examples in each micro-batch; default: all alike.

    Raises
    ------
    LCAError
        If there are fewer than two micro-batches, or not one positive size for each.

    Examples
    --------
    >>> import numpy as np
    >>> sgd, theta = SGD(lr=0.5), np.zeros(1)
    >>> leave_one_out(sgd, sgd.init(theta), [np.array([2.0]), np.array([6.0])], theta)
    (array([-3.]), array([-1.]))
    """
    if len(gradients) < 2:
        raise LCAError(f"leaving one out needs at least two micro-batches, got {len(gradients)}.")
    sizes = [1.0] * len(gradients) if sizes is None else sizes
    if len(sizes) != len(gradients) or min(sizes) <= 0:
        raise LCAError(f"{len(gradients)} micro-batches need as many sizes > 0, got {list(sizes)}.")
    updates = []
    for left_out in range(len(gradients)):
        update = optimizer.update(state, mean_without(left_out, gradients, sizes), theta)[1]
        updates.append(update)
    return tuple(updates)


def mean_gradient(gradients: Sequence[Vector], sizes: Sequence[float], which: Sequence[int]) -> Vector:
    """``Σ_{m in which} n_m g_m / Σ_{m in which} n_m``, a new vector."""
    total = sum(sizes[m] for m in which)
    first, *rest = which
    mean = sizes[first] / total * gradients[first]
    for m in rest:
        mean = mean + sizes[m] / total * gradients[m]
    return mean


def mean_without(left_out: int, gradients: Sequence[Vector], sizes: Sequence[float]) -> Vector:
    """`mean_gradient` of all but one; of two, the other one itself.

    >>> mean_without(0, [1.0, 2.0, 4.0], [1, 3, 1])
    2.5
    """
    others = [m for m in range(len(gradients)) if m != left_out]
    return gradients[others[0]] if len(others) == 1 else mean_gradient(gradients, sizes, others)


@dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum μ in the undamped form.

    ``v ← μ v + g``; ``Δ = -lr v``, or with Nesterov ``Δ = -lr (g + μ v)``. The first v is the first
    gradient. The state is v. As ``torch.optim.SGD``.

    >>> import numpy as np
    >>> sgd, theta = SGD(lr=0.1, momentum=0.5), np.array([1.0])
    >>> velocity, delta = sgd.update(sgd.init(theta), np.array([2.0]), theta)
    >>> velocity, delta
    (array([2.]), array([-0.2]))
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_positive("lr", self.lr)
        _check_fraction("momentum", self.momentum)
        if self.nesterov and self.momentum == 0:
            raise LCAError("Nesterov's form needs momentum > 0, got 0; pass momentum=0.9 or nesterov=False.")

    def init(self, theta: Vector) -> Vector:
        return 0 * theta

    def update(self, state: Vector, grad: Vector, theta: Vector) -> tuple[Vector, Vector]:
        velocity = self.momentum * state + grad
        return velocity, -self.lr * (grad + self.momentum * velocity if self.nesterov else velocity)


@dataclass(frozen=True)
class RMSProp:
    """``v ← α v + (1 - α) g²``; ``Δ = -lr g / (√v + ε)``.

    v starts at 0 and is its own state. As ``torch.optim.RMSprop`` (Tieleman & Hinton 2012).
    """

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_positive("lr", self.lr)
        _check_fraction("alpha", self.alpha)
        _check_positive("eps", self.eps)

    def init(self, theta: Vector) -> Vector:
        return 0 * theta

    def update(self, state: Vector, grad: Vector, theta: Vector) -> tuple[Vector, Vector]:
        square = self.alpha * state + (1 - self.alpha) * grad * grad
        return square, -self.lr * grad / (square**0.5 + self.eps)


@dataclass(frozen=True, eq=False)
class AdamState:
    """Updates made so far, and the running means of g and g²."""

    count: int
    mean: Vector
    square: Vector


@dataclass(frozen=True)
class Adam:
    """``m ← β₁ m + (1 - β₁) g``; ``v ← β₂ v + (1 - β₂) g²``; ``Δ = -lr m̂ / (√v̂ + ε)``.

    ``m̂ = m / (1 - β₁^t)`` and ``v̂ = v / (1 - β₂^t)`` at the t-th update, t = 1, 2, ...; ε is added after
    the correction. As ``torch.optim.Adam`` (Kingma & Ba 2015, arXiv 1412.6980).

    >>> import numpy as np
    >>> adam, theta = Adam(lr=0.5, eps=1e-300), np.array([0.0, 0.0])
    >>> adam.update(adam.init(theta), np.array([4.0, -0.25]), theta)[1]  # a first step has size lr
    array([-0.5,  0.5])
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_positive("lr", self.lr)
        _check_fraction("beta1", self.beta1)
        _check_fraction("beta2", self.beta2)
        _check_positive("eps", self.eps)

    def init(self, theta: Vector) -> AdamState:
        return AdamState(0, 0 * theta, 0 * theta)

    def update(self, state: AdamState, grad: Vector, theta: Vector) -> tuple[AdamState, Vector]:
        count = state.count + 1
        mean = self.beta1 * state.mean + (1 - self.beta1) * grad
        square = self.beta2 * state.square + (1 - self.beta2) * grad * grad
        rms = square**0.5 / (1 - self.beta2**count) ** 0.5
        delta = -self.lr / (1 - self.beta1**count) * mean / (rms + self.eps)
        return AdamState(count, mean, square), delta


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay λ: ``Δ = Δ_Adam - lr λ θ``.

    The decay is movement, not loss: it shows up in Δ and not in the measured gradient. As
    ``torch.optim.AdamW`` (Loshchilov & Hutter 2019, arXiv 1711.05101).
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        self._adam()  # checks what the two share
        if not 0 <= self.weight_decay < float("inf"):
            raise LCAError(f"weight_decay must be a finite number ≥ 0, got {self.weight_decay!r}.")

    def _adam(self) -> Adam:
        return Adam(self.lr, self.beta1, self.beta2, self.eps)

    def init(self, theta: Vector) -> AdamState:
        return self._adam().init(theta)

    def update(self, state: AdamState, grad: Vector, theta: Vector) -> tuple[AdamState, Vector]:
        state, delta = self._adam().update(state, grad, theta)
        return state, delta - self.lr * self.weight_decay * theta


def make_optimizer(name: str, lr: float | None = None) -> Optimizer:
    """The optimizer called ``name``, with its usual settings and learning rate ``lr``.

    ``sgd`` (0.1), ``momentum`` and ``nesterov`` (0.05, μ = 0.9), ``rmsprop`` (0.001), ``adam`` and
    ``adamw`` (0.002); in brackets the learning rate when ``lr`` is None.

    Raises
    ------
    UnknownNameError
        If the name is none of these.

    >>> make_optimizer("momentum")
    SGD(lr=0.05, momentum=0.9, nesterov=False)
    """
    known: dict[str, Optimizer] = {
        "sgd": SGD(_default(lr, 0.1)),
        "momentum": SGD(_default(lr, 0.05), momentum=0.9),
        "nesterov": SGD(_default(lr, 0.05), momentum=0.9, nesterov=True),
        "rmsprop": RMSProp(_default(lr, 0.001)),
        "adam": Adam(_default(lr, 0.002)),
        "adamw": AdamW(_default(lr, 0.002)),
    }
    if name not in known:
        raise UnknownNameError("optimizer", name, known)
    return known[name]


def _default(lr: float | None, usual: float) -> float:
    return usual if lr is None else lr


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise LCAError(f"{name} must be a finite number > 0, got {value!r}.")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise LCAError(f"{name} must lie in [0, 1), got {value!r}.")
