"""`LabelSpread`: whether examples are spread over micro-batches, and classes over updates, by chance."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from lca.frameworks import tensors_in
from lca.objective import Batch

Labels = NDArray[np.intp]
RARE = 1e-8
"""Significance level: a χ² whose p-value is smaller is not taken for chance."""
EVEN = 0.5
"""A χ² of so small a part of its mean is too small, also where the number of examples is not quite right."""
MOST_UPDATES = 100
"""The number of updates that show whether their classes are balanced."""
FAR = 6.0
"""A spread this many standard errors below its mean is too small: batches may hold views of one example."""
SORTED = (
    "the micro-batches of an update differ in their labels, as in batches that are sorted by "
    "class: shuffle the examples of a batch"
)
ALIKE = (
    "the micro-batches of an update have the same labels, as where each holds a view of the same examples, "
    "which then judge their own update: place the views of an example side by side. Labels in a fixed order "
    "(cyclic, or sorted and dealt out in turn) look so, too: if the examples are others, no harm is done"
)


class LabelSpread:
    """Compares the labels of micro-batches with each other: χ² of labels against micro-batches.

    If an update's examples are in random order, the mean and the variance of χ² given the number of each
    label are known exactly. Examples that follow each other with one label, as views of one example, count
    as one.

    Of whole updates, χ² of labels against updates shows whether each has as many examples of a class as the
    others, which chance does not do. Without replacement, as in shuffled epochs, it is smaller by the factor
    ``(N - b)/(N - 1)`` at most, where an update has b of N examples. Counts are whole numbers, so each is
    taken for the mean over numbers that differ from it by at most a half. A batch that comes again tells
    nothing.

    Parameters
    ----------
    to_numpy
        From a tensor of the framework to an array.

    Attributes
    ----------
    found
        What micro-batches do that are not made by chance; empty if nothing was seen.
    balanced
        Whether updates have equal counts of classes, which their micro-batches do not have.
    examples
        N, the number of examples in the data; 0 if it is not known: then nothing is balanced.

    Examples
    --------
    >>> spread, x = LabelSpread(np.asarray), np.zeros((8, 3))
    >>> for _ in range(4):
    ...     spread.add([(x, np.array([0, 0, 1, 1, 0, 1, 0, 1])), (x, np.array([2, 3, 2, 3, 2, 2, 3, 3]))])
    >>> spread.found == SORTED
    True
    """

    def __init__(self, to_numpy: Callable[[Any], np.ndarray]) -> None:
        self._to_numpy = to_numpy
        self.found, self.balanced, self.examples = "", False, 0
        self._sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        self._updates: dict[int, dict[bytes, Labels]] = defaultdict(dict)  # by tensor; each batch once

    def add(self, pieces: Sequence[Batch]) -> None:
        """The micro-batches of an update."""
        of_each = [list(map(self._labels, tensors_in(piece))) for piece in pieces]
        if len(of_each) < 2 or len({len(labels) for labels in of_each}) > 1:
            return
        for which, labels in enumerate(zip(*of_each, strict=True)):
            known = [own for own in labels if own is not None]
            if len(known) == len(labels):
                for number, value in enumerate(_spread(known)):
                    self._sums[which][number] += value
                self._compare_updates(which, np.concatenate(known))
        self.found = self._judged()  # here, as the tail of a distribution takes long

    def _judged(self) -> str:
        for value, mean, variance in self._sums.values():
            if not variance:
                continue
            if (value - mean) / sqrt(variance) < -FAR:
                return ALIKE
            if gamma.sf(value, mean**2 / variance, scale=variance / mean) < RARE:
                return SORTED
        return ""

    def _compare_updates(self, which: int, labels: Labels) -> None:
        """Compare the classes of this update with those of others."""
        known = self._updates[which]
        if not self.examples or self.balanced or len(known) == MOST_UPDATES or labels.tobytes() in known:
            return
        known[labels.tobytes()] = labels
        updates = [*known.values()]
        part = (self.examples - max(map(len, updates))) / max(1, self.examples - 1)
        value, mean, variance = _spread(updates, cells=1 / 12)
        of_pieces, usual, _ = self._sums[which]
        if part <= 0 or not variance or value > EVEN * part * mean or of_pieces < EVEN * usual:
            return
        self.balanced = gamma.cdf(value / part, mean**2 / variance, scale=variance / mean) < RARE

    def _labels(self, tensor: Any) -> Labels | None:
        """The labels in a tensor: integers (n,) or (n, 1), or rows (n, C) with a single 1."""
        shape, dtype = tuple(tensor.shape), str(tensor.dtype)
        whole = any(kind in dtype for kind in ("int", "bool"))
        if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
            return self._to_numpy(tensor).reshape(-1).astype(np.intp) if whole else None
        if len(shape) != 2 or not _is_one_hot(self._to_numpy(tensor[:2])):
            return None
        rows = self._to_numpy(tensor)
        return rows.argmax(axis=1) if _is_one_hot(rows) else None


def _is_one_hot(rows: np.ndarray) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all())


def _spread(labels: Sequence[Labels], *, cells: float = 0.0) -> tuple[float, float, float]:
    """χ² of labels against micro-batches, its mean and its variance; zeros if they tell nothing.

    With ``cells``, which is added to each squared difference, the labels are of updates, and each one counts.

    Haldane, The mean and variance of χ² when used as a test of homogeneity, Biometrika, 1940.
    """
    joined, pieces = np.concatenate(labels), np.repeat(np.arange(len(labels)), list(map(len, labels)))
    repeats = 1 if cells else _repeats(joined)
    names, positions = np.unique(joined[::repeats], return_inverse=True)
    n, m, c = len(positions), len(labels), len(names)
    table = np.bincount(pieces[::repeats] * c + positions, minlength=m * c).reshape(m, c)
    sizes, counts = table.sum(axis=1), table.sum(axis=0)
    if n <= 3 or c < 2 or m < 2 or 2 * c > n or not sizes.all():
        return 0.0, 0.0, 0.0
    expected = np.outer(sizes, counts) / n
    value = float((((table - expected) ** 2 + cells) / expected).sum())
    mean = n / (n - 1) * (m - 1) * (c - 1)
    (v1, w1), (v2, w2) = (
        ((k - 1) * (n - k) / (n - 1), (n * (1 / of).sum() - k**2) / (n - 2))
        for k, of in ((m, sizes), (c, counts))
    )
    variance = 2 * n / (n - 3) * (v1 - w1) * (v2 - w2) + n**2 / (n - 1) * w1 * w2
    return value, mean, float(variance)


def _repeats(labels: Labels) -> int:
    """How many examples in a row are views of one: 1, unless all runs of equal labels have such a length.

    In a batch that is sorted by class every label has one run, which says nothing.
    """
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    if len(starts) <= len(np.unique(labels)):
        return 1
    return int(np.gcd.reduce(np.diff(starts, append=len(labels))))
