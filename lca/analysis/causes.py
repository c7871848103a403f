"""What moved the parameters: this batch's gradient, the memory of older ones, or weight decay?

An optimizer's movement is a sum of three parts, and an allocation is linear in the movement, so it splits
in the same way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from lca.errors import LCAError, NonFiniteError
from lca.reference.optimizers import SGD, Adam, AdamState, AdamW, Optimizer, RMSProp


@dataclass(frozen=True, eq=False)
class Causes:
    """Three vectors (K,) that add up to a movement, or to an allocation.

    Attributes
    ----------
    batch
        Due to the gradient of the batch of this step.
    momentum
        Due to the gradients of earlier steps.
    decay
        Due to weight decay inside the optimizer.
    """

    batch: np.ndarray
    momentum: np.ndarray
    decay: np.ndarray

    def total(self) -> np.ndarray:
        """The sum of the three."""
        return np.asarray(self.batch + self.momentum + self.decay)


def movement_causes(
    optimizer: Optimizer, gradients: Iterable[np.ndarray], thetas: Iterable[np.ndarray]
) -> Iterator[Causes]:
    """Split every movement of a run into its `Causes`, by making the run's updates again.

    ========== ============================= ============================== ==========
    optimizer  batch                         momentum                       decay
    ========== ============================= ============================== ==========
    SGD        ``-lr g``                     ``-lr μ v``                    0
    Nesterov   ``-lr (1 + μ) g``             ``-lr μ² v``                   0
    RMSProp    all                           0                              0
    Adam       ``-a (1 - β₁) g``             ``-a β₁ m``                    0
    AdamW      as Adam                       as Adam                        ``-lr λ θ``
    ========== ============================= ============================== ==========

    v and m are the optimizer's state *before* the step, and ``a = lr / ((1 - β₁^t) (√v̂ + ε))``. Adam and
    RMSProp divide by a mean square that has this batch in it; the split is of what is divided.

    Parameters
    ----------
    optimizer
        One of `lca.reference.optimizers`, with the settings of the run.
    gradients, thetas
        Of each step from the very first: the gradient that the optimizer was given, and θ_t; rows of (T, K)
        arrays, or anything that yields (K,). All steps are needed, as the memory is made from them.

    Yields
    ------
    Causes
        Of Δ_t; the three add up to what the optimizer did, up to rounding.

    Raises
    ------
    LCAError
        If the optimizer is another one, or there are not as many gradients as θ.

    Examples
    --------
    >>> gradients, thetas = np.array([[1.0], [1.0]]), np.array([[0.0], [-0.1]])
    >>> for cause in movement_causes(SGD(lr=0.1, momentum=0.5), gradients, thetas):
    ...     print(cause.batch, cause.momentum, cause.total())
    [-0.1] [-0.] [-0.1]
    [-0.1] [-0.05] [-0.15]
    """
    if not isinstance(optimizer, (SGD, RMSProp, Adam, AdamW)):
        raise LCAError(
            f"the movement of {type(optimizer).__name__} cannot be split; SGD, RMSProp, Adam and AdamW of "
            "lca.reference.optimizers can."
        )
    return _replay(optimizer, gradients, thetas)


def allocate_causes(causes: Causes, mean_gradient: np.ndarray) -> Causes:
    """Split an allocation by cause: ``A^c_i = Δ^c_i ∫₀¹ ∂_i L(θ_t + s Δ_t) ds``; the three add up to A.

    Parameters
    ----------
    causes
        Of the movement of the step.
    mean_gradient
        The integral, shape (K,): `lca.analysis.mean_gradient` of A and Δ. It may be NaN where the causes
        are all 0.

    Raises
    ------
    NonFiniteError
        If causes cancelled exactly in a parameter: it did not move, and A says nothing about its gradient.

    Examples
    --------
    >>> moved = Causes(np.array([-1.0, 0.0]), np.array([-0.5, 0.0]), np.array([0.25, 0.0]))
    >>> allocate_causes(moved, np.array([2.0, np.nan])).momentum
    array([-1.,  0.])
    """
    parts = (causes.batch, causes.momentum, causes.decay)
    still = np.all([part == 0 for part in parts], axis=0)
    unknown = ~still & ~np.isfinite(mean_gradient)
    if unknown.any():
        raise NonFiniteError(
            f"{int(unknown.sum())} parameters (the first is {int(np.argmax(unknown))}) have causes but no "
            "mean gradient: their causes cancelled, or the step was not measured. Give a gradient for them."
        )
    gradient = np.where(still, 0.0, mean_gradient)
    return Causes(*(part * gradient for part in parts))


def _replay(
    optimizer: SGD | RMSProp | Adam | AdamW, gradients: Iterable[np.ndarray], thetas: Iterable[np.ndarray]
) -> Iterator[Causes]:
    state: Any = None
    for gradient, theta in zip_longest(gradients, thetas):
        if gradient is None or theta is None:
            raise LCAError("splitting a run needs one gradient for each θ_t; one of the two ended first.")
        state = optimizer.init(theta) if state is None else state
        after, delta = optimizer.update(state, gradient, theta)
        yield _split(optimizer, state, after, gradient, theta)
        state = after


def _split(
    optimizer: SGD | RMSProp | Adam | AdamW,
    before: Any,
    after: Any,
    gradient: np.ndarray,
    theta: np.ndarray,
) -> Causes:
    none = np.zeros_like(gradient)
    if isinstance(optimizer, SGD):
        mu = optimizer.momentum
        own, memory = (1 + mu, mu**2) if optimizer.nesterov else (1.0, mu)
        return Causes(-optimizer.lr * own * gradient, -optimizer.lr * memory * before, none)
    if isinstance(optimizer, RMSProp):
        return Causes(optimizer.update(before, gradient, theta)[1], none, none)
    decay = -optimizer.lr * optimizer.weight_decay * theta if isinstance(optimizer, AdamW) else none
    return Causes(*_adam_parts(optimizer, before, after, gradient), decay)


def _adam_parts(
    optimizer: Adam | AdamW, before: AdamState, after: AdamState, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The two terms of the mean in Adam's numerator, over the denominator that they share."""
    beta1, beta2, count = optimizer.beta1, optimizer.beta2, after.count
    rms = after.square**0.5 / (1 - beta2**count) ** 0.5
    rate = -optimizer.lr / (1 - beta1**count) / (rms + optimizer.eps)
    return rate * (1 - beta1) * gradient, rate * beta1 * before.mean
