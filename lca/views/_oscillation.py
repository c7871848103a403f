"""`Oscillation`: how often the movement and the gradient of each parameter change sign."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import ArrayOps, Native, array_ops
from lca.views._view import step_of


class Oscillation:
    """Counts two events for every parameter i over the steps of a run.

    - The parameter *turns*: ``sign Δ_{t,i}`` is opposite to its last value other than 0.
    - The gradient *changes sign*: ``sign ḡ_{t,i}`` is opposite to its last value other than 0, where
      ``ḡ_{t,i} = A_{t,i} / Δ_{t,i}`` is the gradient averaged along the step. If a parameter did not move,
      its gradient is unknown and the last sign is kept.

    Only measured steps are counted, so a run that is measured every n-th step gives other counts.
    Memory: 10 K bytes on the device of the vectors. The estimator must set `lca.StepAllocation.source`.

    Examples
    --------
    >>> from lca import Step
    >>> view = Oscillation()
    >>> start, gradient = np.zeros(2), np.array([1.0, 1.0])
    >>> for t, move in enumerate(([-1.0, 1.0], [1.0, 0.0], [-1.0, 1.0])):
    ...     step = Step(start, start + np.array(move), t)
    ...     values = gradient * (step.end - step.start)
    ...     view.update(StepAllocation(values, 0.0, 0.0, residual=0.0, mass=0.0, source=step))
    >>> view.turns, view.sign_changes
    (array([2, 0], dtype=int32), array([0, 0], dtype=int32))
    """

    def __init__(self) -> None:
        self._ops: ArrayOps | None = None
        self._turns: tuple[Native, Native] = (None, None)
        self._changes: tuple[Native, Native] = (None, None)

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        step = step_of(allocation, "turns")
        movement, ops = step.end - step.start, array_ops(allocation.values)
        if self._ops is None:
            zeros = np.zeros(ops.size(allocation.values), np.int8)
            for name in ("_turns", "_changes"):
                counts, last = zeros.astype(np.int32), zeros.copy()
                setattr(self, name, (ops.native(counts, movement), ops.native(last, movement)))
        self._ops = ops
        moved = ops.signs(movement)
        self._turns = ops.changes(*self._turns, moved)
        self._changes = ops.changes(*self._changes, ops.signs(allocation.values) * moved)

    @property
    def turns(self) -> np.ndarray:
        """Number of turns of each parameter, integers (K,); empty before the first step."""
        return self._numpy(self._turns[0])

    @property
    def sign_changes(self) -> np.ndarray:
        """Number of sign changes of each gradient, integers (K,); empty before the first step."""
        return self._numpy(self._changes[0])

    def _numpy(self, counts: Native) -> np.ndarray:
        if self._ops is None:
            return np.zeros(0, np.int32)
        return self._ops.to_numpy(counts).copy()
