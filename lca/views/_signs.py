"""How many parameters help: the definition of "helping %" that the whole library shares.

Published figures disagreed by 12 points because some counted exact zeros as not helping. Helping, hurting and
exactly zero are therefore counted separately here, and the percentage is defined once. Sampled allocations
are counted too, but summaries and reports give no percentage for them (`NOISY`).
"""

from dataclasses import dataclass

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import Slices, array_ops
from lca.groups import Groups, SignCounts
from lca.views._rows import Rows

NOISY = (
    "no helping %: these allocations are estimates from samples, whose noise flips signs and pulls the "
    "percentage towards 50; measure with a full-data estimator (lca.Adaptive, lca.PathIntegral)"
)
"""Why there is no helping % where `lca.StepAllocation.sampled` is true."""

_PIECE = 8192
"""Steps that are reduced at once."""


@dataclass(frozen=True, eq=False)
class Signs:
    """Numbers of parameters that are helping (A < 0), hurting (A > 0) or zero (A = 0 exactly).

    Parameters
    ----------
    helping, hurting, zero
        Integer arrays of one shape, (T,) or (T, groups); the first axis is the step. Means over the steps
        have shape () or (groups,). Those of a record are `xarray.DataArray`, and so are its percentages.

    Examples
    --------
    >>> signs = Signs(np.array([3, 1, 0]), np.array([1, 1, 0]), np.array([0, 6, 4]))
    >>> signs.helping_percent(), signs.mean_helping_percent()
    (array([75., 50., nan]), array(62.5))
    >>> signs.zero_percent(), signs.steps_without_percent()
    (array([  0.,  75., 100.]), array(1))
    """

    helping: np.ndarray
    hurting: np.ndarray
    zero: np.ndarray

    def helping_percent(self) -> np.ndarray:
        """``100 · #(A < 0) / #(A ≠ 0)`` of each step; NaN where every A is 0."""
        return _percent(self.helping, self.helping + self.hurting)

    def zero_percent(self) -> np.ndarray:
        """``100 · #(A = 0) / #A`` of each step."""
        return _percent(self.zero, self.helping + self.hurting + self.zero)

    def mean_helping_percent(self) -> np.ndarray:
        """The helping % of the run: the mean over the steps that have one; NaN if no step has."""
        return _mean(self.helping_percent())

    def mean_zero_percent(self) -> np.ndarray:
        """The percentage of exact zeros in the run: the mean over all steps."""
        return _mean(self.zero_percent())

    def steps_without_percent(self) -> np.ndarray:
        """Number of steps without a helping %, because every A is exactly 0."""
        return np.asarray(np.isnan(self.helping_percent()).sum(axis=0))


class HelpingCounts:
    """Counts the `Signs` of every step.

    Memory: fixed; earlier counts are in a temporary file.

    Parameters
    ----------
    groups
        Groups within which to count as well, from `lca.Layout.groups`. They partition the parameters, so the
        counts of a step are the sums over the groups. ``None``: count over all parameters only.

    Examples
    --------
    >>> counts = HelpingCounts()
    >>> counts.update(StepAllocation(np.array([-1.0, -2.0, 3.0, 0.0]), 0.0, 0.0, residual=0.0, mass=6.0))
    >>> counts.per_step().helping_percent().round(1), counts.per_step().zero_percent()
    (array([66.7]), array([25.]))
    """

    def __init__(self, groups: Groups | None = None) -> None:
        self.groups = groups
        self._rows = Rows(np.int64, (3, 1 if groups is None else len(groups)))

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        values = allocation.values
        groups = _all_of(array_ops(values).size(values)) if self.groups is None else self.groups
        self.add(groups.signs(values))

    def add(self, signs: SignCounts) -> None:
        """Process the counts of one step, as from `lca.row.Row.signs`."""
        self._rows.append(signs)

    def per_step(self) -> Signs:
        """Counts over all parameters, arrays of shape (T,)."""
        return Signs(*self._rows.array().sum(axis=2).T)

    def per_group(self) -> Signs:
        """Counts within each group, arrays of shape (T, groups); (T, 1) without groups."""
        return Signs(*self._rows.array().swapaxes(0, 1))

    def mean_helping_percent_per_group(self) -> np.ndarray:
        """``per_group().mean_helping_percent()``, (groups,), in a fixed amount of memory."""
        rows = self._rows.array()
        total, count = np.zeros((2, rows.shape[2]))
        for first in range(0, len(rows), _PIECE):
            percent = Signs(*rows[first : first + _PIECE].swapaxes(0, 1)).helping_percent()
            has = ~np.isnan(percent)
            total += np.where(has, percent, 0.0).sum(axis=0)
            count += has.sum(axis=0)
        mean = np.full(len(total), np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean


def _all_of(length: int) -> Groups:
    return Groups(("all",), (Slices(0, 1, 1, length),), np.array([0]))


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100.0 * part / np.where(whole > 0, whole, np.nan)


def _mean(percent: np.ndarray) -> np.ndarray:
    """Mean over the steps that are not NaN; `numpy.nanmean` would warn where no step is left."""
    percent = np.asarray(percent)
    has = ~np.isnan(percent)
    count = np.asarray(has.sum(axis=0))
    mean = np.full(count.shape, np.nan)
    np.divide(np.where(has, percent, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    return mean
