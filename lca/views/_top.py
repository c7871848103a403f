"""`TopParameters`: the single parameters that helped or hurt most over the run."""

from typing import NamedTuple

from lca.allocation import StepAllocation
from lca.arrays import Native, array_ops
from lca.errors import LCAError
from lca.layout import Layout


class Entry(NamedTuple):
    """The name of a parameter, such as ``"fc1.weight[3, 17]"``, and its total over the run.

    >>> Entry("fc1.weight[3, 17]", -0.5).total
    -0.5
    """

    name: str
    total: float


class TopParameters:
    """Accumulates ``Σ_t A_{t,i}`` for every parameter i, in float64 on the device of the vectors.

    Memory: 8 K bytes. Only results are copied from the device.

    Parameters
    ----------
    layout
        The layout of the parameters, which gives their names.

    Examples
    --------
    >>> import numpy as np
    >>> view = TopParameters(Layout(("a.w", "b.w"), ((2,), (1,))))
    >>> for sign in (1, 1):
    ...     view.update(StepAllocation(sign * np.array([1.0, -2.0, 4.0]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> view.helping(1), view.hurting(2)
    ([Entry(name='a.w[1]', total=-4.0)], [Entry(name='b.w[0]', total=8.0), Entry(name='a.w[0]', total=2.0)])
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._totals: Native | None = None

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        self._ops = array_ops(allocation.values)
        self._totals = self._ops.accumulated(self._totals, allocation.values)

    def helping(self, k: int = 10) -> list[Entry]:
        """The k parameters with the most negative totals, in ascending order; fewer if fewer are negative.

        Raises
        ------
        LCAError
            If ``k`` is less than 1.
        """
        return [entry for entry in self._extremes(k)[0] if entry.total < 0]

    def hurting(self, k: int = 10) -> list[Entry]:
        """The k parameters with the largest totals, in descending order; fewer if fewer are positive.

        Raises
        ------
        LCAError
            If ``k`` is less than 1.
        """
        return [entry for entry in self._extremes(k)[1] if entry.total > 0]

    def _extremes(self, k: int) -> tuple[list[Entry], list[Entry]]:
        if k < 1:
            raise LCAError(f"k must be at least 1, got {k}.")
        if self._totals is None:
            return [], []
        both = []
        for positions in self._ops.extremes(self._totals, min(k, self.layout.size)):
            totals = self._ops.take(self._totals, positions).tolist()
            names = [self.layout.label(int(i)) for i in positions]
            both.append([Entry(*pair) for pair in zip(names, totals, strict=True)])
        return both[0], both[1]
