"""`LogHistogram`: the distribution of |A| over all parameters and steps, tails included."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError


class LogHistogram:
    """Counts of |A_{t,i}| in bins of equal width in log10 |A|, helping and hurting apart.

    ``edges[b] ≤ |A| < edges[b + 1]`` puts an entry into bin b. The bins are fixed beforehand, so
    histograms of different steps, runs and machines add up. Nothing is dropped: exact zeros and entries
    below or above the bins have counters of their own.

    Parameters
    ----------
    low, high
        log10 of the first and last edge, in units of the loss.
    bins_per_decade
        How fine.

    Attributes
    ----------
    edges
        Shape (bins + 1,), in units of the loss.
    zero
        Entries that are exactly 0.

    Raises
    ------
    LCAError
        If there is not at least one bin.

    Examples
    --------
    >>> histogram = LogHistogram(low=-2, high=1, bins_per_decade=1)
    >>> values = np.array([-0.5, -0.02, 0.03, 0.0, 1e-9])
    >>> histogram.update(StepAllocation(values, 0.0, 0.0, residual=0.0, mass=0.0))
    >>> histogram.helping, histogram.hurting
    (array([1, 1, 0]), array([1, 0, 0]))
    >>> histogram.zero, histogram.below, histogram.above
    (1, 1, 0)
    """

    def __init__(self, *, low: int = -24, high: int = 2, bins_per_decade: int = 8) -> None:
        if high <= low or bins_per_decade < 1:
            raise LCAError(
                f"a histogram needs low < high and bins_per_decade ≥ 1, got low={low}, high={high}, "
                f"bins_per_decade={bins_per_decade}."
            )
        self.edges = np.logspace(low, high, (high - low) * bins_per_decade + 1)
        self.zero = 0
        # One more counter at either end, for what lies outside the edges: row 0 helping, row 1 hurting.
        self._counts = np.zeros((2, len(self.edges) + 1), dtype=np.int64)

    def update(self, allocation: StepAllocation) -> None:
        on = array_ops(allocation.values)
        counts = on.magnitudes(allocation.values, self.edges)
        self._counts += counts
        self.zero += on.size(allocation.values) - int(counts.sum())

    @property
    def helping(self) -> np.ndarray:
        """Counts of A < 0 by |A|, shape (bins,)."""
        return self._counts[0, 1:-1].copy()

    @property
    def hurting(self) -> np.ndarray:
        """Counts of A > 0 by |A|, shape (bins,)."""
        return self._counts[1, 1:-1].copy()

    @property
    def below(self) -> int:
        """Entries with 0 < |A| below the first edge, of either sign."""
        return int(self._counts[:, 0].sum())

    @property
    def above(self) -> int:
        """Entries with |A| at or above the last edge, of either sign."""
        return int(self._counts[:, -1].sum())
