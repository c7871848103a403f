"""Means over runs with confidence intervals, and the differences between two conditions.

Each run is one observation, because runs are independent and the steps of one run are not.
"""

from dataclasses import dataclass

import numpy as np

from lca.analysis import holm_correction

CONFIDENCE = 0.95
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Pooled:
    """Means over runs, and half the width of their t-intervals: NaN with fewer than two runs."""

    mean: Array
    half: Array


def pool(values: Array, *, intervals: bool = True) -> Pooled:
    """Pool values of shape (runs, ...): ``mean ± t_{n-1} s/√n``.

    >>> pooled = pool(np.array([[1.0], [2.0], [3.0]]))
    >>> pooled.mean, pooled.half.round(2)
    (array([2.]), array([2.48]))
    """
    from scipy.stats import t as student  # noqa: PLC0415  # 0.4 s to import

    n, mean = len(values), values.mean(axis=0)
    if n < 2 or not intervals:
        return Pooled(mean, np.full(mean.shape, np.nan))
    half = student.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return Pooled(mean, half)


@dataclass(frozen=True, eq=False)
class Difference:
    """The difference of two conditions in each quantity.

    Attributes
    ----------
    mean, half
        The difference of the means, and half the width of its interval. The intervals hold for all quantities
        together with `CONFIDENCE` (Bonferroni).
    p_adjusted
        Two-sided p-values after Holm's correction over all quantities.
    paired
        Whether the runs were paired by seed.
    """

    mean: Array
    half: Array
    p_adjusted: Array
    paired: bool


def difference(first: Array, second: Array, *, paired: bool) -> Difference:
    """``second - first`` for values of shape (runs, quantities); NaN where there is no test.

    Paired: a t-test of the differences within each pair. Otherwise Welch's t-test, which allows different
    variances. Quantities that do not vary at all have no test.

    >>> found = difference(np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [3.5], [5.0]]), paired=True)
    >>> found.mean.round(2), found.p_adjusted.round(3)
    (array([1.17]), array([0.02]))
    """
    from scipy.stats import t as student  # noqa: PLC0415  # 0.4 s to import

    mean = second.mean(axis=0) - first.mean(axis=0)
    samples = [second - first] if paired else [first, second]
    unknown = np.full(mean.shape, np.nan)
    if min(map(len, samples)) < 2:
        return Difference(mean, unknown, unknown, paired)
    variances = np.array([sample.var(axis=0, ddof=1) / len(sample) for sample in samples])
    freedom = np.array([len(sample) - 1 for sample in samples])[:, None]
    variance = variances.sum(axis=0)
    tested = variance > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = variance**2 / (variances**2 / freedom).sum(axis=0)
        p = np.where(tested, 2 * student.sf(np.abs(mean) / np.sqrt(variance), degrees), np.nan)
    level = 1 - (1 - CONFIDENCE) / max(1, int(tested.sum()))
    half = np.where(tested, student.ppf((1 + level) / 2, degrees) * np.sqrt(variance), np.nan)
    adjusted = unknown.copy()
    adjusted[tested] = holm_correction(p[tested])
    return Difference(mean, half, adjusted, paired)
