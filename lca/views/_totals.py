"""`GroupTotals`: the loss change allocated to each tensor, layer or neuron, step by step."""

import numpy as np

from lca.allocation import StepAllocation
from lca.groups import Groups
from lca.views._rows import Rows


class GroupTotals:
    """``Σ_{i in group} A_{t,i}`` for every step t and group; float64, units of the loss, negative: helping.

    Memory: fixed; earlier rows are in a temporary file. With very many groups (single neurons of a wide
    network) and a long run, pass ``keep_rows=False`` to keep only `totals`.

    Parameters
    ----------
    groups
        From `lca.Layout.groups`: tensors, layers, neurons or a grouping of your own.
    keep_rows
        Whether to keep one row per step in addition to the running totals.

    Examples
    --------
    >>> from lca import Layout
    >>> view = GroupTotals(Layout(("a.w", "b.w"), ((2,), (1,))).groups("layer"))
    >>> for sign in (1, -3):
    ...     view.update(StepAllocation(sign * np.array([1.0, 2.0, 4.0]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> view.rows
    array([[  3.,   4.],
           [ -9., -12.]])
    >>> view.by_name()
    {'a': -6.0, 'b': -8.0}
    """

    def __init__(self, groups: Groups, *, keep_rows: bool = True) -> None:
        self.groups = groups
        self._keep_rows = keep_rows
        self._rows = Rows(np.float64, (len(groups),))
        self._totals = np.zeros(len(groups))

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        self.add(self.groups.total(allocation.values))

    def add(self, row: np.ndarray) -> None:
        """Process the group totals (groups,) of one step, as from `lca.row.Row.totals`."""
        self._totals += row
        if self._keep_rows:
            self._rows.append(row)

    @property
    def rows(self) -> np.ndarray:
        """One row a step, shape (T, groups); (0, groups) with ``keep_rows=False``."""
        return self._rows.array()

    @property
    def totals(self) -> np.ndarray:
        """Sum over all steps, shape (groups,)."""
        return self._totals.copy()

    def by_name(self) -> dict[str, float]:
        """The totals as plain floats by group name, in the order of the groups."""
        return dict(zip(self.groups.names, self._totals.tolist(), strict=True))
