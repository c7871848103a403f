"""An `lca.reference.Network` as a `torch.nn.Module` with the same parameter names."""

from collections import OrderedDict
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
from lca.reference._models.layers import Layer, Shape


def module_of(network: Network) -> nn.Sequential:
    """A module with the parameters of ``network``, under the same names; tied and frozen ones, too.

    Its numbers are torch's own at the start; load a θ with `torch.nn.utils.vector_to_parameters`.
    """
    shape = network.input_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.named_layers:
        modules[name] = _module(layer, shape)
        shape = layer.output_shape(shape)
    model = nn.Sequential(modules)
    for name, other in network.tied.items():
        owner, _, tensor = name.rpartition(".")
        setattr(model.get_submodule(owner), tensor, model.get_parameter(other))
    for name in network.frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def losses_of(network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of every example, from outputs (n, m) and targets."""
    if isinstance(network.loss, CrossEntropy):
        return lambda outputs, y: cross_entropy(outputs, y, reduction="none")
    if isinstance(network.loss, SquaredError):
        return lambda outputs, y: (outputs - y).square().sum(1) / 2
    raise LCAError(f"the torch backend does not know the loss {network.loss!r}.")


@singledispatch
def _module(layer: Layer, shape: Shape) -> nn.Module:
    """The module of one layer whose input examples have this shape."""
    raise LCAError(f"the torch backend does not know the layer {layer!r}.")


@_module.register
def _(layer: Dense, shape: Shape) -> nn.Module:
    return nn.Linear(layer.n_in, layer.n_out)


@_module.register
def _(layer: Conv2d, shape: Shape) -> nn.Module:
    return nn.Conv2d(layer.c_in, layer.c_out, layer.kernel, padding=layer.padding)


@_module.register
def _(layer: BatchNorm, shape: Shape) -> nn.Module:
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    norm = kind(layer.n, eps=layer.eps)
    if layer.statistics == "frozen":
        norm.running_mean = torch.tensor(layer.mean, dtype=torch.float64)
        norm.running_var = torch.tensor(layer.variance, dtype=torch.float64)
    return norm


@_module.register
def _(layer: MaxPool2d, shape: Shape) -> nn.Module:
    return nn.MaxPool2d(layer.size)


@_module.register
def _(layer: Dropout, shape: Shape) -> nn.Module:
    return nn.Dropout(layer.p)


@_module.register
def _(layer: ReLU, shape: Shape) -> nn.Module:
    return nn.ReLU()


@_module.register
def _(layer: Tanh, shape: Shape) -> nn.Module:
    return nn.Tanh()


@_module.register
def _(layer: Flatten, shape: Shape) -> nn.Module:
    return nn.Flatten()
