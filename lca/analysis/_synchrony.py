"""Do layers learn at the same steps more often than by chance?

Chance is simulated by moving whole layers against each other: by a few steps (`synchrony_test`), or to
other runs (`synchrony_test_over_runs`). Both keep the rhythm of each layer and the course of training, and
destroy the relation of the layer to the others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lca.analysis._peaks import count_coincidences
from lca.errors import LCAError

CHUNK = 2**22
"""The number of counts that are held at a time, which bounds the memory."""
SHIFT = 2
"""The default largest shift in steps, where it gives enough surrogates.

A larger shift gives no more power, and the rate of peaks may change within it, which causes false alarms:
for 50 independent layers whose allocations fall in the same way within 5 steps, a shift of 4 gave p ≤ 0.05 in
13 % of the runs.
"""
SURROGATES = 1_000
"""The least number of different surrogates; if there are few layers, larger shifts supply them."""

Draw = Callable[[int], np.ndarray]
"""The numbers of coincidences of the given number of random surrogates."""


@dataclass(frozen=True)
class SynchronyResult:
    """The result of `synchrony_test` or `synchrony_test_over_runs`.

    Attributes
    ----------
    coincidences
        The observed number of coincidences (`count_coincidences`) at the steps that the test compares.
    expected
        The exact mean of that number over all surrogates: ``Σ_t Σ_c Σ_{ℓ<m} p_{ℓ,t,c} p_{m,t,c}``, where p is
        the fraction of the surrogates of a layer with a peak at step t for class c.
    p_value
        ``(1 + #{surrogates ≥ observed}) / (1 + permutations)``. It is never 0, and valid for any number of
        permutations.
    permutations
        The number of surrogates drawn.

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
    peaks: np.ndarray,
    *,
    max_shift: int | None = None,
    block: int | None = None,
    permutations: int = 9_999,
    seed: int = 0,
) -> SynchronyResult:
    """Test whether layers peak together more often than if each were moved by a few steps.

    Null hypothesis: the layers are independent of each other, and the rate and rhythm of their peaks change
    little within ``2 max_shift`` steps. A surrogate moves each layer, with all its classes together, by an
    independent number of steps, uniform on -max_shift, ..., max_shift. Coincidences are counted at the steps
    to which every shift brings a measured step, that is without the first and the last max_shift + 1. The
    test is one-sided: a small p-value means more coincidences than expected by chance.

    Parameters
    ----------
    peaks
        Booleans of shape (T, layers) or (T, layers, classes), from `learning_peaks`.
    max_shift
        In steps. A small shift preserves trends, such as fewer peaks where the loss falls fast. By default 2;
        with fewer than six layers, as large as is needed for 1,000 different surrogates, but at most a sixth
        of the run.
    block
        Rotate each layer within blocks of this many steps instead, each block by its own shift; a shorter
        remainder is merged with the last block. The first and the last step, which are never peaks, stay
        where they are. All other steps count, but the layers have to be stationary within a block, and a
        rhythm that layers share is broken between blocks, which makes p-values too small.
    permutations
        The number of surrogates. The smallest possible p-value is ``1 / (1 + permutations)``.
    seed
        The seed of the random shifts.

    Raises
    ------
    LCAError
        If ``peaks`` is not a boolean mask, fewer than two layers have a peak, or an option is out of range.

    Notes
    -----
    A surrogate in which all layers move alike is as synchronous as the run. With L layers these are one in
    ``(2 max_shift + 1)^(L-1)``, below which the p-value does not fall.

    Anything that acts on all layers at once, such as a long step, produces coincidences: a small p-value
    does not identify the cause. Time: one addition for each layer, step, class and surrogate.
    ``validation/statistics`` has the rate of false alarms for many kinds of series.

    References
    ----------
    Random shifts without wrapping around: T. Mrkvička et al., Methodology and Computing in Applied
    Probability 23, 2021. The p-value of a Monte Carlo test: B. Phipson and G. K. Smyth, Stat. Appl. Genet.
    Mol. Biol. 9, 2010.

    Examples
    --------
    >>> from lca.analysis import learning_peaks
    >>> rng = np.random.default_rng(2)
    >>> independent = rng.normal(size=(200, 3))
    >>> common = independent + 2 * rng.normal(size=(200, 1))
    >>> synchrony_test(learning_peaks(independent)).p_value > 0.05
    True
    >>> synchrony_test(learning_peaks(common)).p_value < 0.01
    True
    """
    peaks = _check_peaks(peaks, "(steps, layers) or (steps, layers, classes)", 2)
    if not peaks[[0, -1]].any():
        peaks = peaks[1:-1]
    if block is None:
        shift = _check_shift(max_shift, *peaks.shape[:2])
        moved = [sliding_window_view(peaks, len(peaks) - 2 * shift, axis=0)]
        observed = count_coincidences(peaks[shift : len(peaks) - shift])
    else:
        if max_shift is not None:
            raise LCAError("max_shift and block are two kinds of surrogates; pass one of them.")
        moved = [_rotations(peaks[a:b]) for a, b in pairwise(_block_edges(len(peaks), block))]
        observed = count_coincidences(peaks)
    rng = np.random.default_rng(seed)

    def drawn(count: int) -> np.ndarray:
        lengths = [[len(windows)] for windows in moved]
        shifts = rng.integers(lengths, size=(count, len(moved), peaks.shape[1]))
        total = np.zeros(count, dtype=np.int64)
        for part, windows in enumerate(moved):  # (shifts, layers, classes, steps)
            total += _coincidences(windows[shift, i] for i, shift in enumerate(shifts[:, part].T))
        return total

    expected = sum(_pairs(windows.mean(axis=0)) for windows in moved)
    return _tested(observed, expected, drawn, permutations, entries=peaks[:, 0].size)


def synchrony_test_over_runs(
    peaks: np.ndarray, *, permutations: int = 9_999, seed: int = 0
) -> SynchronyResult:
    """Test whether layers of one run peak together more often than layers of different runs.

    Null hypothesis: within a run the layers are independent of each other. A surrogate permutes the runs of
    each layer. That is exact whatever the course of training and the rhythm of the layers, as all layers
    keep their steps; it needs several runs that differ in their seed only. A batch that all runs see at the
    same step acts on the layers of all of them and is not counted as synchrony: give the runs other batches.

    Parameters
    ----------
    peaks
        Booleans of shape (runs, T, layers) or (runs, T, layers, classes): `learning_peaks` of each run.
    permutations, seed
        As in `synchrony_test`. With R runs and L layers there are ``R!^(L-1)`` different surrogates.

    Raises
    ------
    LCAError
        If ``peaks`` is not a boolean mask of at least two runs, or fewer than two layers have a peak.

    Examples
    --------
    >>> from lca.analysis import learning_peaks
    >>> rng = np.random.default_rng(0)
    >>> independent = rng.normal(size=(5, 60, 3))
    >>> common = independent + 2 * rng.normal(size=(5, 60, 1))
    >>> peaks = [np.stack([learning_peaks(run) for run in runs]) for runs in (independent, common)]
    >>> synchrony_test_over_runs(peaks[0]).p_value > 0.05, synchrony_test_over_runs(peaks[1]).p_value < 0.01
    (True, True)
    """
    peaks = _check_peaks(peaks, "(runs, steps, layers) or (runs, steps, layers, classes)", 3)
    runs = len(peaks)
    if runs < 2:
        raise LCAError("a test over runs needs at least two runs; synchrony_test takes one.")
    rng = np.random.default_rng(seed)
    by_layer = np.moveaxis(peaks, 2, 0)  # (layers, runs, steps, classes)

    def drawn(count: int) -> np.ndarray:
        orders = rng.permuted(np.tile(np.arange(runs), (count, len(by_layer), 1)), axis=2)
        return _coincidences(layer[orders[:, i]] for i, layer in enumerate(by_layer))

    observed = sum(map(count_coincidences, peaks))
    expected = runs * _pairs(by_layer.mean(axis=1))
    return _tested(observed, expected, drawn, permutations, entries=by_layer[0].size)


def _tested(
    observed: int, expected: float, drawn: Draw, permutations: int, *, entries: int
) -> SynchronyResult:
    """Compare with surrogates, of which each takes ``entries`` counts of memory."""
    if permutations < 1:
        raise LCAError(f"permutations must be at least 1, got {permutations}.")
    at_once, reached = max(1, CHUNK // entries), 0
    for start in range(0, permutations, at_once):
        reached += int(np.sum(drawn(min(at_once, permutations - start)) >= observed))
    return SynchronyResult(observed, float(expected), (1 + reached) / (1 + permutations), permutations)


def _coincidences(layers: Iterable[np.ndarray]) -> np.ndarray:
    """The coincidences of surrogates, from the peaks (surrogates, ...) of one layer after the other."""
    count: np.ndarray | None = None
    for peaks in layers:
        count = peaks.astype(np.int32) if count is None else np.add(count, peaks, out=count)
    assert count is not None
    return np.asarray((count * (count - 1) // 2).reshape(len(count), -1).sum(axis=1, dtype=np.int64))


def _pairs(rates: np.ndarray) -> float:
    """``Σ_{ℓ<m} p_ℓ p_m`` over the first axis, summed over the others."""
    return float((rates.sum(axis=0) ** 2 - (rates**2).sum(axis=0)).sum() / 2)


def _rotations(peaks: np.ndarray) -> np.ndarray:
    """All circular shifts of a block: (shifts, layers, classes, steps), in no more memory than two blocks."""
    return sliding_window_view(np.concatenate([peaks, peaks[:-1]]), len(peaks), axis=0)


def _check_peaks(peaks: np.ndarray, shape: str, axes: int) -> np.ndarray:
    """The mask with an axis for classes; its length is 1 without classes."""
    peaks = np.asarray(peaks)
    if peaks.dtype != bool or peaks.ndim not in (axes, axes + 1):
        raise LCAError(
            f"expected booleans of shape {shape} from learning_peaks, got {peaks.dtype} of shape "
            f"{peaks.shape}."
        )
    peaks = peaks.reshape(*peaks.shape[:axes], -1)
    layers = axes - 1
    with_peaks = int(peaks.any(axis=tuple(i for i in range(peaks.ndim) if i != layers)).sum())
    if with_peaks < 2:
        raise LCAError(f"the synchrony test needs at least two layers with a peak, got {with_peaks}.")
    return peaks


def _check_shift(shift: int | None, steps: int, layers: int) -> int:
    if shift is None:
        enough = ceil((SURROGATES ** (1 / (layers - 1)) - 1) / 2)
        shift = max(1, min(max(SHIFT, enough), steps // 6))
    if not 1 <= shift <= (steps - 1) // 2:
        raise LCAError(
            f"max_shift must lie between 1 and {(steps - 1) // 2}, half of the {steps} steps that can be "
            f"peaks, got {shift}."
        )
    return shift


def _block_edges(steps: int, block: int) -> list[int]:
    if not 2 <= block <= steps:
        raise LCAError(
            f"block must lie between 2 and {steps}, the number of steps that can be peaks, got {block}."
        )
    return [*range(0, steps - block + 1, block), steps]
