"""Means over runs with confidence intervals, and differences between two conditions.

Each run is one observation, because runs are independent and the steps of one run are not. Every t-test and
every interval of the library is computed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lca.errors import LCAError

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class RunMeans:
    """Means over runs with their intervals; see `mean_over_runs`.

    Attributes
    ----------
    mean
        The mean over runs of each quantity, in its units.
    half
        Half the width of the interval; NaN for a mean without an interval.

    Examples
    --------
    >>> means = RunMeans(np.array([-1.0]), np.array([0.25]))
    >>> means.lower, means.upper
    (array([-1.25]), array([-0.75]))
    """

    mean: np.ndarray
    half: np.ndarray

    @property
    def lower(self) -> np.ndarray:
        """Lower ends of the intervals."""
        return np.asarray(self.mean - self.half)

    @property
    def upper(self) -> np.ndarray:
        """Upper ends of the intervals."""
        return np.asarray(self.mean + self.half)


@dataclass(frozen=True, eq=False)
class RunDifference(RunMeans):
    """The differences of two conditions; see `difference_over_runs`.

    Attributes
    ----------
    mean, half
        The differences of the means, and half the widths of their intervals.
    p_value, p_adjusted
        Two-sided p-values, alone and after Holm's correction over all quantities; NaN where there is no test.
    paired
        Whether the runs were paired.

    Examples
    --------
    >>> found = difference_over_runs(np.array([[1.0], [2.0]]), np.array([[2.0], [3.5]]), paired=True)
    >>> found.mean, found.paired
    (array([1.25]), True)
    """

    p_value: np.ndarray
    p_adjusted: np.ndarray
    paired: bool


def mean_over_runs(values: np.ndarray, *, confidence: float = CONFIDENCE) -> RunMeans:
    """Means over runs with t-intervals, ``mean ± t_{n-1} s / √n``.

    Parameters
    ----------
    values
        One row per run, shape (runs, ...). A quantity that is NaN in one run has the mean NaN.
    confidence
        Level of each interval, between 0 and 1. With fewer than two runs, ``half`` is NaN.

    Raises
    ------
    LCAError
        If there are no runs, or ``confidence`` is out of range.

    References
    ----------
    Student, "The probable error of a mean", Biometrika 6, 1908.

    Examples
    --------
    >>> means = mean_over_runs(np.array([[1.0], [2.0], [3.0]]))
    >>> means.mean, means.half.round(2)
    (array([2.]), array([2.48]))
    """
    values = _checked(values, confidence)
    mean = values.mean(axis=0)
    if len(values) < 2:
        return RunMeans(mean, np.full(mean.shape, np.nan))
    variance, degrees = _variance([values])
    return RunMeans(mean, quantile_of_t(confidence, degrees) * np.sqrt(variance))


def difference_over_runs(
    first: np.ndarray, second: np.ndarray, *, paired: bool, confidence: float = CONFIDENCE
) -> RunDifference:
    """The means of ``second - first`` with tests and intervals that hold for all quantities together.

    Paired: Student's t-test of the differences within each pair. Otherwise Welch's t-test, which allows
    different variances. The intervals hold together with ``confidence`` (Bonferroni), and the p-values are
    also given after Holm's correction. Quantities that do not vary, or are NaN in a run, have no test.

    Parameters
    ----------
    first, second
        One row per run, shape (runs, quantities). Paired: row s of both from the same seed.
    paired
        Whether the rows are pairs.
    confidence
        Level of all intervals together, between 0 and 1.

    Raises
    ------
    LCAError
        If a condition has no runs, the numbers of paired runs differ, or ``confidence`` is out of range.

    References
    ----------
    B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34, 1947.

    Examples
    --------
    >>> first, second = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [3.5], [5.0]])
    >>> found = difference_over_runs(first, second, paired=True)
    >>> found.mean.round(2), found.p_adjusted.round(3)
    (array([1.17]), array([0.02]))
    """
    first, second = _checked(first, confidence), _checked(second, confidence)
    if paired and first.shape != second.shape:
        raise LCAError(
            f"pairs need the same number of runs in both conditions, got {len(first)} and {len(second)}; "
            "pass paired=False, or the runs of the seeds that both have."
        )
    mean = second.mean(axis=0) - first.mean(axis=0)
    samples = [second - first] if paired else [first, second]
    unknown = np.full(mean.shape, np.nan)
    if min(map(len, samples)) < 2:
        return RunDifference(mean, unknown, unknown, unknown, paired)
    variance, degrees = _variance(samples)
    tested = variance > 0
    p = np.where(tested, t_p_value(mean, variance, degrees), np.nan)
    level = 1 - (1 - confidence) / max(1, int(tested.sum()))
    half = np.where(tested, quantile_of_t(level, degrees) * np.sqrt(variance), np.nan)
    adjusted = unknown.copy()
    adjusted[tested] = holm_correction(p[tested])
    return RunDifference(mean, half, p, adjusted, paired)


def holm_correction(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values for multiple tests with Holm's step-down method.

    With the p-values sorted, ``p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j))``. Rejecting where ``p̃ ≤ α``
    keeps the family-wise error rate below α, however the tests depend on each other.

    Parameters
    ----------
    p_values
        Shape (m,).

    Returns
    -------
    numpy.ndarray
        The adjusted p-values in the same order, shape (m,).

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.

    Examples
    --------
    >>> holm_correction(np.array([0.04, 0.01, 0.03]))
    array([0.06, 0.03, 0.06])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    factor = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(factor * p_values[order]), 1.0)
    return adjusted


def t_p_value(mean: np.ndarray, variance: np.ndarray, degrees: np.ndarray | int) -> np.ndarray:
    """Two-sided p-values of means with these variances; 1 where nothing varies."""
    t = np.divide(mean, np.sqrt(variance), out=np.zeros(np.shape(mean)), where=variance > 0)
    return two_sided_p(t, degrees)


def two_sided_p(t: np.ndarray, degrees: np.ndarray | int) -> np.ndarray:
    """The probability that |t| is larger than observed, under Student's t distribution."""
    from scipy.stats import t as student  # noqa: PLC0415 - 0.4 s to import

    return np.asarray(2 * student.sf(np.abs(t), degrees))


def _checked(values: np.ndarray, confidence: float) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not 0 < confidence < 1:
        raise LCAError(f"confidence must lie between 0 and 1, got {confidence}.")
    if values.ndim == 0 or not len(values):
        raise LCAError("there are no runs; pass one row per run.")
    return values


def quantile_of_t(confidence: float, degrees: np.ndarray | int) -> np.ndarray:
    """The value that |t| exceeds with probability ``1 - confidence``."""
    from scipy.stats import t as student  # noqa: PLC0415 - 0.4 s to import

    return np.asarray(student.ppf((1 + confidence) / 2, degrees))


def _variance(samples: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the (difference of the) means, and its degrees of freedom (Welch-Satterthwaite)."""
    variances = np.array([sample.var(axis=0, ddof=1) / len(sample) for sample in samples])
    freedom = np.array([len(sample) - 1 for sample in samples]).reshape(-1, *([1] * (variances.ndim - 1)))
    variance = variances.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = variance**2 / (variances**2 / freedom).sum(axis=0)
    # A constant has no degrees of freedom of its own; any number gives the interval of width 0.
    return variance, np.where(variance > 0, degrees, freedom.max())
