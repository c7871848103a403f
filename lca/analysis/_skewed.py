"""Tests and intervals of a mean over runs whose distribution is skewed.

Student's t statistic is skewed if the data are: a long tail of negative totals makes ``|t|`` too large on one
side. Hall's transformation removes this skewness, which it estimates from the data.
"""

import numpy as np

from lca.analysis._over_runs import quantile_of_t, two_sided_p


def skewed_test(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper ends and two-sided p-values of means over rows, corrected for their skewness.

    With ``u = mean / s`` and the skewness γ of the n rows, ``√n h(u)``, where
    ``h(u) = u + γ u²/3 + γ² u³/27 + γ/(6n)``, is compared with Student's t distribution with n - 1 degrees of
    freedom. For a quantity that does not vary between rows, the interval is its value, and p is 1.

    Parameters
    ----------
    values
        One row per run, shape (n, quantities), n ≥ 2.
    confidence
        Level of each interval.

    References
    ----------
    P. Hall, "On the removal of skewness by transformation", J. R. Stat. Soc. B 54, 1992.

    Examples
    --------
    >>> symmetric, skewed = [[-1.0], [0.0], [1.0], [2.0]], [[-1.0], [-0.9], [-0.8], [2.0]]
    >>> [np.round(end, 2).tolist() for end in skewed_test(np.array(symmetric), 0.95)]
    [[-1.55], [2.55], [0.5]]
    >>> [np.round(end, 2).tolist() for end in skewed_test(np.array(skewed), 0.95)]
    [[-1.71], [7.28], [0.9]]
    """
    count, mean, spread = len(values), values.mean(axis=0), values.std(axis=0, ddof=1)
    centred = values - mean
    cubes, squares = (centred**3).mean(axis=0), (centred**2).mean(axis=0)
    varies = spread > 0
    skewness = np.divide(cubes, squares**1.5, out=np.zeros_like(mean), where=varies)
    shift = skewness / (6 * count)
    u = np.divide(mean, spread, out=np.zeros_like(mean), where=varies)
    h = u + skewness * u**2 / 3 + skewness**2 * u**3 / 27 + shift
    p = np.where(varies, two_sided_p(np.sqrt(count) * h, count - 1), 1.0)
    half = quantile_of_t(confidence, count - 1) / np.sqrt(count)
    ends = [mean - spread * _inverse(sign * half - shift, skewness) for sign in (1, -1)]
    return ends[0], ends[1], p


def _inverse(w: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """The u with ``u + γ u²/3 + γ² u³/27 = w``, which is ``(3/γ) (∛(1 + γ w) - 1)``, also where γ = 0."""
    root = np.cbrt(1 + skewness * w)
    return np.asarray(3 * w / (root**2 + root + 1))
