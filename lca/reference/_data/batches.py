"""`Batch` and `Dataset`: validated examples, whole or in mini-batches.

Validation happens once, on construction. All other code may rely on equal lengths, finite floating-point
features, and batches that are not empty. A smaller last batch is kept and weighted by its size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lca.errors import DataError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Batch:
    """n examples: features, targets, and optional weights.

    Parameters
    ----------
    x
        Features, shape (n, ...), floating point and finite.
    y
        Targets: integer labels (n,), or floating-point targets (n, m).
    weight
        Weights (n,), finite and ≥ 0; ``None`` means 1 for every example. The mean loss of the batch is
        ``Σ w_n ℓ_n / Σ w_n``.
    index
        Positions of the examples in the data set they were taken from, integers (n,), if known.

    Raises
    ------
    DataError
        If the batch is empty, lengths differ, ``x`` is not floating point or not finite, or a weight is
        negative or not finite.

    Examples
    --------
    >>> batch = Batch(np.zeros((3, 2)), np.array([0, 1, 1]), np.array([1.0, 0.5, 0.5]))
    >>> len(batch), batch.total_weight
    (3, 2.0)
    """

    x: Array
    y: Array
    weight: Array | None = None
    index: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _features(self.x))
        object.__setattr__(self, "y", _targets(self.y, len(self.x)))
        if self.weight is not None:
            object.__setattr__(self, "weight", _weights(self.weight, len(self.x)))
        if self.index is not None:
            object.__setattr__(self, "index", _index(self.index, len(self.x)))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def total_weight(self) -> float:
        """``Σ_n w_n``; without weights, the number of examples."""
        return float(len(self) if self.weight is None else self.weight.sum())

    def take(self, index: Array | slice) -> "Batch":
        """Return the examples at ``index`` (a slice, a boolean mask or positions) as a new batch."""
        weight, position = (None if a is None else a[index] for a in (self.weight, self.index))
        return Batch(self.x[index], self.y[index], weight, position)

    def astype(self, dtype: npt.DTypeLike) -> "Batch":
        """Return the same examples with features and floating-point targets in ``dtype``.

        Labels and weights keep their dtype.
        """
        y = self.y if self.y.dtype.kind == "i" else self.y.astype(dtype, copy=False)
        return Batch(self.x.astype(dtype, copy=False), y, self.weight, self.index)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A fixed set of N examples; iterating yields batches of ``batch_size``, in order.

    Parameters
    ----------
    x, y, weight
        As in `Batch`, for all N examples.
    batch_size
        Examples per batch. The last batch may be smaller; it is not dropped.

    Raises
    ------
    DataError
        If the examples are invalid (see `Batch`), or ``batch_size`` is not a positive integer.

    Examples
    --------
    >>> data = Dataset(np.zeros((5, 2)), np.zeros(5, int), batch_size=2)
    >>> [len(batch) for batch in data]
    [2, 2, 1]
    """

    x: Array
    y: Array
    weight: Array | None = None
    batch_size: int = 1000

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        whole = Batch(self.x, self.y, self.weight)
        for name in ("x", "y", "weight"):
            object.__setattr__(self, name, getattr(whole, name))

    @classmethod
    def from_batches(cls, batches: Sequence[Batch]) -> "Dataset":
        """Concatenate batches of any sizes; an example of a batch without weights has weight 1.

        Raises
        ------
        DataError
            If there are no batches, or their feature shapes or target types differ.
        """
        if not batches:
            raise DataError("a data set needs at least one batch, got an empty sequence.")
        first = batches[0]
        for i, batch in enumerate(batches):
            _check_alike(first, batch, i)
        weight = None
        if any(batch.weight is not None for batch in batches):
            weight = np.concatenate([np.ones(len(b)) if b.weight is None else b.weight for b in batches])
        x, y = np.concatenate([b.x for b in batches]), np.concatenate([b.y for b in batches])
        return cls(x, y, weight, batch_size=max(len(batch) for batch in batches))

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        whole = Batch(self.x, self.y, self.weight)
        for start in range(0, len(whole), self.batch_size):
            yield whole.take(slice(start, start + self.batch_size))


def check_batch_size(batch_size: int) -> None:
    """Raise `DataError` unless ``batch_size`` is a positive integer."""
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise DataError(f"batch_size must be a positive integer, got {batch_size!r}.")


def _features(x: npt.ArrayLike) -> Array:
    x = np.asarray(x)
    if x.ndim < 1 or x.size == 0:
        raise DataError(f"x must hold at least one example with at least one feature, got shape {x.shape}.")
    if x.dtype.kind != "f":
        # Integers are refused, not converted: pixels left at 0..255 are a common silent mistake.
        raise DataError(f"x must be floating point, got {x.dtype}; scale pixels first, e.g. x / 255.0.")
    finite = np.isfinite(x)
    if not finite.all():
        bad = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"x must be finite, got {x[bad]} in example {bad[0]} (index {bad}); clean the data.")
    return x


def _targets(y: npt.ArrayLike, n: int) -> Array:
    y = np.asarray(y)
    if len(y.shape) < 1 or len(y) != n:
        raise DataError(f"x and y must have one row per example: x has {n} rows, y has shape {y.shape}.")
    if y.dtype.kind in "iu" and y.ndim == 1:
        return y.astype(np.int64, copy=False)
    if y.dtype.kind == "f" and y.ndim == 2:
        return y
    raise DataError(
        f"y must be integer labels of shape (n,) or floating-point targets of shape (n, m), got {y.dtype} "
        f"of shape {y.shape}; use y.astype(int) for labels, y.reshape(n, -1).astype(float) for targets."
    )


def _weights(weight: npt.ArrayLike, n: int) -> Array:
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n,):
        raise DataError(f"weight must have shape ({n},), one entry per example, got {weight.shape}.")
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise DataError(
            f"weights must be finite and ≥ 0, got {weight[bad[0]]} for example {bad[0]}; drop the example or "
            "pass weight=None."
        )
    return weight


def _index(index: npt.ArrayLike, n: int) -> Array:
    index = np.asarray(index)
    if index.shape != (n,) or index.dtype.kind not in "iu":
        raise DataError(
            f"index must hold one integer per example, shape ({n},), got {index.dtype} of shape "
            f"{index.shape}."
        )
    return index


def _check_alike(first: Batch, batch: Batch, position: int) -> None:
    if first.x.shape[1:] != batch.x.shape[1:]:
        raise DataError(
            f"batches must share one feature shape: batch 0 has {first.x.shape[1:]}, batch {position} has "
            f"{batch.x.shape[1:]}; pad or crop the examples to one shape."
        )
    if (first.y.dtype.kind, first.y.shape[1:]) != (batch.y.dtype.kind, batch.y.shape[1:]):
        raise DataError(
            f"batches must share one type of target: batch 0 has {first.y.dtype} {first.y.shape[1:]}, batch "
            f"{position} has {batch.y.dtype} {batch.y.shape[1:]}; convert them to one dtype and shape."
        )
