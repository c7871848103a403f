"""Learning peaks, and how often layers have one at the same step.

A *learning peak* of a series is a local minimum of its allocation: a step that lowered the loss more than
the step before it and the step after it. Two layers *coincide* at a step that is a peak of both.
"""

import numpy as np

from lca.analysis._arrays import check_finite
from lca.errors import LCAError


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
        Keep only the ``top`` lowest peaks of each series, the earlier one of equal peaks. ``None`` keeps all.

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
