"""Layers with hand-derived gradients: the whole differentiation machinery of the reference.

A layer is a frozen description without state. ``forward`` returns its output and what its gradients
need later; ``write_gradient`` fills views of the flat gradient vector, so nothing is ever concatenated;
``input_gradient`` carries the gradient on, and is simply not called where nobody needs it.

Every formula is analytic in the parameters, which may therefore be complex: the tests differentiate by
complex steps. Where a layer must choose (ReLU, maximum), NumPy orders complex numbers by real part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from lca.errors import LayoutError

Array = np.ndarray
Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = Sequence[Array]
"""The tensors of one layer, in the order of its ``shapes``: (weight, bias), or nothing."""


class Layer(Protocol):
    """One stage of a network, x (n, *input_shape) -> (n, *output_shape)."""

    @property
    def prefix(self) -> str:
        """How names of its tensors begin: ``fc`` in ``fc1.weight``."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Name and shape of each parameter tensor; empty for a layer without parameters."""

    def init(self, rng: np.random.Generator) -> Params:
        """Initial values of the tensors, float64, in the order of ``shapes``."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one output example; a `LayoutError` if the layer cannot follow such an input."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """The output, a new array or a view of x, and a cache for the two gradients below."""

    def write_gradient(self, cache: Any, grad: Array, into: Params) -> None:
        """Overwrite ``into`` with ∂/∂parameters, given ``grad`` = ∂/∂output."""

    def input_gradient(self, params: Params, cache: Any, grad: Array) -> Array:
        """∂/∂x, given ``grad`` = ∂/∂output; ``grad`` itself is left alone."""


class NoParameters:
    """What all layers without parameters share: nothing to name, nothing to write."""

    prefix: ClassVar[str] = ""
    shapes: ClassVar[Mapping[str, Shape]] = {}

    def init(self, rng: np.random.Generator) -> Params:
        """Nothing to start from."""
        return ()

    def write_gradient(self, cache: Any, grad: Array, into: Params) -> None:
        """Nothing to write."""


@dataclass(frozen=True)
class Dense:
    """``out = x Wᵀ + b``: x (n, n_in), W (n_out, n_in), b (n_out,), as in PyTorch.

    With G = ∂ℓ/∂out (n, n_out): ``∂ℓ/∂W = Gᵀ x``, ``∂ℓ/∂b = Σ_n G_n``, ``∂ℓ/∂x = G W``.

    >>> out, _ = Dense(2, 1).forward((np.array([[1.0, 2.0]]), np.array([3.0])), np.array([[4.0, 5.0]]))
    >>> out
    array([[17.]])
    """

    n_in: int
    n_out: int
    prefix: ClassVar[str] = "fc"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {"weight": (self.n_out, self.n_in), "bias": (self.n_out,)}

    def init(self, rng: np.random.Generator) -> Params:
        return he_normal(rng, self.shapes["weight"]), np.zeros(self.n_out)

    def output_shape(self, input_shape: Shape) -> Shape:
        if input_shape != (self.n_in,):
            raise LayoutError(
                f"{self} takes examples of shape ({self.n_in},), got {input_shape}; put Flatten() before it "
                "or correct n_in."
            )
        return (self.n_out,)

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        weight, bias = params
        out = np.matmul(x, weight.T)
        out += bias
        return out, x

    def write_gradient(self, cache: Array, grad: Array, into: Params) -> None:
        weight, bias = into
        np.matmul(grad.T, cache, out=weight)
        # A product with ones: several times faster than a sum over axis 0.
        np.matmul(np.ones(len(grad), grad.dtype), grad, out=bias)

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        into: Array = np.matmul(grad, params[0])
        return into


@dataclass(frozen=True)
class ReLU(NoParameters):
    """``out = max(x, 0)``; the derivative is 1 where x > 0 and 0 elsewhere, the kink included."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        out = np.maximum(x, np.zeros_like(x[:1]))  # NumPy's loop for a scalar 0 takes twice as long
        return out, out

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        into: Array = grad * (cache.real > 0).astype(grad.dtype)  # faster than multiplying by booleans
        return into


@dataclass(frozen=True)
class Tanh(NoParameters):
    """``out = tanh(x)``, with derivative ``1 - out²``."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        out = np.tanh(x)
        return out, out

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        into: Array = grad * (1 - cache * cache)
        return into


@dataclass(frozen=True)
class Flatten(NoParameters):
    """(n, a, b, ...) -> (n, a·b·...), row by row."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def forward(self, params: Params, x: Array) -> tuple[Array, Shape]:
        return x.reshape(len(x), -1), x.shape

    def input_gradient(self, params: Params, cache: Shape, grad: Array) -> Array:
        return grad.reshape(cache)


def he_normal(rng: np.random.Generator, shape: Shape) -> Array:
    """A weight (n_out, ...) with variance 2 / fan-in, fan-in being the entries that make up one output."""
    return rng.normal(0.0, np.sqrt(2 / math.prod(shape[1:])), shape)
