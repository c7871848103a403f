"""`Separable`: an objective with the loss of each example and its derivatives along a movement by group."""

from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError
from lca.groups import Groups
from lca.objective import Objective, Sampled, Scaled, Sum

Array = np.ndarray


class ExampleSlopes(NamedTuple):
    """The losses of n examples at a point, and their derivatives along the movement of each group.

    Parameters
    ----------
    losses
        ``ℓ_n(θ)``, float64 (n,).
    slopes
        ``Σ_{i ∈ g} Δ_i ∂_i ℓ_n(θ)``, float64 (groups, n).

    Examples
    --------
    >>> ExampleSlopes(np.array([1.0]), np.array([[-0.5], [0.0]])).slopes.shape
    (2, 1)
    """

    losses: Array
    slopes: Array


@runtime_checkable
class Separable(Sampled, Protocol):
    """A `lca.objective.Sampled` objective that computes the loss ``ℓ_n`` of every example, and its slopes.

    Examples
    --------
    The mean of ``½ (x_n·θ - y_n)²``, written by hand:

    >>> from lca import Layout
    >>> class LeastSquares:
    ...     layout, weight = Layout(("w",), ((2,),)), None
    ...     def __init__(self, x, y):
    ...         self.x, self.y, self.n_examples = x, y, len(y)
    ...     def batch(self, index, weight=None):
    ...         return self.x[index], self.y[index]
    ...     def loss(self, theta, batch=None):
    ...         return self.loss_and_grad(theta, batch)[0]
    ...     def loss_and_grad(self, theta, batch=None):
    ...         x, y = (self.x, self.y) if batch is None else batch
    ...         gap = x @ theta - y
    ...         return float(gap @ gap) / 2 / len(y), x.T @ gap / len(y)
    ...     def by_example(self, theta, movement, groups, index, *, chunk=8):
    ...         gap = self.x[index] @ theta - self.y[index]
    ...         each = gap[:, None] * self.x[index] * movement
    ...         return ExampleSlopes(gap**2 / 2, np.stack([groups.total(row) for row in each], axis=1))
    >>> objective = LeastSquares(np.eye(2), np.zeros(2))
    >>> groups = objective.layout.groups("tensor")
    >>> objective.by_example(np.ones(2), -np.ones(2), groups, np.arange(2)).slopes
    array([[-1., -1.]])
    """

    def by_example(
        self, theta: Vector, movement: Vector, groups: Groups, index: Array, *, chunk: int = 8
    ) -> ExampleSlopes:
        """The losses at θ (K,) of the examples ``index`` (n,), and their slopes along ``movement`` Δ (K,).

        A slope is the directional derivative of ``ℓ_n`` along the part of Δ in one group; the slopes of all
        groups add up to ``Δ · ∇ℓ_n(θ)``. The slopes of a group whose part of Δ is 0 are exactly 0. Tensors
        that a `lca.objective.Selective` objective does not differentiate may count or not, as `ByExample`
        asks for every tensor that moves. ``chunk`` is the number of groups that are differentiated in one
        pass; it affects memory and speed only. Like ``loss_and_grad``, a call has no visible side effects.
        """


def separable(objective: Objective) -> tuple[Separable, float]:
    """The objective without `lca.Scaled` around it, and the factor; raises if it is not `Separable`.

    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> separable(Scaled(loss, 0.5))[1]
    0.5
    """
    if isinstance(objective, Scaled):
        inner, factor = separable(objective.objective)
        return inner, factor * objective.factor
    if isinstance(objective, Sum):
        names = ", ".join(map(repr, objective.terms))
        raise LCAError(
            f"a Sum ({names}) has no losses of single examples; allocate its data term by example, and for "
            "classes use the whole loss with ExampleAllocation.over('class')."
        )
    if not _knows_examples(objective):
        raise LCAError(
            f"{type(objective).__name__} does not know the losses of single examples; use an objective that "
            "has by_example (lca.by_example.Separable), as those of lca.reference, lca_torch and "
            "lca_tensorflow do."
        )
    return objective, 1.0


def _knows_examples(objective: Objective) -> TypeGuard[Separable]:
    return isinstance(objective, Separable)
