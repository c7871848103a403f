"""`Trace`: the scalars of every step, for balances and costs."""

from collections.abc import Mapping
from operator import itemgetter

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.row import scalars
from lca.views._rows import Rows

ROW = np.dtype(
    [
        ("step", np.int64),
        ("loss_start", np.float64),
        ("loss_end", np.float64),
        ("total", np.float64),
        ("state_change", np.float64),
        ("residual", np.float64),
        ("mass", np.float64),
        ("full_gradients", np.float64),
        ("batch_gradients", np.float64),
        ("examples", np.float64),
        ("converged", np.bool_),
        ("sampled", np.bool_),
    ]
)
"""The columns of a `Trace`, by the names of `lca.row.scalars`."""
_in_order = itemgetter(*(ROW.names or ()))


class Trace:
    """One row of scalars a step, in units of the loss.

    Memory: fixed; earlier rows are in a temporary file.

    Examples
    --------
    >>> trace = Trace()
    >>> trace.update(StepAllocation(np.array([-1.0, 0.25]), 3.0, 2.25, residual=0.0, mass=1.25))
    >>> trace.rows["total"], trace.losses()
    (array([-0.75]), array([3.  , 2.25]))
    """

    def __init__(self) -> None:
        self._rows = Rows(ROW)

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        self.add(scalars(allocation, array_ops(allocation.values).total(allocation.values)))

    def add(self, found: Mapping[str, float]) -> None:
        """Process the `lca.row.scalars` of one step."""
        self._rows.append(_in_order(found))

    @property
    def rows(self) -> np.ndarray:
        """Structured array (T,) with the columns of ``ROW``."""
        return self._rows.array()

    def losses(self) -> np.ndarray:
        """L(θ_0), L(θ_1), ..., L(θ_T): shape (T + 1,), empty before the first step; NaN if not measured."""
        rows = self.rows
        return np.concatenate([rows["loss_start"][:1], rows["loss_end"]])

    def rebuilt(self) -> np.ndarray:
        """The losses from the allocations: ``L(θ_0) + Σ_{s<t} (Σ_i A_{s,i} + state_change_s)``; (T + 1,)."""
        rows = self.rows
        return np.cumsum(np.concatenate([rows["loss_start"][:1], rows["total"] + rows["state_change"]]))
