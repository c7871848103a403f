"""Split a movement, or an allocation, into current gradient, momentum and weight decay.

The update of an optimizer is a sum of these three terms. An allocation is linear in the movement, so it
splits in the same way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from lca.errors import LCAError, NonFiniteError
from lca.reference._optimizers import SGD, Adam, AdamState, AdamW, Optimizer, RMSProp


@dataclass(frozen=True, eq=False)
class Causes:
    """Three vectors of shape (K,) whose sum is a movement or an allocation.

    Movements are in units of the parameters, allocations in units of the loss (negative = helping).

    Attributes
    ----------
    batch
        The contribution of the current batch's gradient.
    momentum
        The contribution of the gradients of earlier steps.
    decay
        The contribution of the weight decay inside the optimizer.

    Examples
    --------
    >>> Causes(batch=np.array([-1.0]), momentum=np.array([-0.5]), decay=np.array([0.25])).total()
    array([-1.25])
    """

    batch: np.ndarray
    momentum: np.ndarray
    decay: np.ndarray

    def total(self) -> np.ndarray:
        """The sum of the three contributions, shape (K,)."""
        return np.asarray(self.batch + self.momentum + self.decay)


def split_movements(
    optimizer: Optimizer, gradients: Iterable[np.ndarray], thetas: Iterable[np.ndarray]
) -> Iterator[Causes]:
    """Split each movement of a run into its `Causes`, by repeating the updates of the run.

    ========== ============================= ============================== ==========
    optimizer  batch                         momentum                       decay
    ========== ============================= ============================== ==========
    SGD        ``-lr g``                     ``-lr μ v``                    0
    Nesterov   ``-lr (1 + μ) g``             ``-lr μ² v``                   0
    RMSProp    the whole update              0                              0
    Adam       ``-a (1 - β₁) g``             ``-a β₁ m``                    0
    AdamW      as Adam                       as Adam                        ``-lr λ θ``
    ========== ============================= ============================== ==========

    v and m are the optimizer's state *before* the step, and ``a = lr / ((1 - β₁^t) (√v̂ + ε))``. For Adam and
    RMSProp only the numerator is split; the mean square in the denominator includes the current batch.

    Parameters
    ----------
    optimizer
        One of `lca.reference`, with the settings of the run.
    gradients
        The gradient that the optimizer received at each step, starting with the first step of the run: an
        array of shape (T, K), or an iterable of T vectors (K,). Every step is required, because the momentum
        is recomputed from them.
    thetas
        θ_t of the same steps, in the same form.

    Yields
    ------
    Causes
        The contributions to Δ_t. Their sum equals the optimizer's update up to rounding.

    Raises
    ------
    LCAError
        If the optimizer is not SGD, RMSProp, Adam or AdamW, or if one of the two series is shorter.

    Notes
    -----
    Costs no gradients, and O(K) memory beyond the input.

    Examples
    --------
    >>> gradients, thetas = np.array([[1.0], [1.0]]), np.array([[0.0], [-0.1]])
    >>> for cause in split_movements(SGD(lr=0.1, momentum=0.5), gradients, thetas):
    ...     print(cause.batch, cause.momentum, cause.total())
    [-0.1] [-0.] [-0.1]
    [-0.1] [-0.05] [-0.15]
    """
    if not isinstance(optimizer, (SGD, RMSProp, Adam, AdamW)):
        raise LCAError(
            f"cannot split the movements of {type(optimizer).__name__}; expected SGD, RMSProp, Adam or AdamW "
            "from lca.reference._optimizers."
        )
    return _replay(optimizer, gradients, thetas)


def split_allocation(causes: Causes, mean_gradient: np.ndarray) -> Causes:
    """Split the allocation of one step by cause: ``A^c_i = Δ^c_i ∫₀¹ ∂_i L(θ_t + s Δ_t) ds``.

    The three contributions add up to A.

    Parameters
    ----------
    causes
        The causes of the step's movement, from `split_movements`.
    mean_gradient
        The integral, shape (K,), from `lca.analysis.mean_gradient`. It may be NaN where all causes are 0.

    Returns
    -------
    Causes
        In units of the loss, negative = helping.

    Raises
    ------
    NonFiniteError
        If the gradient of a parameter with causes is not finite. This happens when causes cancel exactly:
        the parameter does not move, and its allocation of 0 does not determine the gradient.

    Examples
    --------
    >>> moved = Causes(np.array([-1.0, 0.0]), np.array([-0.5, 0.0]), np.array([0.25, 0.0]))
    >>> split_allocation(moved, np.array([2.0, np.nan])).momentum
    array([-1.,  0.])
    """
    parts = (causes.batch, causes.momentum, causes.decay)
    no_cause = np.all([part == 0 for part in parts], axis=0)
    unknown = ~no_cause & ~np.isfinite(mean_gradient)
    if unknown.any():
        raise NonFiniteError(
            f"{int(unknown.sum())} parameters (the first is {int(np.argmax(unknown))}) have causes but no "
            "finite mean gradient: either the causes cancel exactly, or the step was not measured. Pass the "
            "gradient of these parameters in mean_gradient."
        )
    gradient = np.where(no_cause, 0.0, mean_gradient)
    return Causes(*(part * gradient for part in parts))


def _replay(
    optimizer: SGD | RMSProp | Adam | AdamW, gradients: Iterable[np.ndarray], thetas: Iterable[np.ndarray]
) -> Iterator[Causes]:
    state: Any = None
    for gradient, theta in zip_longest(gradients, thetas):
        if gradient is None or theta is None:
            shorter = "gradients" if gradient is None else "thetas"
            raise LCAError(f"splitting a run needs one gradient for each θ_t; {shorter} has fewer steps.")
        state = optimizer.init(theta) if state is None else state
        after, _ = optimizer.update(state, gradient, theta)
        yield _split_update(optimizer, state, after, gradient, theta)
        state = after


def _split_update(
    optimizer: SGD | RMSProp | Adam | AdamW,
    before: Any,
    after: Any,
    gradient: np.ndarray,
    theta: np.ndarray,
) -> Causes:
    zeros = np.zeros_like(gradient)
    if isinstance(optimizer, SGD):
        mu = optimizer.momentum
        current, past = (1 + mu, mu**2) if optimizer.nesterov else (1.0, mu)
        return Causes(-optimizer.lr * current * gradient, -optimizer.lr * past * before, zeros)
    if isinstance(optimizer, RMSProp):
        return Causes(optimizer.update(before, gradient, theta)[1], zeros, zeros)
    decay = -optimizer.lr * optimizer.weight_decay * theta if isinstance(optimizer, AdamW) else zeros
    return Causes(*_split_adam(optimizer, before, after, gradient), decay)


def _split_adam(
    optimizer: Adam | AdamW, before: AdamState, after: AdamState, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The two terms of Adam's first moment, each divided by the common denominator."""
    beta1, beta2, count = optimizer.beta1, optimizer.beta2, after.count
    rms = after.square**0.5 / (1 - beta2**count) ** 0.5
    rate = -optimizer.lr / (1 - beta1**count) / (rms + optimizer.eps)
    return rate * (1 - beta1) * gradient, rate * beta1 * before.mean
