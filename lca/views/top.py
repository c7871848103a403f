"""`TopParameters`: which single parameters helped and hurt most over the run."""

from typing import NamedTuple

from lca.allocation import StepAllocation
from lca.arrays import Native, array_ops
from lca.errors import LCAError
from lca.layout import Layout


class Entry(NamedTuple):
    """A parameter, as ``"fc1.weight[3, 17]"``, and its total over the run."""

    name: str
    total: float


class TopParameters:
    """Adds up ``Σ_t A_{t,i}`` for every parameter i, in float64 and where the vectors are.

    Memory: 8 K bytes. Nothing is copied from the device before a result is asked for.

    Parameters
    ----------
    layout
        For the names.

    Examples
    --------
    >>> import numpy as np
    >>> view = TopParameters(Layout(("a.w", "b.w"), ((2,), (1,))))
    >>> for sign in (1, 1):
    ...     view.update(StepAllocation(sign * np.array([1.0, -2.0, 4.0]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> view.helpers(1), view.hurters(2)
    ([Entry(name='a.w[1]', total=-4.0)], [Entry(name='b.w[0]', total=8.0), Entry(name='a.w[0]', total=2.0)])
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._totals: Native | None = None

    def update(self, allocation: StepAllocation) -> None:
        self._reductions = array_ops(allocation.values)
        self._totals = self._reductions.accumulated(self._totals, allocation.values)

    def helpers(self, k: int = 10) -> list[Entry]:
        """The k parameters with the most negative totals, the best first; fewer if fewer are negative."""
        return [entry for entry in self._extremes(k)[0] if entry.total < 0]

    def hurters(self, k: int = 10) -> list[Entry]:
        """The k parameters with the largest totals, the worst first; fewer if fewer are positive."""
        return [entry for entry in self._extremes(k)[1] if entry.total > 0]

    def _extremes(self, k: int) -> tuple[list[Entry], list[Entry]]:
        if k < 1:
            raise LCAError(f"k must be at least 1, got {k}.")
        if self._totals is None:
            return [], []
        both = []
        for positions in self._reductions.extremes(self._totals, min(k, self.layout.size)):
            totals = self._reductions.take(self._totals, positions).tolist()
            names = [self.layout.label(int(i)) for i in positions]
            both.append([Entry(*pair) for pair in zip(names, totals, strict=True)])
        return both[0], both[1]
