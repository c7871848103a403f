"""`DrawnRows`: whether batches repeat examples as often as draws with replacement do."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from lca.frameworks import examples_in, tensors_in
from lca.frameworks._data import Rows
from lca.frameworks._trees import is_rows
from lca.objective import Batch

Numbers = NDArray[np.int64]
RARE = 1e-6
"""Significance level: fewer repeats are not taken for chance."""
ENOUGH = 60.0
"""Rows are compared until draws with replacement would have given this number of repeats."""
_COLUMNS = 64
"""The most entries of a tensor by which its rows are told apart."""
_CHUNK = 4096


class DrawnRows:
    """Compares the rows of the micro-batches of an update with each other and with the measured data.

    Of examples that are drawn with replacement, some are in several micro-batches. The number of those in a
    micro-batch that earlier ones hold is then binomial, and larger where examples of the data are equal.
    Nothing is found where training has rows that the measured data lack (augmentation, other data).

    Parameters
    ----------
    to_numpy
        From a tensor of the framework to an array.

    Attributes
    ----------
    measured
        The measured data; ``None`` if nothing can be found, or nothing more.
    seeks_repeats
        Whether repeats are counted; if not, only full batches are found.
    full
        Whether an update was made from all of the data.
    distinct
        Whether updates have far too few repeats for draws with replacement.
    drawn
        The largest number of examples of an update.

    Examples
    --------
    >>> rows, rng, x = DrawnRows(np.asarray), np.random.default_rng(0), np.arange(20.0)
    >>> rows.measured, rows.seeks_repeats = Rows(x), True
    >>> for _ in range(6):
    ...     index = rng.permutation(20)[:16]
    ...     rows.add([x[index[:8]], x[index[8:]]])
    >>> rows.distinct, rows.drawn
    (True, 16)
    """

    def __init__(self, to_numpy: Callable[[Any], np.ndarray]) -> None:
        self._to_numpy = to_numpy
        self.measured: Rows | None = None
        self.seeks_repeats = self.full = self.distinct = False
        self.drawn = 0
        self._seen: list[Numbers] = []  # the rows of each update
        self._expected, self._found = 0.0, 0  # repeats in them
        self._data: Numbers | None = None

    def add(self, pieces: Sequence[Batch]) -> None:
        """The micro-batches of an update."""
        data = self.measured
        if data is None or not all(map(is_rows, pieces)):
            return
        size = sum(map(examples_in, pieces))
        self.drawn = max(self.drawn, size)
        try:
            if size == len(data):
                self._look_at_full_batch(pieces, data)
            elif self.seeks_repeats and size < len(data):
                self._count_repeats(pieces, data)
            else:
                self._end()
        except (TypeError, ValueError):  # not a number, such as a string
            self._end()

    def _look_at_full_batch(self, pieces: Sequence[Batch], data: Rows) -> None:
        rows = np.concatenate([self._numbers(piece) for piece in pieces])
        self.full = np.array_equal(np.sort(rows), np.sort(self._all(data)))
        if self.full or not self.seeks_repeats:
            self._end()
        else:
            self._count_repeats(pieces, data)

    def _count_repeats(self, pieces: Sequence[Batch], data: Rows) -> None:
        """Count those of an update; look at the data themselves only if there are too few in all."""
        numbers = [self._numbers(piece) for piece in pieces]
        self._seen.append(np.concatenate(numbers))
        for known, piece in zip(accumulate(numbers, np.union1d), numbers[1:], strict=False):
            self._expected += len(piece) * len(np.unique(known)) / len(data)
            self._found += int(np.isin(piece, known).sum())
        too_few = poisson.cdf(self._found, self._expected) < RARE
        if too_few:
            self.distinct = bool(np.isin(np.concatenate(self._seen), self._all(data)).all())
        if too_few or self._expected > ENOUGH:
            self._end()

    def _end(self) -> None:
        self.measured, self._data, self._seen = None, None, []

    def _all(self, data: Rows) -> Numbers:
        if self._data is None:
            self._data = np.concatenate([self._numbers(part) for part in data.batches(_CHUNK)])
        return self._data

    def _numbers(self, batch: Batch) -> Numbers:
        """A number for each row; equal rows have equal ones."""
        columns = [_columns(self._to_numpy(tensor)) for tensor in tensors_in(batch)]
        rows = np.concatenate(columns, axis=1)
        return np.array([hash(row.tobytes()) for row in rows], np.int64)


def _columns(array: np.ndarray) -> np.ndarray:
    """Some entries of each row (n, k) in float32, in which the same examples may be trained and measured."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{array.dtype} holds no real numbers.")
    flat = array.reshape(len(array), -1)
    chosen = np.unique(np.linspace(0, max(0, flat.shape[1] - 1), _COLUMNS).astype(int))
    with np.errstate(over="ignore"):
        return np.asarray(flat[:, chosen[: flat.shape[1]]], np.float32) + np.float32(0)  # -0.0 becomes 0.0
