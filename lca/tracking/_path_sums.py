"""`PathSums` and `PathDifference`: how far the layers of a straight line are from those of its updates."""

import numpy as np

from lca.allocation import Cost
from lca.layout import Layout
from lca.row import Row
from lca.views import RowView


class PathSums(RowView):
    """The totals of the layers over the updates of one straight line, and what they cost.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> path = PathSums(Layout(("w",), ((2,),)))
    >>> for sign in (1, -3):
    ...     path.update(StepAllocation(sign * np.array([1.0, 2.0]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> path.layers
    array([-6.])
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.reset()

    def reset(self) -> None:
        """Another straight line begins."""
        self.cost = Cost()
        self.layers = np.zeros(len(self.layout.groups("layer")))

    def read(self, row: Row) -> None:
        """Process the row of one update."""
        self.cost += row.allocation.cost
        self.layers = self.layers + row.totals("layer")


class PathDifference:
    """The difference between straight lines and the updates under them, over all lines where it was measured.

    ``Σ_layers |Σ A_line - Σ A_path| / Σ_layers |Σ A_path|``, the inner sums over these lines.

    Examples
    --------
    >>> from lca import StepAllocation
    >>> layout = Layout(("a.w", "b.w"), ((1,), (1,)))
    >>> path, difference = PathSums(layout), PathDifference()
    >>> path.update(StepAllocation(np.array([-3.0, 1.0]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> line = Row(StepAllocation(np.array([-2.5, 0.5]), 0.0, 0.0, residual=0.0, mass=0.0), layout)
    >>> difference.add(line, path), difference.whole
    (0.25, 0.25)
    """

    def __init__(self) -> None:
        self.lines = 0
        self._line, self._path = np.zeros(()), np.zeros(())

    def add(self, row: Row, path: PathSums) -> float:
        """The difference of one straight line."""
        line = row.totals("layer")
        self.lines += 1
        self._line, self._path = self._line + line, self._path + path.layers
        return _relative(line, path.layers)

    @property
    def whole(self) -> float:
        """The difference of the sums over all lines; NaN before the first."""
        return _relative(self._line, self._path)


def _relative(line: np.ndarray, path: np.ndarray) -> float:
    scale = np.abs(path).sum()
    return float(np.abs(line - path).sum() / scale) if scale else float("nan")
