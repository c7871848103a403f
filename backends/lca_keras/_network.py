"""An `lca.reference.Network` as a Keras model, and its θ as that of the Keras model.

Keras keeps images and kernels with channels last, so the tensors of a network are transposed on the way. A
tied tensor is there twice in the Keras model and once in θ.
"""

from collections.abc import Callable, Iterator
from functools import partial, singledispatch
from typing import Any

import keras
import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Objective
from lca.reference._data import Batch
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
    """The position in the network's θ of every number of the Keras model's θ, (K,)."""
    numbers = network.layout.unflatten(np.arange(float(network.layout.size)))
    tensors = (numbers[network.tied.get(name, name)] for name in _tensors(network))
    return np.concatenate([_channels_last(tensor).ravel() for tensor in tensors]).astype(int)


def _uses(positions: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The positions where each number of the network's θ is used first, then those of its second use, ...

    The length of ``positions`` stands for nowhere. (`keras.ops.segment_sum` adds in float32 on PyTorch.)
    """
    order, counts = np.argsort(positions, kind="stable"), np.bincount(positions, minlength=size)
    first = np.cumsum(counts) - counts
    for use in range(counts.max()):
        yield np.where(use < counts, order[np.minimum(first + use, len(order) - 1)], len(order))


def losses_of(network: Network) -> Callable[[Any, Any], Any]:
    """The loss of every example, from targets and outputs (n, m)."""
    if isinstance(network.loss, CrossEntropy):
        return partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)
    if isinstance(network.loss, SquaredError):
        return lambda y, outputs: keras.ops.sum(keras.ops.square(outputs - y), 1) / 2
    raise LCAError(f"the backends of Keras do not know the loss {network.loss!r}.")


class NetworkLoss:
    """The objective of a Keras model of a `Network` at the θ of the network.

    Parameters
    ----------
    network
        The network.
    measured
        The objective of its model.
    prepare
        From an `lca.reference.Batch` to a batch of the objective.
    """

    def __init__(self, network: Network, measured: Objective, prepare: Callable[[Batch], Any]) -> None:
        self._network, self._measured, self._prepare = network, measured, prepare
        self._positions = positions(network)
        self._uses = list(_uses(self._positions, network.layout.size))

    @property
    def layout(self) -> Layout:
        """The layout of the network."""
        return self._network.layout

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed; that of frozen ones is 0."""
        return frozenset(self.layout.names) - frozenset(self._network.frozen)

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return self._measured.loss(self._in_keras(theta), self._own(batch))

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        loss, grad = self._measured.loss_and_grad(self._in_keras(theta), self._own(batch))
        padded = keras.ops.concatenate([grad, keras.ops.zeros_like(grad[:1])])
        first, *others = (keras.ops.take(padded, use) for use in self._uses)
        return loss, sum(others, start=first)

    def _in_keras(self, theta: Vector) -> Vector:
        self.layout.check(theta, "theta")
        return keras.ops.take(theta, self._positions)

    def _own(self, batch: Batch | None) -> Any:
        if batch is None:
            return None
        self._network.check_batch(batch)
        return self._prepare(batch)


def _tensors(network: Network) -> list[str]:
    """The tensors of all layers, tied ones included, in the order of the layers."""
    return [f"{name}.{tensor}" for name, layer in network.named_layers for tensor in layer.shapes]


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [variable for layer in model.layers for variable in layer._trainable_variables]


def _channels_last(tensor: np.ndarray) -> np.ndarray:
    """(out, in) as (in, out), (out, in, h, w) as (h, w, in, out); biases stay."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _options(name: str, dtype: str) -> Options:
    return {"name": name, "dtype": dtype}


@singledispatch
def _layers(layer: Layer, options: Options) -> list[keras.Layer]:
    """The Keras layers that do what one layer of a network does."""
    raise LCAError(f"the backends of Keras do not know the layer {layer!r}.")


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

    def call(self, inputs: Any) -> Any:
        ops = keras.ops
        first = ops.transpose(inputs, (0, *CHANNELS_FIRST)) if len(inputs.shape) == 4 else inputs
        return ops.reshape(first, (-1, int(np.prod(inputs.shape[1:]))))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int | None, int]:
        return None, int(np.prod(input_shape[1:]))


def _constant(values: tuple[float, ...]) -> Callable[..., Any]:
    return lambda shape, dtype=None: keras.ops.reshape(keras.ops.convert_to_tensor(values, dtype), shape)


def penalise(model: keras.Model, network: Network, penalty: float) -> None:
    """Give the model the penalty ``½ c Σ θ_i²`` over all tensors that train; tied ones count once."""
    if penalty:
        for name, variable in zip(_tensors(network), _variables(model), strict=True):
            variable.regularizer = None if name in network.tied else keras.regularizers.L2(penalty / 2)
