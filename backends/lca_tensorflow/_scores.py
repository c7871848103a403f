"""The error scores of single examples."""

from typing import Any

import keras
import tensorflow as tf

from lca.frameworks import PyTree
from lca_keras._losses import BatchLoss, number_of_examples, of_outputs


def error_scores(loss_fn: Any) -> BatchLoss:
    """``½ Σ_j |∂ℓ_n/∂f_j|`` (n,) of a batch, which under cross-entropy is ``1 - p_model(y_n)``."""

    def of_batch(model: keras.Model, batch: PyTree) -> tf.Tensor:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=False)
        parts = tf.nest.flatten(outputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parts)
            value = of_outputs(loss_fn, model, y, outputs, weight)
        n = number_of_examples(batch)  # from the mean to the sum of the losses
        grads = tape.gradient(value, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        each = [tf.reduce_sum(tf.abs(tf.reshape(grad, [n, -1])), 1) for grad in grads]
        return tf.add_n(each) * tf.cast(n, each[0].dtype) / 2

    return of_batch
