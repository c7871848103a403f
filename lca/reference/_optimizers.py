"""Optimizers as pure functions: ``(state, gradient, θ) -> (state, Δ)``, where Δ is the movement to allocate.

The state is an explicit argument and result, and no argument is modified, so an update can be replayed or
repeated without one micro-batch. The formulas use only ``+ - * / **`` and therefore work on any array type.
With the same arguments they equal those of ``torch.optim``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lca._micro_batches import mean_without
from lca.arrays import Vector
from lca.errors import LCAError, UnknownNameError


class Optimizer(Protocol):
    """The interface of an optimizer: an initial state and a pure update.

    Examples
    --------
    Gradient descent in five lines; any class with these two methods can be passed to
    `lca.reference.train`:

    >>> class Descent:
    ...     def init(self, theta):
    ...         return None
    ...     def update(self, state, grad, theta):
    ...         return None, -0.1 * grad
    >>> Descent().update(None, 2.0, 1.0)[1]
    -0.2
    """

    def init(self, theta: Vector) -> Any:
        """Return the state before the first update, for parameters like ``theta`` (K,)."""

    def update(self, state: Any, grad: Vector, theta: Vector) -> tuple[Any, Vector]:
        """Return the next state and ``Δ = θ_{t+1} - θ_t`` (K,), in the dtype of ``theta``.

        ``grad`` (K,) is the gradient at ``theta`` = θ_t. None of the arguments is modified.
        """


def leave_one_out(
    optimizer: Optimizer,
    state: Any,
    gradients: Sequence[Vector],
    theta: Vector,
    *,
    sizes: Sequence[float] | None = None,
) -> tuple[Vector, ...]:
    """The leave-one-out updates Δ^{(−m)}: what ``optimizer`` would have done without micro-batch m.

    ``Δ^{(−m)} = update(state, Σ_{k≠m} n_k g_k / Σ_{k≠m} n_k, θ)``, so that g_m and Δ^{(−m)} share no example.
    The full update is evaluated, including momentum, second moment, bias correction and weight decay: a
    linearisation of Adam fails in the first steps. Cost: M element-wise updates and no gradient.

    Parameters
    ----------
    optimizer
        The optimizer of the training run.
    state
        Its state *before* the update on the whole batch; it is not modified.
    gradients
        g_m(θ), one (K,) vector for each of M ≥ 2 micro-batches, of the same array type as ``theta``.
    theta
        θ_t (K,), the parameters before the update.
    sizes
        n_m > 0, the number of examples in each micro-batch; default: equal sizes.

    Returns
    -------
    tuple of Vector
        Δ^{(−m)} (K,) for m = 0, ..., M - 1.

    Raises
    ------
    LCAError
        If there are fewer than two micro-batches, or their sizes are not M positive numbers.

    Examples
    --------
    >>> import numpy as np
    >>> sgd, theta = SGD(lr=0.5), np.zeros(1)
    >>> leave_one_out(sgd, sgd.init(theta), [np.array([2.0]), np.array([6.0])], theta)
    (array([-3.]), array([-1.]))
    """
    if len(gradients) < 2:
        raise LCAError(f"leave-one-out updates need at least two micro-batches, got {len(gradients)}.")
    sizes = [1.0] * len(gradients) if sizes is None else sizes
    if len(sizes) != len(gradients) or min(sizes) <= 0:
        raise LCAError(f"{len(gradients)} micro-batches need as many sizes > 0, got {list(sizes)}.")
    updates = []
    for left_out in range(len(gradients)):
        update = optimizer.update(state, mean_without(left_out, gradients, sizes), theta)[1]
        updates.append(update)
    return tuple(updates)


def update_slope(optimizer: Optimizer, state: Any, gradient: Vector, theta: Vector) -> Vector | float:
    """How the update that ``optimizer`` is about to make depends on its gradient (`lca.Step.update_slope`).

    Parameters
    ----------
    optimizer
        The optimizer of the training run, with a method ``slope`` like those of this module.
    state
        Its state *before* the update; it is not modified.
    gradient
        g (K,), with which the update is made.
    theta
        θ_t (K,), the parameters before the update.

    Returns
    -------
    Vector or float
        C in ``Δ = b + C ∘ g``, the same for all parameters if it is a number.

    Raises
    ------
    LCAError
        If the optimizer has no method ``slope``.

    Examples
    --------
    >>> import numpy as np
    >>> sgd, theta = SGD(lr=0.5, momentum=0.9), np.zeros(1)
    >>> update_slope(sgd, sgd.init(theta), np.ones(1), theta)
    -0.5
    """
    slope = getattr(optimizer, "slope", None)
    if slope is None:
        raise LCAError(
            f"how the updates of {type(optimizer).__name__} depend on their gradient is unknown; give it a "
            "method slope(state, grad, theta) that returns C in Δ = b + C ∘ grad, or use another estimator "
            "(lca.estimators.CrossFit)."
        )
    found: Vector | float = slope(state, gradient, theta)
    return found


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum μ, without dampening, as ``torch.optim.SGD``.

    ``v ← μ v + g``; ``Δ = -lr v``, or with Nesterov momentum ``Δ = -lr (g + μ v)``. v starts at 0 and is the
    optimizer's state.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    momentum
        μ in [0, 1).
    nesterov
        Use Nesterov momentum (Sutskever et al. 2013); needs μ > 0.

    Raises
    ------
    LCAError
        If an argument is outside its range.

    Examples
    --------
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
            raise LCAError(
                "Nesterov momentum needs momentum > 0, got 0; pass momentum=0.9 or nesterov=False."
            )

    def init(self, theta: Vector) -> Vector:
        return 0 * theta

    def update(self, state: Vector, grad: Vector, theta: Vector) -> tuple[Vector, Vector]:
        velocity = self.momentum * state + grad
        return velocity, -self.lr * (grad + self.momentum * velocity if self.nesterov else velocity)

    def slope(self, state: Vector, grad: Vector, theta: Vector) -> Vector | float:
        """``-lr``, or with Nesterov momentum ``-lr (1 + μ)``; as in `update_slope`."""
        return -self.lr * (1 + self.momentum if self.nesterov else 1)


@dataclass(frozen=True)
class RMSProp:
    """RMSProp (Tieleman & Hinton 2012), as ``torch.optim.RMSprop``.

    ``v ← α v + (1 - α) g²``; ``Δ = -lr g / (√v + ε)``. v starts at 0 and is the optimizer's state.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    alpha
        α in [0, 1), the decay rate of the mean of squared gradients.
    eps
        ε > 0, added to the root.

    Raises
    ------
    LCAError
        If an argument is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> rmsprop, theta = RMSProp(lr=0.1, alpha=0.75, eps=1e-300), np.array([1.0])
    >>> square, delta = rmsprop.update(rmsprop.init(theta), np.array([4.0]), theta)
    >>> square, delta  # ¼ · 4², and -0.1 · 4 / 2
    (array([4.]), array([-0.2]))
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

    def slope(self, state: Vector, grad: Vector, theta: Vector) -> Vector | float:
        """``-lr / (√v + ε)`` with the v of the update; as in `update_slope`."""
        square = self.update(state, grad, theta)[0]
        return -self.lr / (square**0.5 + self.eps)


@dataclass(frozen=True, eq=False)
class AdamState:
    """The state of `Adam` and `AdamW`: t, m and v.

    Attributes
    ----------
    count
        t, the number of updates made so far.
    mean, square
        m and v (K,), the exponential moving averages of g and g², without bias correction.
    """

    count: int
    mean: Vector
    square: Vector


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980), as ``torch.optim.Adam``.

    ``m ← β₁ m + (1 - β₁) g``; ``v ← β₂ v + (1 - β₂) g²``; ``Δ = -lr m̂ / (√v̂ + ε)`` with the bias corrections
    ``m̂ = m / (1 - β₁^t)`` and ``v̂ = v / (1 - β₂^t)`` at update t = 1, 2, .... The state is an ``AdamState``.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    beta1, beta2
        β₁ and β₂ in [0, 1), the decay rates of the two moving averages.
    eps
        ε > 0, added after the bias correction.

    Raises
    ------
    LCAError
        If an argument is outside its range.

    Examples
    --------
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

    def slope(self, state: AdamState, grad: Vector, theta: Vector) -> Vector | float:
        """``-lr (1 - β₁) / ((1 - β₁^t) (√v̂ + ε))`` with the v̂ of the update; as in `update_slope`."""
        after = self.update(state, grad, theta)[0]
        rms = after.square**0.5 / (1 - self.beta2**after.count) ** 0.5
        rate = -self.lr * (1 - self.beta1) / (1 - self.beta1**after.count)
        return rate / (rms + self.eps)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay λ, as ``torch.optim.AdamW``: ``Δ = Δ_Adam - lr λ θ``.

    The decay is part of the movement Δ and not of the loss, so it has no gradient of its own: its effect
    is allocated through the measured loss like that of any other movement (Loshchilov & Hutter 2019,
    arXiv 1711.05101).

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in `Adam`.
    weight_decay
        λ ≥ 0.

    Raises
    ------
    LCAError
        If an argument is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> adamw, theta = AdamW(lr=0.5, weight_decay=0.1), np.array([2.0])
    >>> adamw.update(adamw.init(theta), np.array([0.0]), theta)[1]  # no gradient: the decay alone
    array([-0.1])
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        self._adam()  # validates the arguments that Adam has too
        if not 0 <= self.weight_decay < float("inf"):
            raise LCAError(f"weight_decay must be a finite number ≥ 0, got {self.weight_decay!r}.")

    def _adam(self) -> Adam:
        return Adam(self.lr, self.beta1, self.beta2, self.eps)

    def init(self, theta: Vector) -> AdamState:
        return self._adam().init(theta)

    def update(self, state: AdamState, grad: Vector, theta: Vector) -> tuple[AdamState, Vector]:
        state, delta = self._adam().update(state, grad, theta)
        return state, delta - self.lr * self.weight_decay * theta

    def slope(self, state: AdamState, grad: Vector, theta: Vector) -> Vector | float:
        """The slope of Adam, as the decay does not depend on the gradient; as in `update_slope`."""
        return self._adam().slope(state, grad, theta)


def make_optimizer(name: str, lr: float | None = None) -> Optimizer:
    """Create an optimizer by name, with its usual settings.

    Parameters
    ----------
    name
        ``"sgd"``, ``"momentum"`` and ``"nesterov"`` (`SGD` with μ = 0.9), ``"rmsprop"``, ``"adam"`` or
        ``"adamw"``.
    lr
        Learning rate, > 0. The default is 0.1 for ``sgd``, 0.05 for ``momentum`` and ``nesterov``, 0.001 for
        ``rmsprop`` and 0.002 for ``adam`` and ``adamw``.

    Raises
    ------
    UnknownNameError
        If there is no optimizer of this name; the message lists the names.
    LCAError
        If ``lr`` is not a finite number > 0.

    Examples
    --------
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
        raise LCAError(f"{name} must be in [0, 1), got {value!r}.")
