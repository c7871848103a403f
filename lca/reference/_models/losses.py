"""Losses of a network's outputs: one number per example, and its gradient with respect to the outputs.

These losses are not averaged or weighted; `DatasetLoss` does that.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lca.errors import DataError

Array = np.ndarray


class OutputLoss(Protocol):
    """The interface of a loss ℓ(f, y) of outputs f (n, m) and targets y.

    Examples
    --------
    The absolute error, as an example of a class with these two methods:

    >>> class AbsoluteError:
    ...     def check_targets(self, y, n_outputs):
    ...         SquaredError().check_targets(y, n_outputs)
    ...     def value_and_grad(self, outputs, y):
    ...         return np.abs(outputs - y).sum(axis=1), np.sign(outputs - y)
    >>> AbsoluteError().value_and_grad(np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]))
    (array([3.]), array([[1., 1.]]))
    """

    def check_targets(self, y: Array, n_outputs: int) -> None:
        """Raise `DataError` unless ``y`` are valid targets for ``n_outputs`` outputs."""

    def value_and_grad(self, outputs: Array, y: Array) -> tuple[Array, Array]:
        """ℓ of shape (n,), and ∂ℓ/∂f, a new array of shape (n, m); both in the outputs' dtype."""


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy in nats, for integer labels y (n,).

    ``ℓ = log Σ_j exp f_j - f_y``, with ``∂ℓ/∂f = softmax(f) - onehot(y)``. The largest output is subtracted
    first, so that no exponential overflows.

    Examples
    --------
    >>> losses, grad = CrossEntropy().value_and_grad(np.zeros((1, 4)), np.array([2]))
    >>> bool(losses[0] == np.log(4)), grad
    (True, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """

    def check_targets(self, y: Array, n_outputs: int) -> None:
        if y.dtype.kind != "i" or y.ndim != 1:
            raise DataError(
                f"cross-entropy takes integer labels of shape (n,), got {y.dtype} of shape {y.shape}; use "
                "y.argmax(axis=1) for one-hot rows, or loss='squared_error'."
            )
        bad = np.flatnonzero((y < 0) | (y >= n_outputs))
        if len(bad):
            raise DataError(
                f"labels must lie in 0..{n_outputs - 1} for {n_outputs} outputs, got {y[bad[0]]} at position "
                f"{bad[0]} ({len(bad)} out of range); count classes from 0 or give the network more outputs."
            )

    def value_and_grad(self, outputs: Array, y: Array) -> tuple[Array, Array]:
        examples = np.arange(len(y))
        shifted = np.array(outputs.T, order="C")  # (m, n): reductions over the first axis are 10 times faster
        shifted -= shifted.real.max(axis=0)
        own = shifted[y, examples]
        softmax = np.exp(shifted, out=shifted)
        normaliser = softmax.sum(axis=0)
        softmax /= normaliser
        softmax[y, examples] -= 1
        return np.log(normaliser) - own, softmax.T


@dataclass(frozen=True)
class SquaredError:
    """``ℓ = ½ Σ_j (f_j - y_j)²`` for targets y (n, m), with ``∂ℓ/∂f = f - y``.

    Its unit is the square of the unit of the targets.

    Examples
    --------
    >>> SquaredError().value_and_grad(np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]))
    (array([2.5]), array([[2., 1.]]))
    """

    def check_targets(self, y: Array, n_outputs: int) -> None:
        if y.dtype.kind != "f" or y.shape[1:] != (n_outputs,):
            raise DataError(
                f"squared error takes floating-point targets of shape (n, {n_outputs}), got {y.dtype} of "
                f"shape {y.shape}; for labels use one-hot rows numpy.eye({n_outputs})[y]."
            )
        if not np.isfinite(y).all():
            bad = int(np.argwhere(~np.isfinite(y))[0, 0])
            raise DataError(f"targets must be finite, got {y[bad]} in example {bad}; clean the data.")

    def value_and_grad(self, outputs: Array, y: Array) -> tuple[Array, Array]:
        grad = outputs - y
        return (grad * grad).sum(axis=1) / 2, grad  # not |grad|², which is not analytic
