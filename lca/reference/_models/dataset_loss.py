"""`DatasetLoss`: the mean loss of a network over a whole data set, the measured loss L(θ) of LCA.

The data set is evaluated in chunks that fit into the cache. Every example has its own weight, so a smaller
last chunk has less weight. The chunk size affects speed and rounding only, unless the network has a
`BatchNorm` with the statistics of the batch.
"""

from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np

from lca.by_example import ExampleSlopes
from lca.errors import DataError
from lca.groups import Groups
from lca.layout import Layout
from lca.objective import Sum
from lca.reference._data import Batch, Dataset
from lca.reference._data.batches import check_batch_size
from lca.reference._models.by_example import example_slopes
from lca.reference._models.network import Network

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class DatasetLoss:
    """``L(θ) = Σ_n w_n ℓ_n(θ) / Σ_n w_n`` over a fixed data set; an `lca.Objective`.

    Parameters
    ----------
    network
        The layers and the loss ``ℓ_n(θ)`` of an example.
    x, y
        Examples (N, *network.input_shape), floating point, and their targets.
    weight
        Weights w (N,), ≥ 0; ``None`` means 1 for every example.
    batch_size
        Examples per chunk. If the network has a `BatchNorm` with the statistics of the batch, the chunks are
        the measuring batches and this number is part of the definition of L; otherwise it affects speed and
        rounding only.
    only_label
        Include only the examples with this label, but divide by the total weight of all examples, as the
        terms of `by_class` do.

    Raises
    ------
    DataError
        If examples or targets do not fit the network, e.g. a label is out of range, or all weights are 0.
    LayoutError
        When a method is called with a θ that does not fit the network.

    Notes
    -----
    θ may be float32 or float64. The examples are converted to its dtype on first use, and the converted copy
    is kept. Losses and gradients are accumulated over chunks in float64; the gradient is returned in θ's
    dtype. With ``batch=Batch(...)`` the methods evaluate the mean over that batch.

    Examples
    --------
    >>> from lca.reference import logistic_regression
    >>> objective = DatasetLoss(logistic_regression(2, 4), np.ones((3, 2)), np.array([0, 1, 3]))
    >>> loss, grad = objective.loss_and_grad(np.zeros(12))
    >>> bool(abs(loss - np.log(4)) < 1e-15), grad.shape
    (True, (12,))
    """

    network: Network
    x: Array
    y: Array
    _: KW_ONLY
    weight: Array | None = None
    batch_size: int = 1000
    only_label: int | None = None
    layout: Layout = field(init=False)
    _total_weight: float = field(init=False, repr=False)
    _chunks: dict[np.dtype, tuple[Batch, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        whole = Batch(self.x, self.y, self.weight)
        self.network.check_batch(whole)
        if self.only_label is not None:
            _check_label(self.only_label, whole, self.network.n_outputs)
        derived: dict[str, object] = {
            "x": whole.x,
            "y": whole.y,
            "weight": whole.weight,
            "layout": self.network.layout,
            "_total_weight": _total_weight(whole),
            "_chunks": {},  # a cache, filled on the first use of each dtype
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        """L(θ), a float in the units of the network's loss. Cost: one forward pass over the data."""
        chunks, weight = self._measured(theta, batch)
        return _mean([self.network.losses(theta, chunk) for chunk in chunks], chunks, weight)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        """L(θ), and ∂L/∂θ (K,) in θ's dtype, a new array. Cost: one gradient over the data."""
        chunks, weight = self._measured(theta, batch)
        part = np.empty_like(theta)
        grad = np.zeros(theta.shape, np.result_type(theta, np.float64))
        losses = []
        for chunk in chunks:
            losses.append(self.network.losses_and_grad(theta, chunk, part))
            grad += part
        grad /= weight
        return _mean(losses, chunks, weight), grad.astype(theta.dtype, copy=False)

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed; that of frozen ones is 0."""
        return frozenset(self.layout.names) - frozenset(self.network.frozen)

    @property
    def n_examples(self) -> int:
        """N, the number of examples in the data set."""
        return len(self.x)

    @property
    def labels(self) -> Array | None:
        """The class of each example (N,), int64; ``None`` if the targets are floating point."""
        return self.y if self.y.dtype.kind == "i" else None

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        """The examples at ``index`` with the given weights (default: 1), instead of their weights in L(θ)."""
        return Batch(self.x[index], self.y[index], weight)

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        """Importance scores: ``½ Σ_j |∂ℓ_n/∂f_j|`` for each example, float64, with outputs f.

        With cross-entropy this is ``1 - p_model(y_n)``. Scores are computed for the examples of ``batch``, by
        default for all N. Cost: one forward pass.
        """
        if self.only_label is not None:
            y = self.y if batch is None else batch.y
            return np.where(y == self.only_label, replace(self, only_label=None).scores(theta, batch), 0.0)
        chunks, _ = self._measured(theta, batch)
        outputs = (self.network.forward(theta, chunk.x) for chunk in chunks)
        grads = [self.network.loss.value_and_grad(f, c.y)[1] for f, c in zip(outputs, chunks, strict=True)]
        scores: Array = np.abs(np.concatenate(grads)).sum(axis=1, dtype=np.float64) / 2
        return scores

    def by_example(
        self, theta: Array, movement: Array, groups: Groups, index: Array, *, chunk: int = 8
    ) -> ExampleSlopes:
        """The losses of examples (n,), and their derivatives along the movement of each group (groups, n).

        As `lca.by_example.Separable`; ``chunk`` has no effect. Cost: one gradient over these examples, and a
        forward pass of its layers for each group.

        Raises
        ------
        LCAError
            If the network has a `BatchNorm` with the statistics of the batch.
        """
        self.layout.check(theta, "theta")
        parts = [
            example_slopes(self.network, theta, part.astype(theta.dtype), movement, groups)
            for part in Dataset(self.x[index], self.y[index], None, self.batch_size)
        ]
        counted = np.ones(len(index)) if self.only_label is None else self.y[index] == self.only_label
        losses = counted * np.concatenate([part.losses for part in parts])
        return ExampleSlopes(losses, counted * np.concatenate([part.slopes for part in parts], axis=1))

    def by_class(self) -> Sum:
        """L(θ) as a `Sum` with one term per class: ``class 0``, ``class 1``, ....

        The term of a class is ``Σ_{n in class} w_n ℓ_n / Σ_n w_n``: the mean loss of the class times its
        share of the total weight, and 0 for a class without examples. The terms add up to L(θ). Evaluating
        all of them costs one pass over the data; they hold a second copy of the examples.
        """
        classes = range(self.network.n_outputs)
        terms = {f"class {label}": replace(self, only_label=label) for label in classes}
        return Sum(terms, whole=self)

    def _measured(self, theta: Array, batch: Batch | None) -> tuple[tuple[Batch, ...], float]:
        """The chunks to evaluate, in θ's precision, and the total weight to divide by."""
        self.layout.check(theta, "theta")
        dtype = theta.real.dtype
        if batch is not None:
            self.network.check_batch(batch)
            return self._cut(batch, dtype), _total_weight(batch)
        if dtype not in self._chunks:
            self._chunks[dtype] = self._cut(Batch(self.x, self.y, self.weight), dtype)
        return self._chunks[dtype], self._total_weight

    def _cut(self, batch: Batch, dtype: np.dtype) -> tuple[Batch, ...]:
        if self.only_label is not None:
            selected = batch.y == self.only_label
            if not selected.any():
                return ()
            mixed = self.network.mixes_examples
            batch = _with_zero_weights(batch, ~selected) if mixed else batch.take(selected)
        if len(batch) <= self.batch_size:
            return (batch.astype(dtype),)
        chunks = Dataset(batch.x, batch.y, batch.weight, self.batch_size)
        return tuple(chunk.astype(dtype) for chunk in chunks)


def _with_zero_weights(batch: Batch, excluded: Array) -> Batch:
    """The batch with weight 0 for the excluded examples, which still enter the batch statistics."""
    return Batch(batch.x, batch.y, np.where(excluded, 0.0, 1.0 if batch.weight is None else batch.weight))


def _check_label(label: int, data: Batch, n_outputs: int) -> None:
    if data.y.ndim != 1:
        raise DataError(
            "classes need integer labels, but this data set has floating-point targets; pass only_label=None."
        )
    if not 0 <= label < n_outputs:
        raise DataError(
            f"only_label must be one of the labels 0..{n_outputs - 1} or None, got {label}; the network has "
            f"{n_outputs} outputs."
        )


def _total_weight(batch: Batch) -> float:
    if batch.total_weight == 0:
        raise DataError(
            "a mean needs a total weight > 0, but all weights are 0; drop the batch or its weights."
        )
    return batch.total_weight


def _mean(losses: list[Array], chunks: tuple[Batch, ...], weight: float) -> float:
    """``Σ w_n ℓ_n / weight`` in float64, or in complex128 for complex losses (complex-step tests)."""
    total = np.float64(0)
    for part, chunk in zip(losses, chunks, strict=True):
        wide = part.astype(np.result_type(part, np.float64), copy=False)
        total = total + (wide.sum() if chunk.weight is None else wide @ chunk.weight)
    mean: float = (total / weight).item()
    return mean
