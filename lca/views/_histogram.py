"""`LogHistogram`: the distribution of |A| over all parameters and steps, including its tails."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.row import BINS_PER_DECADE, HIGHEST_DECADE, LOWEST_DECADE


class LogHistogram:
    """Counts of |A_{t,i}| in bins of equal width in log10 |A|, separately for A < 0 and A > 0.

    Bin b counts the entries with ``edges[b] ≤ |A| < edges[b + 1]``. The bins are fixed in advance, so the
    histograms of different steps, runs and machines can be added. Every entry is counted: exact zeros and
    entries below or above the bins have their own counters.

    Parameters
    ----------
    low, high
        log10 of the first and last edge, in units of the loss.
    bins_per_decade
        Number of bins per factor of 10.

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

    def __init__(
        self,
        *,
        low: int = LOWEST_DECADE,
        high: int = HIGHEST_DECADE,
        bins_per_decade: int = BINS_PER_DECADE,
    ) -> None:
        if high <= low or bins_per_decade < 1:
            raise LCAError(
                f"a histogram needs low < high and bins_per_decade ≥ 1, got low={low}, high={high}, "
                f"bins_per_decade={bins_per_decade}."
            )
        self.edges = np.logspace(low, high, (high - low) * bins_per_decade + 1)
        self.zero = 0
        # Row 0 counts A < 0, row 1 A > 0; the first and the last column count entries outside the edges.
        self._counts = np.zeros((2, len(self.edges) + 1), dtype=np.int64)

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        ops = array_ops(allocation.values)
        self.add(ops.magnitudes(allocation.values, self.edges), ops.size(allocation.values))

    def add(self, counts: np.ndarray, parameters: int) -> None:
        """Process the `lca.row.Row.magnitudes` of one step, counts (2, bins + 2), of K ``parameters``."""
        self._counts += counts
        self.zero += parameters - int(counts.sum())

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
