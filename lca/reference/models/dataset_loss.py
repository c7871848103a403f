"""`DatasetLoss`: the loss of a network over a whole data set, the measured loss L(θ) of LCA.

The data set is walked in chunks that fit the cache. Every example counts with its own weight, so the
last, shorter chunk counts as what it is. Chunks are a matter of speed only, unless a `BatchNorm` takes its
statistics from them.
"""

from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np

from lca.errors import DataError
from lca.layout import Layout
from lca.objective import Sum
from lca.reference.data import Batch, Dataset
from lca.reference.data.batches import check_batch_size
from lca.reference.models.network import Network

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class DatasetLoss:
    """``L(θ) = Σ_n w_n ℓ_n(θ) / Σ_n w_n`` over a fixed data set; an `lca.objective.Objective`.

    Parameters
    ----------
    network
        What computes ``ℓ_n(θ)``.
    x, y
        Examples (N, *network.input_shape), floating point, and their targets.
    weight
        Weights (N,), ≥ 0; ``None`` is the plain mean.
    batch_size
        Examples a chunk. It changes speed and rounding, and nothing else unless the network has batch
        statistics (`BatchNorm`): then the chunks are the measuring batches, and it is part of what is
        measured.
    only
        Count only the examples with this label, still divided by the weight of all: see `by_class`.

    Notes
    -----
    θ may be float32 or float64: examples are converted to its dtype once, at first use, and kept. Losses
    are summed, and gradients added up over chunks, in float64; a gradient comes back in θ's dtype.
    With ``batch=Batch(...)`` both methods measure that batch alone, divided by its own total weight.

    Raises
    ------
    DataError
        If examples or targets do not fit the network, e.g. a label out of range, or all weights are 0.
    LayoutError
        If θ does not fit the network.

    Examples
    --------
    >>> from lca.reference.models import logistic_regression
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
    only: int | None = None
    layout: Layout = field(init=False)
    _total_weight: float = field(init=False, repr=False)
    _chunks: dict[np.dtype, tuple[Batch, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        whole = Batch(self.x, self.y, self.weight)
        self.network.check_batch(whole)
        if self.only is not None:
            _check_label(self.only, whole, self.network.n_outputs)
        derived: dict[str, object] = {
            "x": whole.x,
            "y": whole.y,
            "weight": whole.weight,
            "layout": self.network.layout,
            "_total_weight": _total_weight(whole),
            "_chunks": {},  # filled at first use of each dtype; invisible from outside but for the time
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        """L(θ), in the units of the network's loss; costs one forward pass over the data."""
        chunks, weight = self._measured(theta, batch)
        return _mean([self.network.losses(theta, chunk) for chunk in chunks], chunks, weight)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        """L(θ) and ∂L/∂θ, (K,), in θ's dtype; costs one gradient over the data."""
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
    def n_examples(self) -> int:
        """N."""
        return len(self.x)

    @property
    def labels(self) -> Array | None:
        """The class of each example; ``None`` if the targets are numbers."""
        return self.y if self.y.dtype.kind == "i" else None

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        """The examples at ``index``, counting ``weight`` each (default: 1), whatever they weigh in L(θ)."""
        return Batch(self.x[index], self.y[index], weight)

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` of every example, float64: ``1 - p_model(y_n)`` under cross-entropy.

        For the examples of ``batch``, by default for all. Costs one forward pass.
        """
        if self.only is not None:
            y = self.y if batch is None else batch.y
            return np.where(y == self.only, replace(self, only=None).scores(theta, batch), 0.0)
        chunks, _ = self._measured(theta, batch)
        outputs = (self.network.forward(theta, chunk.x) for chunk in chunks)
        grads = [self.network.loss.value_and_grad(f, c.y)[1] for f, c in zip(outputs, chunks, strict=True)]
        scores: Array = np.abs(np.concatenate(grads)).sum(axis=1, dtype=np.float64) / 2
        return scores

    def by_class(self) -> Sum:
        """L(θ) as a `Sum` of one term an output, ``class 0``, ``class 1``, ..., that add up to L(θ).

        A term is ``Σ_{n in class} w_n ℓ_n / Σ_n w_n``: the class's own mean times its share of the weight;
        0 where there are no such examples. All terms together cost one pass over the data, and hold a
        second copy of it.
        """
        classes = range(self.network.n_outputs)
        return Sum({f"class {label}": replace(self, only=label) for label in classes})

    def _measured(self, theta: Array, batch: Batch | None) -> tuple[tuple[Batch, ...], float]:
        """What to measure at θ, in chunks of θ's precision, and the weight to divide by."""
        self.layout.check(theta, "theta")
        dtype = theta.real.dtype
        if batch is not None:
            self.network.check_batch(batch)
            return self._cut(batch, dtype), _total_weight(batch)
        if dtype not in self._chunks:
            self._chunks[dtype] = self._cut(Batch(self.x, self.y, self.weight), dtype)
        return self._chunks[dtype], self._total_weight

    def _cut(self, batch: Batch, dtype: np.dtype) -> tuple[Batch, ...]:
        if self.only is not None:
            mine = batch.y == self.only
            if not mine.any():
                return ()
            batch = _alone(batch, mine) if self.network.mixes_examples else batch.take(mine)
        if len(batch) <= self.batch_size:
            return (batch.astype(dtype),)
        chunks = Dataset(batch.x, batch.y, batch.weight, self.batch_size)
        return tuple(chunk.astype(dtype) for chunk in chunks)


def _alone(batch: Batch, mine: Array) -> Batch:
    """Only these examples count, but the others are there and shape the statistics."""
    return Batch(batch.x, batch.y, mine if batch.weight is None else mine * batch.weight)


def _check_label(label: int, data: Batch, n_outputs: int) -> None:
    if data.y.ndim != 1:
        raise DataError("only labelled data have classes; this data set has floating-point targets.")
    if not 0 <= label < n_outputs:
        raise DataError(f"only={label} is none of the labels 0..{n_outputs - 1}; choose one of them or None.")


def _total_weight(batch: Batch) -> float:
    if batch.total_weight == 0:
        raise DataError("a mean needs some weight, but all weights are 0; drop the batch or its weights.")
    return batch.total_weight


def _mean(losses: list[Array], chunks: tuple[Batch, ...], weight: float) -> float:
    """``Σ w_n ℓ_n / weight`` in float64 (complex128 for complex-step tests)."""
    total = np.float64(0)
    for part, chunk in zip(losses, chunks, strict=True):
        wide = part.astype(np.result_type(part, np.float64), copy=False)
        total = total + (wide.sum() if chunk.weight is None else wide @ chunk.weight)
    mean: float = (total / weight).item()
    return mean
