"""The loss of a batch, from what Keras users have: a loss, or a compiled model; with or without penalties."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca_tensorflow.data import PyTree, examples_in
from lca_tensorflow.model_loss import BatchLoss


def default_loss(loss: Any) -> BatchLoss:
    """``loss(y, model(x))``, or what the model was compiled with; plus `add_loss` and regularizers."""
    data = data_loss(loss)

    def of_batch(model: keras.Model, batch: PyTree) -> tf.Tensor:
        if loss is None:  # the model may have a compute_loss of its own
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            outputs = model(x, training=False)
            return model._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=False)
        total = data(model, batch)
        return total + _penalties(model, total.dtype) if model.losses else total

    return of_batch


def data_loss(loss: Any) -> BatchLoss:
    """The same without `add_loss` and regularizers."""

    def of_batch(model: keras.Model, batch: PyTree) -> tf.Tensor:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=False)
        if loss is None:
            return model._compile_loss(y, outputs, weight)
        return loss(y, outputs) if weight is None else loss(y, outputs, sample_weight=weight)

    return of_batch


def penalty_loss(model: keras.Model, batch: PyTree) -> tf.Tensor:
    """What `add_loss` and regularizers add; the forward pass costs nothing where they do not need it."""
    x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    outputs = model(x, training=False)
    return _penalties(model, tf.nest.flatten(outputs)[0].dtype)


def _penalties(model: keras.Model, dtype: tf.DType) -> tf.Tensor:
    return tf.add_n(
        [tf.zeros([], dtype), *(tf.cast(tf.reduce_sum(penalty), dtype) for penalty in model.losses)]
    )


def default_weight(model: keras.Model, loss: Any) -> Callable[[PyTree], tf.Tensor]:
    """How much a batch counts: what its loss was divided by, examples or the sum of their weights."""
    used = loss
    if loss is None and model.compiled and model._compile_loss is not None:
        used = model._compile_loss._user_loss
    if getattr(used, "reduction", None) != "mean_with_sample_weight":
        return examples_in

    def weight_in(batch: PyTree) -> tf.Tensor:
        *_, weight = keras.utils.unpack_x_y_sample_weight(batch)
        return examples_in(batch) if weight is None else tf.reduce_sum(weight)

    return weight_in


def check_loss_argument(model: keras.Model, loss: Any, batch_loss: BatchLoss | None) -> None:
    """Raise `LCAError` unless there is exactly one loss, and one that can be called."""
    if loss is not None and batch_loss is not None:
        raise LCAError("pass loss (of y and output) or batch_loss (of model and batch), not both.")
    if loss is None and batch_loss is None and not model.compiled:
        raise LCAError(
            f"the model {model.name!r} is not compiled; pass loss=..., or call model.compile first."
        )
    if not (loss is None or callable(loss) or isinstance(loss, str)):
        raise LCAError(
            f"the loss is of type {type(loss).__name__}; the order is Objective(model, loss, data), and the "
            "loss may be None for what the model was compiled with."
        )
    if isinstance(loss, str):
        raise LCAError(
            f"the loss must be callable, got {loss!r}; pass the loss itself, e.g. "
            "keras.losses.MeanSquaredError(), or None for what the model was compiled with."
        )
