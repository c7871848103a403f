"""`View` and `RowView`: what every streaming reduction of a run offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.row import Row
from lca.step import Step


class View(Protocol):
    """A streaming reduction of a run; `update` is called once per measured step, in order.

    Its memory must not grow with K times the number of steps: an implementation keeps a few numbers a step,
    or running counts. Any class with this method is a view; nothing needs to be inherited.

    Examples
    --------
    >>> class LargestStep:
    ...     total = 0.0
    ...
    ...     def update(self, allocation):
    ...         values = array_ops(allocation.values)
    ...         self.total = max(self.total, abs(values.total(allocation.values)))
    >>> view = LargestStep()
    >>> view.update(StepAllocation(np.array([-1.0, -0.5]), 2.0, 0.5, residual=0.0, mass=1.5))
    >>> view.total
    1.5
    """

    def update(self, allocation: StepAllocation) -> None:
        """Process one step. The vectors of the step must not be kept: the model may overwrite them."""


class RowView(ABC):
    """A view that reads the `lca.row.Row` of a step, which all readers of the step share.

    A session passes the row itself, so that the values are reduced once for all its readers; in a loop of
    one's own, `update` makes the row.

    Parameters
    ----------
    layout
        The layout of the parameters.

    Examples
    --------
    >>> class Total(RowView):
    ...     def read(self, row):
    ...         self.total = row.total
    >>> view = Total(Layout(("w",), ((2,),)))
    >>> view.update(StepAllocation(np.array([-1.0, -0.5]), 2.0, 0.5, residual=0.0, mass=1.5))
    >>> view.total
    -1.5
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @abstractmethod
    def read(self, row: Row) -> None:
        """Process the row of one step; keep numbers, not the row."""

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        self.read(Row(allocation, self.layout))


def reader_of(view: View) -> Callable[[Row], None]:
    """What updates ``view`` with the step of a row: a `RowView` reads it, any other view its allocation.

    >>> from lca.views import Trace
    >>> trace = Trace()
    >>> allocation = StepAllocation(np.array([-1.0, -0.5]), 2.0, 0.5, residual=0.0, mass=1.5)
    >>> reader_of(trace)(Row(allocation, Layout(("w",), ((2,),))))
    >>> trace.rows["total"]
    array([-1.5])
    """
    return view.read if isinstance(view, RowView) else lambda row: view.update(row.allocation)


def numpy_values(allocation: StepAllocation) -> np.ndarray:
    """The (K,) values of a step as a NumPy array, whichever backend they come from."""
    return array_ops(allocation.values).to_numpy(allocation.values)


def step_of(allocation: StepAllocation, what: str) -> Step:
    """The step that was allocated, for readers of θ and its movement.

    Parameters
    ----------
    allocation
        The step.
    what
        The plural name of the reader, for the message.

    Raises
    ------
    LCAError
        If the estimator did not set `lca.StepAllocation.source`.
    """
    if allocation.source is None:
        raise LCAError(
            f"{what} need θ, but the allocation of step {allocation.step} has no source; an estimator must "
            "set StepAllocation.source to the step."
        )
    return allocation.source
