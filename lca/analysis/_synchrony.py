"""Do layers learn at the same steps? Learning peaks, how often they coincide, and how often by chance.

A *learning peak* of a series is a local minimum of its allocation: a step that lowered the loss more than
the step before it and the step after it. Two layers *coincide* at a step that is a peak of both. A circular
shift of a whole layer keeps the rhythm of the layer and destroys its relation to the other layers; random
shifts therefore show how many coincidences arise by chance.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lca.analysis._arrays import check_finite
from lca.errors import LCAError

CHUNK = 10_000
"""The number of permutations drawn at a time, which bounds the memory."""


def learning_peaks(allocations: np.ndarray, *, top: int | None = None) -> np.ndarray:
    """The steps at which each series has a local minimum: ``A_t < A_{t-1}`` and ``A_t < A_{t+1}``.

    Both inequalities are strict, so a flat stretch has no peak. The first and the last step have only one
    neighbour and are never peaks. A peak need not be negative: a hurting layer has peaks where it hurts
    least.

    Parameters
    ----------
    allocations
        Allocations in units of the loss, negative = helping; shape (T, ...) with T ≥ 3. The second axis is
        the layer, and an optional third one the class.
    top
        Keep only the ``top`` lowest peaks of each series, the earlier one of equal peaks. The lowest peaks of
        all layers concentrate where the loss falls fast, so test them with the ``block`` option of
        `synchrony_test`. ``None`` keeps all peaks.

    Returns
    -------
    numpy.ndarray
        A boolean mask with the shape of ``allocations``.

    Raises
    ------
    LCAError
        If there are fewer than three steps, or ``top`` is less than 1.
    NonFiniteError
        If an entry is not finite.

    References
    ----------
    The "moments of peak learning" of Lan, Liu, Zhou, Yosinski, NeurIPS 2019, https://arxiv.org/abs/1909.01440.

    Examples
    --------
    >>> learning_peaks(np.array([0.0, -3.0, -1.0, -2.0, 0.0])).nonzero()[0]
    array([1, 3])
    >>> learning_peaks(np.array([0.0, -3.0, -1.0, -2.0, 0.0]), top=1).nonzero()[0]
    array([1])
    """
    allocations = check_finite(allocations, "the allocations", min_rows=3)
    peaks = np.zeros(allocations.shape, dtype=bool)
    peaks[1:-1] = (allocations[1:-1] < allocations[:-2]) & (allocations[1:-1] < allocations[2:])
    if top is None:
        return peaks
    if top < 1:
        raise LCAError(f"top must be at least 1, or None, got {top}.")
    depth_rank = np.argsort(np.argsort(np.where(peaks, allocations, np.inf), axis=0, kind="stable"), axis=0)
    return peaks & (depth_rank < top)


def count_coincidences(peaks: np.ndarray) -> int:
    """The number of pairs of layers that peak at the same step: ``Σ_t Σ_c n_{t,c} (n_{t,c} - 1) / 2``.

    Parameters
    ----------
    peaks
        Booleans of shape (T, layers) or (T, layers, classes). n_{t,c} is the number of layers with a peak at
        step t for class c; peaks of different classes are not paired.

    Examples
    --------
    >>> count_coincidences(np.array([[True, True, True], [True, False, True], [False, True, False]]))
    4
    """
    count = np.asarray(peaks).sum(axis=1, dtype=np.int64)
    return int((count * (count - 1) // 2).sum())


@dataclass(frozen=True)
class SynchronyResult:
    """The result of `synchrony_test`.

    Attributes
    ----------
    coincidences
        The observed number of coincidences, from `count_coincidences`.
    expected
        The exact mean of that number over all circular shifts,
        ``Σ_blocks Σ_{ℓ<m} Σ_c n_{ℓ,c} n_{m,c} / length``, where n_{ℓ,c} is the number of peaks of layer ℓ and
        class c in the block.
    p_value
        ``(1 + #{shifted ≥ observed}) / (1 + permutations)``. It is never 0, and valid for any number of
        permutations.
    permutations
        The number of random shifts.

    Examples
    --------
    >>> SynchronyResult(coincidences=12, expected=4.0, p_value=0.001, permutations=999).ratio
    3.0
    """

    coincidences: int
    expected: float
    p_value: float
    permutations: int

    @property
    def ratio(self) -> float:
        """The observed number of coincidences divided by the expected one."""
        return self.coincidences / self.expected


def synchrony_test(
    peaks: np.ndarray, *, permutations: int = 9_999, block: int | None = None, seed: int = 0
) -> SynchronyResult:
    """Test whether layers peak together more often than under random shifts in time.

    Null hypothesis: the layers are independent of each other and stationary (within each block). Each
    layer, with all its classes together, is rotated by an independent, uniformly drawn number of steps, and
    the coincidences are counted again. The test is one-sided: a small p-value means more coincidences than
    expected by chance.

    Parameters
    ----------
    peaks
        Booleans of shape (T, layers) or (T, layers, classes), from `learning_peaks`.
    permutations
        The number of random shifts. The smallest possible p-value is ``1 / (1 + permutations)``.
    block
        Rotate within blocks of this many steps, each block by its own shift; a shorter remainder is merged
        with the last block. Blocks preserve slow trends, such as more deep peaks early in training, which
        would otherwise be mistaken for synchrony. ``None`` treats the run as one block.
    seed
        The seed of the random shifts.

    Raises
    ------
    LCAError
        If ``peaks`` is not a boolean mask, fewer than two layers have a peak, or an option is out of range.

    Notes
    -----
    Costs one FFT per layer, and one table look-up for each pair of layers and permutation. Anything that
    acts on all layers at once, such as a long step, produces coincidences: a small p-value does not identify
    the cause.

    References
    ----------
    The p-value of a Monte Carlo test: B. Phipson and G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010.

    Examples
    --------
    >>> rng = np.random.default_rng(2)
    >>> independent = rng.normal(size=(200, 3))
    >>> common = independent + 2 * rng.normal(size=(200, 1))
    >>> synchrony_test(learning_peaks(independent)).p_value > 0.05
    True
    >>> synchrony_test(learning_peaks(common)).p_value < 0.001
    True
    """
    peaks = _check_peaks(peaks)
    if permutations < 1:
        raise LCAError(f"permutations must be at least 1, got {permutations}.")
    blocks = [peaks[start:end] for start, end in pairwise(_block_edges(len(peaks), block))]
    tables = [_coincidences_by_shift(part) for part in blocks]
    observed = count_coincidences(peaks)
    rng = np.random.default_rng(seed)
    reached, remaining = 0, permutations
    while remaining:
        drawn = sum(_draw(table, peaks.shape[1], min(CHUNK, remaining), rng) for table in tables)
        reached += int(np.count_nonzero(drawn >= observed))
        remaining -= min(CHUNK, remaining)
    expected = float(sum(table.sum() / table.shape[1] for table in tables))
    return SynchronyResult(observed, expected, (1 + reached) / (1 + permutations), permutations)


def _check_peaks(peaks: np.ndarray) -> np.ndarray:
    peaks = np.asarray(peaks)
    if peaks.dtype != bool or peaks.ndim not in (2, 3):
        raise LCAError(
            "expected booleans of shape (steps, layers) or (steps, layers, classes) from learning_peaks, got "
            f"{peaks.dtype} of shape {peaks.shape}."
        )
    peaks = peaks.reshape(*peaks.shape[:2], -1)
    with_peaks = int(peaks.any(axis=(0, 2)).sum())
    if with_peaks < 2:
        raise LCAError(f"the synchrony test needs at least two layers with a peak, got {with_peaks}.")
    return peaks


def _block_edges(steps: int, block: int | None) -> list[int]:
    if block is None:
        return [0, steps]
    if not 2 <= block <= steps:
        raise LCAError(f"block must lie between 2 and {steps}, the number of steps, got {block}.")
    return [*range(0, steps - block + 1, block), steps]


def _coincidences_by_shift(peaks: np.ndarray) -> np.ndarray:
    """``Σ_t Σ_c p_ℓ[t, c] p_m[t + s, c]`` for each pair of layers ℓ < m and each shift s; shape (pairs, T).

    Circular in t. The exact sums are integers, so rounding removes the error of the FFT.
    """
    steps, layers, _ = peaks.shape
    spectra = np.fft.rfft(peaks.astype(np.float64), axis=0)
    first, second = np.triu_indices(layers, 1)
    table = np.empty((len(first), steps), dtype=np.int64)
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        product = (spectra[:, one].conj() * spectra[:, other]).sum(axis=1)
        table[row] = np.rint(np.fft.irfft(product, n=steps))
    return table


def _draw(table: np.ndarray, layers: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The coincidences after each of ``count`` random rotations of all layers; shape (count,)."""
    first, second = np.triu_indices(layers, 1)
    shifts = rng.integers(table.shape[1], size=(count, layers))
    total = np.zeros(count, dtype=np.int64)
    for row, one, other in zip(table, first, second, strict=True):
        total += row[(shifts[:, one] - shifts[:, other]) % len(row)]
    return total
