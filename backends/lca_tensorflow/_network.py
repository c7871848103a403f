"""An `lca.reference.Network` as a Keras model, and its θ as that of the Keras model.

Keras keeps images and kernels with channels last, so the tensors of a network are transposed on the way. A
tied tensor is there twice in the Keras model and once in θ.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError
from lca.reference._models import (
    BatchNorm,
    Conv2d,
    CrossEntropy,
    Dense,
    Dropout,
    Flatten,
    Network,
    ReLU,
    SquaredError,
    Tanh,
)
from lca.reference._models.convolution import MaxPool2d
from lca.reference._models.layers import Layer

CHANNELS_LAST, CHANNELS_FIRST = (2, 3, 1), (3, 1, 2)
Options = dict[str, Any]


def model_of(network: Network, dtype: str) -> keras.Sequential:
    """A Keras model with the layers of ``network``; layers with parameters have its names, ``fc1``, ``bn1``.

    Its numbers are Keras' own at the start. Frozen tensors are variables that do not train.
    """
    images = len(network.input_shape) > 1
    first = [keras.layers.Permute(CHANNELS_LAST, dtype=dtype)] if images else []
    layers = [made for name, layer in network.named_layers for made in _layers(layer, _options(name, dtype))]
    model = keras.Sequential([keras.Input(network.input_shape, dtype=dtype), *first, *layers])
    for name, variable in zip(_tensors(network), _variables(model), strict=True):
        variable.trainable = network.tied.get(name, name) not in network.frozen
    return model


def positions(network: Network) -> np.ndarray:
    """For every number of the Keras model's θ, its position in the network's θ (K,)."""
    numbers = network.layout.unflatten(np.arange(float(network.layout.size)))
    tensors = (numbers[network.tied.get(name, name)] for name in _tensors(network))
    return np.concatenate([_channels_last(tensor).ravel() for tensor in tensors]).astype(int)


def losses_of(network: Network) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss of every example, from outputs (n, m) and targets."""
    if isinstance(network.loss, CrossEntropy):
        return lambda outputs, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)
    if isinstance(network.loss, SquaredError):
        return lambda outputs, y: tf.reduce_sum(tf.square(outputs - y), 1) / 2
    raise LCAError(f"the tensorflow backend does not know the loss {network.loss!r}.")


def _tensors(network: Network) -> list[str]:
    """The tensors of all layers, tied ones included, in the order of the layers."""
    return [f"{name}.{tensor}" for name, layer in network.named_layers for tensor in layer.shapes]


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [variable for layer in model.layers for variable in layer.trainable_variables]


def _channels_last(tensor: np.ndarray) -> np.ndarray:
    """(out, in) as (in, out), (out, in, h, w) as (h, w, in, out); biases stay."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _options(name: str, dtype: str) -> Options:
    return {"name": name, "dtype": dtype}


@singledispatch
def _layers(layer: Layer, options: Options) -> list[keras.Layer]:
    """The Keras layers that do what one layer of a network does."""
    raise LCAError(f"the tensorflow backend does not know the layer {layer!r}.")


@_layers.register
def _(layer: Dense, options: Options) -> list[keras.Layer]:
    return [keras.layers.Dense(layer.n_out, **options)]


@_layers.register
def _(layer: Conv2d, options: Options) -> list[keras.Layer]:
    padding = keras.layers.ZeroPadding2D(layer.padding, dtype=options["dtype"])
    return [padding, keras.layers.Conv2D(layer.c_out, layer.kernel, **options)]


@_layers.register
def _(layer: BatchNorm, options: Options) -> list[keras.Layer]:
    running: Options = {}
    if layer.statistics == "frozen":
        running = {
            "moving_mean_initializer": _constant(layer.mean),
            "moving_variance_initializer": _constant(layer.variance),
        }
    return [keras.layers.BatchNormalization(epsilon=layer.eps, **running, **options)]


@_layers.register
def _(layer: MaxPool2d, options: Options) -> list[keras.Layer]:
    return [keras.layers.MaxPooling2D(layer.size, **options)]


@_layers.register
def _(layer: Dropout, options: Options) -> list[keras.Layer]:
    return [keras.layers.Dropout(layer.p, **options)]


@_layers.register
def _(layer: ReLU, options: Options) -> list[keras.Layer]:
    return [keras.layers.ReLU(**options)]


@_layers.register
def _(layer: Tanh, options: Options) -> list[keras.Layer]:
    return [keras.layers.Activation("tanh", **options)]


@_layers.register
def _(layer: Flatten, options: Options) -> list[keras.Layer]:
    return [_FlattenChannelsFirst(**options)]


class _FlattenChannelsFirst(keras.layers.Layer):
    """(n, h, w, c) row by row in the order of (n, c, h, w), as the network flattens; rows stay."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        first = tf.transpose(inputs, (0, *CHANNELS_FIRST)) if inputs.shape.rank == 4 else inputs
        return tf.reshape(first, (-1, int(np.prod(inputs.shape[1:]))))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int | None, int]:
        return None, int(np.prod(input_shape[1:]))


def _constant(values: tuple[float, ...]) -> Callable[..., tf.Tensor]:
    return lambda shape, dtype=None: tf.constant(values, dtype, shape)
