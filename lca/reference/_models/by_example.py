"""The losses of single examples of a `Network` and their derivatives along a movement, by hand.

With ``G = ∂ℓ_n/∂out`` of a layer and a movement of its parameters, the derivative of ``ℓ_n`` along it is
``Σ G_n · out'_n``, where out' is the derivative of the layer's output along the movement, for a given input.
Dense, convolutional and normalisation layers are linear in their parameters, so out' is their forward pass
with the movement in the place of the parameters. One forward and one backward pass serve all groups.
"""

from collections.abc import Mapping

import numpy as np

from lca.by_example import ExampleSlopes
from lca.errors import LCAError
from lca.groups import Groups
from lca.reference._data import Batch
from lca.reference._models.convolution import Conv2d
from lca.reference._models.layers import Array, Dense
from lca.reference._models.network import Network
from lca.reference._models.normalization import BatchNorm

_LINEAR = (Dense, Conv2d, BatchNorm)
"""Layers whose output is linear in their parameters."""


def example_slopes(
    network: Network, theta: Array, batch: Batch, movement: Array, groups: Groups
) -> ExampleSlopes:
    """Like `lca.by_example.Separable.by_example`, for all examples of a batch, whose weights are ignored.

    Costs one gradient, and for each group a forward pass of its layers; one gradient per example if a layer
    of a user-defined class has parameters.

    Raises
    ------
    LCAError
        If the network has a `BatchNorm` with the statistics of the batch.
    """
    if network.mixes_examples:
        raise LCAError(
            "the loss of an example depends on the others of its batch (BatchNorm with batch statistics), so "
            "it cannot be allocated by example; use BatchNorm(statistics='frozen')."
        )
    if all(type(layer) in _LINEAR for layer in network.layers if layer.shapes):
        return _by_layer(network, theta, batch, movement, groups)
    return one_by_one(network, theta, batch, movement, groups)


def one_by_one(
    network: Network, theta: Array, batch: Batch, movement: Array, groups: Groups
) -> ExampleSlopes:
    """The same slopes from one gradient per example: slow, but obviously correct."""
    losses, slopes = np.empty(len(batch)), np.empty((len(groups), len(batch)))
    grad = np.empty_like(theta)
    for n in range(len(batch)):
        alone = Batch(batch.x[n : n + 1], batch.y[n : n + 1])
        losses[n] = network.losses_and_grad(theta, alone, grad)[0]
        slopes[:, n] = groups.total(grad * movement)
    return ExampleSlopes(losses, slopes)


def _by_layer(network: Network, theta: Array, batch: Batch, movement: Array, groups: Groups) -> ExampleSlopes:
    params, inputs, caches = network._params(theta), [batch.x], []
    for layer, own in zip(network.layers, params, strict=True):
        out, cache = layer.forward(own, inputs[-1])
        inputs.append(out)
        caches.append(cache)
    losses, grad = network.loss.value_and_grad(inputs[-1], batch.y)
    slopes = np.zeros((len(groups), len(batch)))
    directions = [network._params(_part(network, movement, groups, g)) for g in range(len(groups))]
    for i in range(len(network.layers) - 1, -1, -1):
        for g, direction in enumerate(directions):
            if any(tensor.any() for tensor in direction[i]):
                out, _ = network.layers[i].forward(direction[i], inputs[i])
                slopes[g] += (grad * out).reshape(len(batch), -1).sum(axis=1, dtype=np.float64)
        grad = network.layers[i].input_gradient(params[i], caches[i], grad) if i else grad
    return ExampleSlopes(losses.astype(np.float64), slopes)


def _part(network: Network, movement: Array, groups: Groups, g: int) -> Array:
    """The movement of one group; 0 for frozen tensors, whose gradient is 0."""
    part = np.where(groups.index == g, movement, 0).astype(movement.dtype)
    tensors: Mapping[str, Array] = network.layout.unflatten(part)
    for name in network.frozen:
        tensors[name][...] = 0
    return part
