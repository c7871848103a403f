"""Single examples of the measured data: batches of them, weighted or not; how wrong the model is on each."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError
from lca_tensorflow.data import PyTree, examples_in
from lca_tensorflow.model_loss import BatchLoss


class Drawn(NamedTuple):
    """Rows ``(x, y)`` or ``(x, y, sample_weight)`` that were drawn from the measured data."""

    rows: PyTree


def drawn(rows: PyTree, weight: np.ndarray | None, dtype: str, *, weights_count: bool) -> Drawn:
    """These rows as a batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j`` for a ``weight`` v, else their mean.

    Where the loss of a batch is divided by its number n of examples, weights of the data are a part of each
    example's loss (``weights_count``), and those given here are scaled to add up to n.
    """
    if weight is None and weights_count:
        return Drawn(rows)
    x, y, own = keras.utils.unpack_x_y_sample_weight(rows)
    if weight is None:
        return Drawn((x, y))
    scaled = tf.constant(weight * (len(weight) / weight.sum()), dtype)
    return Drawn((x, y, scaled if own is None or not weights_count else scaled * tf.reshape(own, [-1])))


def scores_of(loss: Any) -> BatchLoss:
    """``½ Σ_j |∂ℓ_n/∂f_j|`` (n,) of a batch, which under cross-entropy is ``1 - p_model(y_n)``."""

    def of_batch(model: keras.Model, batch: PyTree) -> tf.Tensor:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=False)
        parts = tf.nest.flatten(outputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parts)
            if loss is None:
                value = model._compile_loss(y, outputs, weight)
            else:
                value = loss(y, outputs) if weight is None else loss(y, outputs, sample_weight=weight)
        count = examples_in(batch)  # the mean over examples: each counts 1
        grads = tape.gradient(value, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        each = [tf.reduce_sum(tf.abs(tf.reshape(grad, [count, -1])), 1) for grad in grads]
        return tf.add_n(each) * tf.cast(count, each[0].dtype) / 2

    return of_batch


def labels_of(rows: PyTree) -> tf.Tensor | None:
    """Integer labels (N,) of rows ``(x, y)`` or ``(x, y, sample_weight)``; ``None`` if there are none."""
    labels = rows[1] if isinstance(rows, tuple) and len(rows) in (2, 3) else None
    if not isinstance(labels, tf.Tensor) or not labels.dtype.is_integer or np.prod(labels.shape[1:]) != 1:
        return None
    return tf.reshape(labels, [-1])


def weights_of(rows: PyTree) -> tf.Tensor | None:
    """The sample weights (N,) of rows; ``None`` without them.

    Raises
    ------
    LCAError
        If they are not one an example.
    """
    *_, weight = keras.utils.unpack_x_y_sample_weight(rows) if isinstance(rows, tuple) else (None,)
    if weight is None:
        return None
    if not isinstance(weight, tf.Tensor) or int(tf.size(weight)) != int(examples_in(rows)):
        raise LCAError(
            "single examples are drawn by one weight each, but sample_weight has several an example; give "
            "the measured data one weight an example, or none."
        )
    return tf.reshape(weight, [-1])
