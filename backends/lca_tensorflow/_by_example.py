"""The losses of single examples of a Keras model, and their derivatives along a direction."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError
from lca.frameworks import PyTree
from lca.frameworks._by_example import warn_of_no_forward_mode
from lca.tolerances import rebatched
from lca_keras._examples import without_reduction
from lca_keras._losses import BatchLoss, default_loss
from lca_tensorflow._program import Compiled, Program


class ForwardMode:
    """The losses of single examples as a loss of its own, and the functions compiled from it.

    Parameters
    ----------
    loss
        A `KerasLoss` whose loss of a batch is a vector (n,).
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss
        self._program: Program | None = None
        self._functions: dict[object, Compiled] = {}
        self._works: bool | None = None
        self._agrees: bool | None = None

    def functions_of(self, program: Program) -> dict[object, Compiled]:
        """The functions compiled under this program, by the form of their batches."""
        if program is not self._program:
            self._program, self._functions = program, {}
        return self._functions

    def works(self, compiled: Callable[[], object]) -> bool:
        """Whether all operations have a forward-mode derivative; tried once.

        Warns
        -----
        LCAWarning
            If not, which makes allocation by example much slower.
        """
        if self._works is None:
            try:
                compiled()
                self._works = True
            except LCAError:
                raise
            except Exception as error:  # whatever TensorFlow raises
                self._works = False
                warn_of_no_forward_mode(error)
        return self._works

    def agrees(self, losses: np.ndarray, of_batch: Callable[[], float], eps: float) -> bool:
        """Whether the mean of these losses is the loss of their batch; tried once.

        Not so where a mask leaves fewer losses of an example than it has, as the mean is over these alone.
        """
        if self._agrees is None:
            mean, wanted = float(losses.mean()), of_batch()
            self._agrees = abs(mean - wanted) <= rebatched(max(abs(mean), abs(wanted)), eps)
        return self._agrees


Losses = Callable[[list[tf.Tensor]], tf.Tensor]


def losses_of_examples(model: keras.Model, loss_fn: Any) -> BatchLoss | None:
    """The losses of the examples of a batch (n,), penalties included.

    ``None`` if the loss is not one `keras.losses.Loss` that is a mean over the batch.
    """
    used = loss_fn
    if loss_fn is None:
        overridden = type(model).compute_loss is not keras.Model.compute_loss
        compiled = None if overridden or not model.compiled else model._compile_loss
        used = None if compiled is None else compiled._user_loss
        if isinstance(used, str):
            used = keras.losses.get(used)
            used = used if isinstance(used, keras.losses.Loss) else None
    if not isinstance(used, keras.losses.Loss) or used.reduction not in MEANS:
        return None
    each = default_loss(without_reduction(used))

    def of_batch(model: keras.Model, batch: PyTree) -> tf.Tensor:
        losses = each(model, batch)
        return tf.reduce_mean(tf.reshape(losses, [tf.shape(losses)[0], -1]), 1)

    return of_batch


MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
"""The Keras reductions that average over the batch."""


def along(
    losses: Losses, tensors: list[tf.Tensor], direction: list[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The losses (n,) at these tensors, and their derivatives (n,) along a direction.

    >>> one, two = tf.constant([1.0]), tf.constant([2.0])
    >>> [float(x[0]) for x in along(lambda given: given[0] * given[0], [two], [one])]
    [4.0, 4.0]
    """
    with tf.autodiff.ForwardAccumulator(tensors, direction) as accumulator:
        found = losses(tensors)
    return found, accumulator.jvp(found, unconnected_gradients=tf.UnconnectedGradients.ZERO)
