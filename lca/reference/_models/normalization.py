"""Batch normalisation and dropout as they are evaluated in a measured loss.

A measured loss must be a function of θ and the data. In training mode, frameworks draw dropout masks at
random and update running statistics at every call. These layers define what a backend must compute instead;
the conformance kit compares its policies with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np

from lca.errors import DataError, LayoutError, LCAError, UnknownNameError
from lca.reference._models.layers import Array, ParameterFree, Params, Shape

Statistics = Literal["batch", "frozen"]
Cache: TypeAlias = tuple[Array, Array]


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation, ``out = γ x̂ + β`` with ``x̂ = (x - μ) / √(σ² + eps)`` for each channel (axis 1).

    With ``statistics="batch"``, μ and σ² are the mean and the biased variance of x over the measuring batch
    (all axes but 1), and the gradient includes their dependence on x, as in the LCA paper. With G = ∂ℓ/∂out
    and Ĝ = γ G / √(σ² + eps), ``∂ℓ/∂γ = Σ G x̂``, ``∂ℓ/∂β = Σ G`` and
    ``∂ℓ/∂x = Ĝ - mean(Ĝ) - x̂ mean(Ĝ x̂)``, with sums and means over the same axes.

    With ``statistics="frozen"``, μ and σ² are the given running statistics, treated as constants:
    ``∂ℓ/∂x = Ĝ``.

    With batch statistics the loss of an example depends on the other examples of its measuring batch (a chunk
    of `DatasetLoss`, or the batch that is passed). The measured loss therefore depends on the size and the
    order of the measuring batches. Example weights enter the mean of the loss, not the statistics.

    Parameters
    ----------
    n
        Number of channels of x (m, n, ...).
    statistics
        ``"batch"`` or ``"frozen"``.
    mean, variance
        Running statistics (n,). Required with ``"frozen"``, ignored with ``"batch"``.
    eps
        Added to the variance, > 0.

    Raises
    ------
    LCAError
        If the running statistics are missing, have another length, or are not finite.
    DataError
        When a measuring batch has fewer than two values per channel, so that its variance would be 0.

    Examples
    --------
    >>> out, _ = BatchNorm(1, eps=1e-12).forward((np.ones(1), np.zeros(1)), np.array([[3.0], [5.0]]))
    >>> out.round(6).ravel()
    array([-1.,  1.])
    """

    n: int
    statistics: Statistics = "batch"
    mean: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()
    eps: float = 1e-5
    prefix: ClassVar[str] = "bn"

    def __post_init__(self) -> None:
        if self.statistics not in get_args(Statistics):
            raise UnknownNameError("statistics", self.statistics, get_args(Statistics))
        if not 0 < self.eps < float("inf"):
            raise LCAError(f"BatchNorm needs a finite eps > 0, got {self.eps}.")
        for name in ("mean", "variance"):
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != self.n and (values or self.statistics == "frozen"):
                raise LCAError(
                    f"BatchNorm({self.n}, {self.statistics!r}) needs {self.n} running values in {name}, one "
                    f"per channel, got {len(values)}; pass those of the trained model."
                )
            if not np.isfinite(values).all() or (name == "variance" and min(values, default=0) < 0):
                raise LCAError(f"running {name} must be finite, and a variance ≥ 0, got {values}.")

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {"weight": (self.n,), "bias": (self.n,)}

    def init(self, rng: np.random.Generator) -> Params:
        return np.ones(self.n), np.zeros(self.n)

    def output_shape(self, input_shape: Shape) -> Shape:
        if input_shape[:1] != (self.n,):
            raise LayoutError(
                f"{self} takes examples of shape ({self.n}, ...), got {input_shape}; correct n, the number "
                "of channels."
            )
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Cache]:
        weight, bias = (_by_channel(p, x) for p in params)
        if self.statistics == "batch":
            centred = x - _mean(x)
            variance = _mean(centred * centred)  # not |centred|², which is not analytic
        else:
            mean, variance = (_by_channel(np.array(v, x.real.dtype), x) for v in (self.mean, self.variance))
            centred = x - mean
        scale = 1 / np.sqrt(variance + self.eps)
        normalised = centred * scale
        return normalised * weight + bias, (normalised, scale)

    def write_gradient(self, cache: Cache, grad: Array, into: Params) -> None:
        weight, bias = into
        axes = _all_but_channel(grad)
        np.sum(grad * cache[0], axis=axes, out=weight)
        np.sum(grad, axis=axes, out=bias)

    def input_gradient(self, params: Params, cache: Cache, grad: Array) -> Array:
        normalised, scale = cache
        into: Array = grad * (_by_channel(params[0], grad) * scale)
        if self.statistics == "batch":
            into -= _mean(into) + normalised * _mean(into * normalised)
        return into


@dataclass(frozen=True)
class Dropout(ParameterFree):
    """Dropout in a measured loss: the identity, for every ``p``.

    A measured loss is deterministic, so a backend must disable its dropout layers; the conformance kit checks
    this with networks that contain this layer. The reference also trains without dropout.

    Parameters
    ----------
    p
        Probability in [0, 1) with which a framework drops a unit in training mode.

    Raises
    ------
    LCAError
        If p is outside [0, 1).

    Examples
    --------
    >>> x = np.array([[1.0, 2.0]])
    >>> Dropout(0.5).forward((), x)[0] is x
    True
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise LCAError(f"Dropout needs a probability p in [0, 1), got {self.p}.")

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, None]:
        return x, None

    def input_gradient(self, params: Params, cache: None, grad: Array) -> Array:
        return grad


def _all_but_channel(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _mean(x: Array) -> Array:
    """The mean of each channel, (1, n, 1, ...), accumulated in float64 or complex128."""
    if x.size < 2 * x.shape[1]:
        raise DataError(
            "batch statistics need at least two values per channel, got one example; choose a batch size "
            "that does not leave a last batch of one example, or use BatchNorm(statistics='frozen')."
        )
    wide = np.mean(x, axis=_all_but_channel(x), dtype=np.result_type(x, np.float64), keepdims=True)
    mean: Array = wide.astype(x.dtype)
    return mean


def _by_channel(values: Array, x: Array) -> Array:
    """Reshape (n,) to (n, 1, ...), to broadcast against x (m, n, ...)."""
    return values.reshape(-1, *(1 for _ in x.shape[2:]))
