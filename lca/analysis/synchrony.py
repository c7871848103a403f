"""Do layers learn at the same moments? Peak moments, how often they coincide, and how often by chance.

A *peak moment* of a series is a local minimum of its allocation: a step that lowered the loss more than
the step before and the step after. Two layers *coincide* at a step that is a peak of both. Circular shifts
of whole layers keep each layer's own rhythm and destroy what is common, so they show what chance does.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lca.analysis.arrays import finite
from lca.errors import LCAError

CHUNK = 10_000
"""Permutations drawn at a time, which bounds the memory."""


def peak_moments(rows: np.ndarray, *, top: int | None = None) -> np.ndarray:
    """The steps at which each series has a local minimum: ``A_t < A_{t-1}`` and ``A_t < A_{t+1}``.

    Both inequalities are strict, so a flat stretch has no peak; the first and the last step have one
    neighbour and are never peaks. A peak need not be negative: a layer that hurts has moments at which it
    hurts least.

    Parameters
    ----------
    rows
        Allocations, shape (T, ...), T ≥ 3: steps, then layers, and classes if there are any.
    top
        Keep only the ``top`` lowest peaks of each series (earlier ones first where they are equal).
        They crowd where the loss falls fast, in every layer alike: test them with ``block``.

    Returns
    -------
    numpy.ndarray
        Booleans of the shape of ``rows``.

    Examples
    --------
    >>> peak_moments(np.array([0.0, -3.0, -1.0, -2.0, 0.0])).nonzero()[0]
    array([1, 3])
    >>> peak_moments(np.array([0.0, -3.0, -1.0, -2.0, 0.0]), top=1).nonzero()[0]
    array([1])
    """
    rows = finite(rows, "the allocations", least=3)
    peaks = np.zeros(rows.shape, dtype=bool)
    peaks[1:-1] = (rows[1:-1] < rows[:-2]) & (rows[1:-1] < rows[2:])
    if top is None:
        return peaks
    if top < 1:
        raise LCAError(f"top must be at least 1 or None, got {top}.")
    depth_rank = np.argsort(np.argsort(np.where(peaks, rows, np.inf), axis=0, kind="stable"), axis=0)
    return peaks & (depth_rank < top)


def coincidences(peaks: np.ndarray) -> int:
    """``Σ_t Σ_c n_{t,c} (n_{t,c} - 1) / 2``: pairs of layers that have a peak at the same step.

    Parameters
    ----------
    peaks
        Booleans, shape (T, layers) or (T, layers, classes); n_{t,c} is the number of layers with a peak.
        Only peaks of the same class are paired.

    Examples
    --------
    >>> coincidences(np.array([[True, True, True], [True, False, True], [False, True, False]]))
    4
    """
    count = np.asarray(peaks).sum(axis=1, dtype=np.int64)
    return int((count * (count - 1) // 2).sum())


@dataclass(frozen=True)
class SynchronyTest:
    """Outcome of `synchrony_test`.

    Attributes
    ----------
    coincidences
        As observed (`coincidences`).
    expected
        Their mean over all circular shifts, exactly: ``Σ_blocks Σ_{ℓ<m} Σ_c n_ℓ n_m / length``.
    p_value
        ``(1 + #{shifted ≥ observed}) / (1 + permutations)``: never 0, and valid for any ``permutations``.
    permutations
        Number of random shifts.
    """

    coincidences: int
    expected: float
    p_value: float
    permutations: int

    @property
    def ratio(self) -> float:
        """Coincidences for each one expected by chance."""
        return self.coincidences / self.expected


def synchrony_test(
    peaks: np.ndarray, *, permutations: int = 9_999, block: int | None = None, seed: int = 0
) -> SynchronyTest:
    """Do layers peak together more often than when each is shifted in time at random?

    Null hypothesis: the layers are independent of each other and stationary (within each block). Each
    layer is rotated by an independent, uniform number of steps, with all its classes together, and the
    coincidences are counted again. The test is one-sided: small p means more coincidences than by chance.

    Parameters
    ----------
    peaks
        Booleans, shape (T, layers) or (T, layers, classes), from `peak_moments`.
    permutations
        Random shifts; the smallest possible p is ``1 / (1 + permutations)``.
    block
        Rotate within blocks of this many steps, each by a shift of its own (a shorter remainder joins the
        last block). Then what varies slowly, such as more deep peaks early in training in every layer,
        stays where it is and does not pass for synchrony. ``None``: the run is one block.
    seed
        Of the shifts.

    Raises
    ------
    LCAError
        If fewer than two layers have a peak, or an option is out of range.

    Notes
    -----
    Cost: one FFT a layer, then a table look-up for each pair of layers and permutation. Whatever acts on all
    layers at once, such as a long step, makes them coincide: a small p-value does not say why.

    Examples
    --------
    >>> rng = np.random.default_rng(2)
    >>> apart = rng.normal(size=(200, 3))
    >>> together = apart + 2 * rng.normal(size=(200, 1))
    >>> synchrony_test(peak_moments(apart)).p_value > 0.05
    True
    >>> synchrony_test(peak_moments(together)).p_value < 0.001
    True
    """
    peaks = _checked(peaks)
    if permutations < 1:
        raise LCAError(f"permutations must be at least 1, got {permutations}.")
    blocks = [peaks[start:end] for start, end in pairwise(_edges(len(peaks), block))]
    tables = [_coincidences_by_shift(part) for part in blocks]
    observed = coincidences(peaks)
    rng = np.random.default_rng(seed)
    reached, left = 0, permutations
    while left:
        drawn = sum(_draw(table, peaks.shape[1], min(CHUNK, left), rng) for table in tables)
        reached += int(np.count_nonzero(drawn >= observed))
        left -= min(CHUNK, left)
    expected = float(sum(table.sum() / table.shape[1] for table in tables))
    return SynchronyTest(observed, expected, (1 + reached) / (1 + permutations), permutations)


def _checked(peaks: np.ndarray) -> np.ndarray:
    peaks = np.asarray(peaks)
    if peaks.dtype != bool or peaks.ndim not in (2, 3):
        raise LCAError(
            f"expected booleans of shape (steps, layers) or (steps, layers, classes) from peak_moments, got "
            f"{peaks.dtype} of shape {peaks.shape}."
        )
    peaks = peaks.reshape(*peaks.shape[:2], -1)
    having = int(peaks.any(axis=(0, 2)).sum())
    if having < 2:
        raise LCAError(f"synchrony needs at least two layers with a peak moment, {having} of them have one.")
    return peaks


def _edges(steps: int, block: int | None) -> list[int]:
    if block is None:
        return [0, steps]
    if not 2 <= block <= steps:
        raise LCAError(f"block must lie between 2 and the number of steps, {steps}; got {block}.")
    return [*range(0, steps - block + 1, block), steps]


def _coincidences_by_shift(peaks: np.ndarray) -> np.ndarray:
    """For each pair ℓ < m of layers and each shift s: ``Σ_t Σ_c p_ℓ[t, c] p_m[t + s, c]``; shape (pairs, T).

    Circular in t. The sums are whole numbers, and rounding takes the error of the FFT off them.
    """
    steps, layers, _ = peaks.shape
    waves = np.fft.rfft(peaks.astype(np.float64), axis=0)
    first, second = np.triu_indices(layers, 1)
    table = np.empty((len(first), steps), dtype=np.int64)
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        product = (waves[:, one].conj() * waves[:, other]).sum(axis=1)
        table[row] = np.rint(np.fft.irfft(product, n=steps))
    return table


def _draw(table: np.ndarray, layers: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Coincidences under ``count`` random rotations of all layers; shape (count,)."""
    first, second = np.triu_indices(layers, 1)
    shifts = rng.integers(table.shape[1], size=(count, layers))
    total = np.zeros(count, dtype=np.int64)
    for row, one, other in zip(table, first, second, strict=True):
        total += row[(shifts[:, one] - shifts[:, other]) % len(row)]
    return total
