"""How many parameters helped: the definition of "helping %" that the whole library shares.

Published figures disagreed by 12 points because some counted exact zeros as not helping. So negative,
positive and exactly zero are kept apart here, and the percentage is defined once. From sampled allocations
there are counts, but summaries and reports give no percentage (`NOISY`).
"""

from dataclasses import dataclass

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import Slices, array_ops
from lca.groups import Groups, SignCounts

NOISY = (
    "no helping %: these allocations are estimates from samples, whose noise turns signs and draws the "
    "percentage towards 50; measure with a full-data estimator (lca.Adaptive, lca.PathIntegral)"
)
"""Why there is none, where `lca.StepAllocation.sampled`."""


@dataclass(frozen=True, eq=False)
class Signs:
    """Numbers of parameters that helped (A < 0), hurt (A > 0) or did neither (A = 0 exactly).

    Integer arrays of one shape, (T,) or (T, groups): the first axis is the step. What is
    reduced over the steps has shape () or (groups,).

    Examples
    --------
    >>> signs = Signs(np.array([3, 1, 0]), np.array([1, 1, 0]), np.array([0, 6, 4]))
    >>> signs.helping_percent(), signs.mean_helping_percent()
    (array([75., 50., nan]), array(62.5))
    >>> signs.zero_percent(), signs.steps_without_percent()
    (array([  0.,  75., 100.]), array(1))
    """

    negative: np.ndarray
    positive: np.ndarray
    zero: np.ndarray

    def helping_percent(self) -> np.ndarray:
        """``100 · #(A < 0) / #(A ≠ 0)`` of each step; NaN where every A is 0, as there is no percentage."""
        return _percent(self.negative, self.negative + self.positive)

    def zero_percent(self) -> np.ndarray:
        """``100 · #(A = 0) / #A`` of each step."""
        return _percent(self.zero, self.negative + self.positive + self.zero)

    def mean_helping_percent(self) -> np.ndarray:
        """The run's helping %: the mean over the steps that have one (NaN if none)."""
        return _mean(self.helping_percent())

    def mean_zero_percent(self) -> np.ndarray:
        """The run's share of exact zeros: the mean over all steps."""
        return _mean(self.zero_percent())

    def steps_without_percent(self) -> np.ndarray:
        """How many steps have no helping % because every A is exactly 0."""
        return np.asarray(np.isnan(self.helping_percent()).sum(axis=0))


class HelpingCounts:
    """Counts the `Signs` of every step; memory O(groups) a step.

    Parameters
    ----------
    groups
        Count within each of these as well. They partition the parameters, so the counts of a step are
        the sums over its groups. ``None``: no groups.

    Examples
    --------
    >>> counts = HelpingCounts()
    >>> counts.update(StepAllocation(np.array([-1.0, -2.0, 3.0, 0.0]), 0.0, 0.0, residual=0.0, mass=6.0))
    >>> counts.per_step().helping_percent().round(1), counts.per_step().zero_percent()
    (array([66.7]), array([25.]))
    """

    def __init__(self, groups: Groups | None = None) -> None:
        self.groups = groups
        self._rows: list[SignCounts] = []

    def update(self, allocation: StepAllocation) -> None:
        values = allocation.values
        groups = _all_of(array_ops(values).size(values)) if self.groups is None else self.groups
        self._rows.append(groups.signs(values))

    def per_step(self) -> Signs:
        """Counts over all parameters, arrays of shape (T,)."""
        return Signs(*self._counts().sum(axis=2))

    def per_group(self) -> Signs:
        """Counts within each group, arrays of shape (T, groups); (T, 1) without groups."""
        return Signs(*self._counts())

    def _counts(self) -> np.ndarray:
        """Shape (3, T, groups)."""
        width = 1 if self.groups is None else len(self.groups)
        return np.reshape(np.array(self._rows, dtype=np.int64), (-1, 3, width)).swapaxes(0, 1)


def _all_of(length: int) -> Groups:
    return Groups(("all",), (Slices(0, 1, 1, length),), np.array([0]))


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    percent = np.full(whole.shape, np.nan)
    np.divide(100.0 * part, whole, out=percent, where=whole > 0)
    return percent


def _mean(percent: np.ndarray) -> np.ndarray:
    """Mean over steps without the NaN; `numpy.nanmean` warns where nothing is left, which is no news here."""
    has = ~np.isnan(percent)
    count = np.asarray(has.sum(axis=0))
    mean = np.full(count.shape, np.nan)
    np.divide(np.where(has, percent, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    return mean
