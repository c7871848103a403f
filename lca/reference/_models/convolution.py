"""Convolution and pooling, implemented with one matrix product and shifted copies.

Images have shape (n, channels, height, width), as in PyTorch. In memory, a convolution stores channels
outermost: one matrix product then handles the whole chunk, and the result is returned as an
(n, channels, ...) view that the next convolution reads without a copy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lca.errors import LayoutError
from lca.reference._models.layers import Array, ParameterFree, Params, Shape, he_normal, product

ConvCache: TypeAlias = tuple[Array, Shape]
PoolCache: TypeAlias = tuple[Array, Array]


@dataclass(frozen=True)
class Conv2d:
    """Two-dimensional convolution with stride 1, as ``torch.nn.Conv2d``.

    For x (n, c, h, w), W (o, c, k, k), b (o,) and padding p,
    ``out[n, o, i, j] = b_o + Σ_{c,u,v} W[o, c, u, v] x[n, c, i + u - p, j + v - p]``, with x = 0 outside
    the image. The output has height ``h' = h + 2p - k + 1`` and width ``w' = w + 2p - k + 1``. With the
    windows of x as the columns of X (c·k·k, n·h'·w'), this is ``W X + b``. Hence ``∂ℓ/∂W = G Xᵀ`` with
    G = ∂ℓ/∂out, and ``∂ℓ/∂x`` adds each column of ``Wᵀ G`` to the window it came from.

    X holds k² copies of the chunk; for large images, lower the ``batch_size`` of `DatasetLoss`.

    Parameters
    ----------
    c_in, c_out
        Input channels c and output channels o.
    kernel
        Height and width k of the kernel.
    padding
        Rows and columns p of zeros on each side.

    Examples
    --------
    >>> Conv2d(1, 20, 5, padding=2).output_shape((1, 28, 28))
    (20, 28, 28)
    """

    c_in: int
    c_out: int
    kernel: int
    padding: int = 0
    prefix: ClassVar[str] = "conv"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {"weight": (self.c_out, self.c_in, self.kernel, self.kernel), "bias": (self.c_out,)}

    def init(self, rng: np.random.Generator) -> Params:
        return he_normal(rng, self.shapes["weight"]), np.zeros(self.c_out)

    def output_shape(self, input_shape: Shape) -> Shape:
        smallest = self.kernel - 2 * self.padding
        if len(input_shape) != 3 or input_shape[0] != self.c_in or min(input_shape[1:]) < smallest:
            raise LayoutError(
                f"{self} takes images of shape ({self.c_in}, height, width) with sides ≥ {smallest}, got "
                f"{input_shape}; reshape the examples or choose a smaller kernel."
            )
        return (self.c_out, *(side - smallest + 1 for side in input_shape[1:]))

    def forward(self, params: Params, x: Array) -> tuple[Array, ConvCache]:
        weight, bias = params
        columns = self._columns(x)
        out = product(weight.reshape(self.c_out, -1), columns)
        out += bias[:, None]
        n, (_, *sides) = len(x), self.output_shape(x.shape[1:])
        return out.reshape(self.c_out, n, *sides).swapaxes(0, 1), (columns, x.shape)

    def write_gradient(self, cache: ConvCache, grad: Array, into: Params) -> None:
        weight, bias = into
        grad = _channels_first(grad)
        product(grad, cache[0].T, weight.reshape(self.c_out, -1))
        np.sum(grad, axis=1, out=bias)

    def input_gradient(self, params: Params, cache: ConvCache, grad: Array) -> Array:
        n, c, h, w = cache[1]
        k, p, (rows, cols) = self.kernel, self.padding, grad.shape[2:]
        columns = product(params[0].reshape(self.c_out, -1).T, _channels_first(grad))
        columns = columns.reshape(c, k, k, n, rows, cols)
        padded = np.zeros((c, n, h + 2 * p, w + 2 * p), dtype=columns.dtype)
        for u in range(k):
            for v in range(k):
                padded[:, :, u : u + rows, v : v + cols] += columns[:, u, v]
        return padded[:, :, p : p + h, p : p + w].swapaxes(0, 1)

    def _columns(self, x: Array) -> Array:
        """All windows of x as columns, (c·k·k, n·h'·w'); rows are ordered by channel, then position."""
        n, c, h, w = x.shape
        k, p = self.kernel, self.padding
        padded = np.zeros((c, n, h + 2 * p, w + 2 * p), dtype=x.dtype)
        padded[:, :, p : p + h, p : p + w] = x.swapaxes(0, 1)
        windows = sliding_window_view(padded, (k, k), axis=(2, 3))
        return windows.transpose(0, 4, 5, 1, 2, 3).reshape(c * k * k, -1)


@dataclass(frozen=True)
class MaxPool2d(ParameterFree):
    """Maximum pooling over disjoint ``size`` x ``size`` tiles, as ``torch.nn.MaxPool2d(size)``.

    Rows and columns that do not fill a tile are dropped. The gradient goes to the maximum of each tile; if
    several entries are equal, it goes to the first one in row-major order.

    Parameters
    ----------
    size
        Height and width of a tile, and the stride.

    Examples
    --------
    >>> MaxPool2d(2).output_shape((20, 9, 8))
    (20, 4, 4)
    """

    size: int = 2

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 3 or min(input_shape[1:]) < self.size:
            raise LayoutError(
                f"{self} takes images of shape (channels, height, width) with sides ≥ {self.size}, got "
                f"{input_shape}; remove a pooling layer or use larger images."
            )
        return (input_shape[0], *(side // self.size for side in input_shape[1:]))

    def forward(self, params: Params, x: Array) -> tuple[Array, PoolCache]:
        first, *others = self._corners(x)
        out = first.copy(order="K")
        for corner in others:
            np.maximum(out, corner, out=out)
        return out, (x, out)

    def input_gradient(self, params: Params, cache: PoolCache, grad: Array) -> Array:
        x, out = cache
        # zeros_like keeps the memory order of x, which the convolution below needs to avoid a copy.
        into = np.zeros_like(x, dtype=grad.dtype)
        free = np.ones(out.shape, dtype=bool)
        for corner, target in zip(self._corners(x), self._corners(into), strict=True):
            hit = free & (corner == out)
            np.multiply(grad, hit, out=target)
            free &= ~hit
        return into

    def _corners(self, x: Array) -> Iterator[Array]:
        """One view of x per position in a tile, in row-major order: that position in all tiles."""
        rows, cols = (side // self.size * self.size for side in x.shape[2:])
        for u in range(self.size):
            for v in range(self.size):
                yield x[:, :, u : rows : self.size, v : cols : self.size]


def _channels_first(grad: Array) -> Array:
    """(n, o, h, w) -> (o, n·h·w); a view if ``grad`` is stored with channels outermost."""
    return grad.swapaxes(0, 1).reshape(grad.shape[1], -1)
