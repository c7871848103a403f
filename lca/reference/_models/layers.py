"""Layers with hand-derived gradients; the reference needs no automatic differentiation.

A layer is an immutable description without parameters or state. ``forward`` returns the output and a cache
for the gradients. ``write_gradient`` writes the parameter gradients into views of the flat gradient vector,
without concatenation. ``input_gradient`` propagates the gradient to the layer below.

Parameters may be complex, because the tests check the gradients with complex steps. All formulas are
analytic in the parameters, and where a layer compares numbers (ReLU, maximum), NumPy orders complex numbers
by their real part.
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
"""The parameter tensors of one layer, in the order of its ``shapes``: (weight, bias), or none."""


class Layer(Protocol):
    """One layer of a network: x (n, *input_shape) -> out (n, *output_shape).

    Examples
    --------
    A layer is used by a `Network`, or directly:

    >>> layer = Dense(3, 2)
    >>> params = layer.init(np.random.default_rng(0))
    >>> out, cache = layer.forward(params, np.ones((5, 3)))
    >>> layer.input_gradient(params, cache, np.ones((5, 2))).shape
    (5, 3)
    """

    @property
    def prefix(self) -> str:
        """The beginning of the names of its tensors: ``fc`` in ``fc1.weight``."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Name and shape of each parameter tensor; empty for a layer without parameters."""

    def init(self, rng: np.random.Generator) -> Params:
        """Initial values of the tensors, float64, in the order of ``shapes``."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the output of one example; raises `LayoutError` if the input shape does not fit."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """The output (a new array or a view of x), and a cache for the two gradient methods."""

    def write_gradient(self, cache: Any, grad: Array, into: Params) -> None:
        """Overwrite ``into`` with ∂ℓ/∂parameters, given ``grad`` = ∂ℓ/∂out (n, *output_shape)."""

    def input_gradient(self, params: Params, cache: Any, grad: Array) -> Array:
        """∂ℓ/∂x (n, *input_shape), given ``grad`` = ∂ℓ/∂out; ``grad`` is not modified."""


class ParameterFree:
    """Base class of the layers without parameters."""

    prefix: ClassVar[str] = ""
    shapes: ClassVar[Mapping[str, Shape]] = {}

    def init(self, rng: np.random.Generator) -> Params:
        """Return no tensors."""
        return ()

    def write_gradient(self, cache: Any, grad: Array, into: Params) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, ``out = x Wᵀ + b``, as ``torch.nn.Linear``.

    Shapes: x (n, n_in), W (n_out, n_in), b (n_out,). With G = ∂ℓ/∂out (n, n_out), ``∂ℓ/∂W = Gᵀ x``,
    ``∂ℓ/∂b = Σ_n G_n`` and ``∂ℓ/∂x = G W``.

    Parameters
    ----------
    n_in, n_out
        Number of inputs and outputs.

    Examples
    --------
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
                f"{self} takes examples of shape ({self.n_in},), got {input_shape}; insert Flatten() before "
                "it or correct n_in."
            )
        return (self.n_out,)

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        weight, bias = params
        out = product(x, weight.T)
        out += bias
        return out, x

    def write_gradient(self, cache: Array, grad: Array, into: Params) -> None:
        weight, bias = into
        product(grad.T, cache, weight)
        # A product with a vector of ones is several times faster than a sum over axis 0.
        product(np.ones(len(grad), grad.dtype), grad, bias)

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        return product(grad, params[0])


@dataclass(frozen=True)
class ReLU(ParameterFree):
    """``out = max(x, 0)``; the derivative is 1 for x > 0, and 0 for x ≤ 0.

    Examples
    --------
    >>> ReLU().forward((), np.array([[-1.0, 2.0]]))[0]
    array([[0., 2.]])
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        out = np.maximum(x, np.zeros_like(x[:1]))  # twice as fast as with a scalar 0
        return out, out

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        into: Array = grad * (cache.real > 0).astype(grad.dtype)  # faster than multiplying by booleans
        return into


@dataclass(frozen=True)
class Tanh(ParameterFree):
    """``out = tanh(x)``, with derivative ``1 - out²``.

    Examples
    --------
    >>> Tanh().forward((), np.array([[0.0]]))[0]
    array([[0.]])
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        out = np.tanh(x)
        return out, out

    def input_gradient(self, params: Params, cache: Array, grad: Array) -> Array:
        into: Array = grad * (1 - cache * cache)
        return into


@dataclass(frozen=True)
class Flatten(ParameterFree):
    """Reshape (n, a, b, ...) to (n, a·b·...), in row-major order.

    Examples
    --------
    >>> Flatten().output_shape((3, 4, 5))
    (60,)
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def forward(self, params: Params, x: Array) -> tuple[Array, Shape]:
        return x.reshape(len(x), -1), x.shape

    def input_gradient(self, params: Params, cache: Shape, grad: Array) -> Array:
        return grad.reshape(cache)


def he_normal(rng: np.random.Generator, shape: Shape) -> Array:
    """A weight (n_out, ...) from a normal distribution with variance 2 / fan-in (He et al. 2015)."""
    return rng.normal(0.0, np.sqrt(2 / math.prod(shape[1:])), shape)


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """``a @ b`` for a (n, k) or (k,) and b (k, m), written into ``out`` if given.

    Some BLAS kernels multiply by 0 what the memory held before, where NaN stays NaN, or raise the flag of an
    invalid operation for padding that no result contains. So the memory begins with zeros, and the values
    decide: whoever asks for a loss checks that it is finite.
    """
    if out is None:
        out = np.zeros((*a.shape[:-1], b.shape[1]), np.result_type(a, b))
    else:
        out.fill(0)
    with np.errstate(invalid="ignore"):
        return np.matmul(a, b, out=out)
