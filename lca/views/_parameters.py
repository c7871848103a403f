"""`ParameterTrace` and `AllParameters`: chosen parameters, or all of them, step by step."""

from collections.abc import Sequence

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.layout import Layout
from lca.views._view import numpy_values, step_of


class ParameterTrace:
    """θ_{t,i}, Δ_{t,i} and A_{t,i} of chosen parameters. Memory: O(chosen) a step.

    Parameters
    ----------
    layout
        The layout of the parameters.
    entries
        The chosen parameters: positions in θ, or names such as ``"fc1.weight[3, 17]"``.

    Attributes
    ----------
    names
        The names of the chosen parameters.

    Raises
    ------
    LayoutError, UnknownNameError
        If an entry is not a parameter of the layout.

    Examples
    --------
    >>> from lca import Step
    >>> trace = ParameterTrace(Layout(("w",), ((2, 2),)), ["w[1, 0]"])
    >>> step = Step(np.zeros(4), np.array([0.0, 0.0, 0.5, 1.0]))
    >>> values = np.array([0.0, 0.0, -1.0, 2.0])
    >>> trace.update(StepAllocation(values, 0.0, 0.0, residual=0.0, mass=3.0, source=step))
    >>> trace.theta, trace.movement, trace.values
    (array([[0.]]), array([[0.5]]), array([[-1.]]))
    """

    def __init__(self, layout: Layout, entries: Sequence[int | str]) -> None:
        self._positions = np.array([layout.position(entry) for entry in entries], np.int64)
        self.names = tuple(layout.label(int(i)) for i in self._positions)
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`).

        Raises
        ------
        LCAError
            If the estimator did not set `lca.StepAllocation.source`.
        """
        step, ops = step_of(allocation, "traces of parameters"), array_ops(allocation.values)
        start, end, values = (
            ops.take(vector, self._positions) for vector in (step.start, step.end, allocation.values)
        )
        self._rows.append((start, end - start, values))

    @property
    def theta(self) -> np.ndarray:
        """θ_t before each step, shape (T, chosen), in the dtype of the parameters."""
        return self._column(0)

    @property
    def movement(self) -> np.ndarray:
        """Δ_t, shape (T, chosen)."""
        return self._column(1)

    @property
    def values(self) -> np.ndarray:
        """A_t, shape (T, chosen)."""
        return self._column(2)

    def _column(self, which: int) -> np.ndarray:
        return np.reshape([row[which] for row in self._rows], (len(self._rows), len(self._positions)))


class AllParameters:
    """All A_{t,i} as one (T, K) array in memory, in the dtype of the parameters.

    Memory: T K numbers, so use it for short runs of small networks. `lca.Record` with ``values="float32"``
    stores them on disk.

    Examples
    --------
    >>> view = AllParameters()
    >>> view.update(StepAllocation(np.array([-1.0, 0.5]), 0.0, 0.0, residual=0.0, mass=0.0))
    >>> view.rows
    array([[-1. ,  0.5]])
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        self._rows.append(numpy_values(allocation).copy())

    @property
    def rows(self) -> np.ndarray:
        """Shape (T, K); (0, 0) before the first step."""
        return np.array(self._rows) if self._rows else np.zeros((0, 0))
