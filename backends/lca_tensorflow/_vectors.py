"""θ and gradients as tensors (K,), and cut into the tensors of a layout."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from lca.layout import Layout


def flat(variables: Iterable[keras.Variable]) -> tf.Tensor:
    """A new vector (K,) with the numbers of ``variables``."""
    return tf.concat([tf.reshape(variable.value, [-1]) for variable in variables], 0)


def tensors_of(layout: Layout, theta: tf.Tensor) -> list[tf.Tensor]:
    """θ (K,) cut into tensors of the layout's shapes."""
    parts = tf.split(theta, list(layout.sizes))
    return [tf.reshape(part, shape) for part, shape in zip(parts, layout.shapes, strict=True)]


def flat_gradient(tensors: list[Any], grads: list[Any]) -> tf.Tensor:
    """The gradient (K,), dense; 0 for a tensor without gradient."""
    parts = [
        tf.reshape(tf.zeros_like(tensor) if grad is None else tf.convert_to_tensor(grad), [-1])
        for tensor, grad in zip(tensors, grads, strict=True)
    ]
    return tf.concat(parts, 0)


def gradient_of(
    theta: Sequence[keras.Variable], grads: Sequence[Any], trained: Sequence[keras.Variable]
) -> tf.Tensor:
    """The gradient (K,) of θ, from those of the variables that an optimizer updates; 0 for all others."""
    by_variable = {id(variable): grad for grad, variable in zip(grads, trained, strict=True)}
    return flat_gradient(list(theta), [by_variable.get(id(v)) for v in theta])
