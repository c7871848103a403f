"""An `lca.reference.Network` as a `Model` with the same parameter names."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lca import reference
from lca.errors import DataError, LCAError
from lca_jax.formula import LossFn
from lca_jax.model import Model, Params, Statistics

Output: TypeAlias = Callable[[Any, list[jax.Array], jax.Array, Any], jax.Array]
"""From a layer, its tensors, its input (n, ...) and its running statistics to its output."""


def model_of(network: reference.Network, dtype: str) -> Model:
    """A model with the parameters of ``network``, under the same names and in the same order."""
    start = network.layout.unflatten(network.init(seed=0, dtype=dtype))
    params = OrderedDict((name, jnp.array(tensor)) for name, tensor in start.items())  # JAX sorts a dict
    statistics = {
        name: {
            "mean": jnp.array(norm.mean or np.zeros(norm.n)),
            "variance": jnp.array(norm.variance or np.ones(norm.n)),
        }
        for name, norm in network.named_layers
        if isinstance(norm, reference.BatchNorm)
    }
    return Model(_Apply(network), params, statistics, network.frozen)


def loss_of(network: reference.Network) -> LossFn:
    """The mean loss of a batch, from outputs (n, m) and targets."""
    found: LossFn = _known(_LOSSES, network.loss)
    return found


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of ``log Σ_j exp f_j - f_y``, for integer labels (n,)."""
    own = jnp.take_along_axis(outputs, y[:, None], 1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(outputs, axis=1) - own)


def squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of ``½ Σ_j (f_j - y_j)²``."""
    return jnp.mean(jnp.sum((outputs - y) ** 2, 1)) / 2


@dataclass(frozen=True)
class _Apply:
    """``Model.apply`` of a network; compared by value, so that equal networks share compiled code."""

    network: reference.Network

    def __call__(self, params: Params, x: jax.Array, statistics: Statistics | None = None) -> jax.Array:
        tied, running = self.network.tied, statistics or {}
        for name, layer in self.network.named_layers:
            full = [f"{name}.{tensor}" for tensor in layer.shapes]
            tensors = [params[tied.get(tensor, tensor)] for tensor in full]
            x = _known(_OUTPUTS, layer)(layer, tensors, x, running.get(name))
        return x


def _known(functions: Mapping[Any, Any], item: object) -> Any:
    if type(item) not in functions:
        raise LCAError(f"the JAX backend does not know {item!r}; add its function to lca_jax/network.py.")
    return functions[type(item)]


def _normalised(layer: reference.BatchNorm, tensors: list[jax.Array], x: jax.Array, running: Any) -> Any:
    """Batch normalisation with ``running`` statistics, or with those of the batch if that is ``None``."""
    channels = (-1, *(1 for _ in x.shape[2:]))
    weight, bias = (tensor.reshape(channels) for tensor in tensors)
    if running is not None:
        mean, variance = (running[name].reshape(channels) for name in ("mean", "variance"))
    else:
        if x.size < 2 * x.shape[1]:
            raise DataError(
                "batch statistics need at least two values per channel, got one example, which has no "
                "variance; choose another batch_size."
            )
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + layer.eps) * weight + bias


def _convolved(layer: reference.Conv2d, tensors: list[jax.Array], x: jax.Array, _: Any) -> Any:
    padding = [(layer.padding, layer.padding)] * 2
    return jax.lax.conv_general_dilated(x, tensors[0], (1, 1), padding) + tensors[1][:, None, None]


def _pooled(layer: reference.MaxPool2d, tensors: list[jax.Array], x: jax.Array, _: Any) -> Any:
    tile = (1, 1, layer.size, layer.size)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, tile, tile, "VALID")


_LOSSES = {reference.CrossEntropy: cross_entropy, reference.SquaredError: squared_error}
_OUTPUTS: dict[type, Output] = {
    reference.BatchNorm: _normalised,
    reference.Conv2d: _convolved,
    reference.Dense: lambda layer, tensors, x, _: x @ tensors[0].T + tensors[1],
    reference.Dropout: lambda layer, tensors, x, _: x,  # a measured loss drops nothing
    reference.Flatten: lambda layer, tensors, x, _: x.reshape(len(x), -1),
    reference.MaxPool2d: _pooled,
    reference.ReLU: lambda layer, tensors, x, _: jax.nn.relu(x),
    reference.Tanh: lambda layer, tensors, x, _: jnp.tanh(x),
}
