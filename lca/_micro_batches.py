"""Mean gradients over some micro-batches of an update, and micro-batches whose updates are computed later."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lca.arrays import Vector
from lca.step import MicroBatch


class LeftOut(Sequence[MicroBatch], ABC):
    """The micro-batches of an update that is about to be made; the updates without each of them are not
    computed yet.

    A training loop supplies it in place of a tuple where the vectors are long: the sum of the products of
    gradients and updates needs no other vector of their length. It is valid until the update is made; a tuple
    made from it stays valid.

    Attributes
    ----------
    weights
        The weights of the micro-batches.
    """

    weights: Sequence[float]

    @abstractmethod
    def products_sum(self) -> tuple[Vector, float]:
        """``Σ_m (w_m / w_0) g_m ∘ Δ^{(−m)}`` (K,) and its mass, the sum of the absolute products."""

    def __len__(self) -> int:
        return len(self.weights)


def mean_gradient(gradients: Sequence[Vector], sizes: Sequence[float], which: Sequence[int]) -> Vector:
    """The mean gradient over the micro-batches ``which``: ``Σ n_m g_m / Σ n_m`` (K,), a new vector.

    Parameters
    ----------
    gradients
        The gradient (K,) of each micro-batch.
    sizes
        The size of each micro-batch, such as its number of examples.
    which
        The positions of the micro-batches to average over.

    Examples
    --------
    >>> import numpy as np
    >>> mean_gradient([np.array([1.0]), np.array([4.0])], sizes=[1, 2], which=[0, 1])
    array([3.])
    """
    total = sum(sizes[m] for m in which)
    first, *rest = which
    mean = sizes[first] / total * gradients[first]
    for m in rest:
        mean = mean + sizes[m] / total * gradients[m]
    return mean


def mean_without(left_out: int, gradients: Sequence[Vector], sizes: Sequence[float]) -> Vector:
    """The mean gradient over all micro-batches except ``left_out``; with two, the other gradient itself.

    >>> mean_without(0, [1.0, 2.0, 4.0], [1, 3, 1])
    2.5
    """
    others = [m for m in range(len(gradients)) if m != left_out]
    return gradients[others[0]] if len(others) == 1 else mean_gradient(gradients, sizes, others)
