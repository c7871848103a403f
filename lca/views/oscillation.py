"""`Oscillation`: how often each weight turns round, and how often its gradient changes sign."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import ArrayOps, Native, array_ops
from lca.views.view import step_of


class Oscillation:
    """Counts, for every parameter i and over the steps of a run, two events:

    - the weight *turns*: ``sign Δ_{t,i}`` is opposite to the last one that was not 0;
    - the gradient *changes sign*: ``sign ḡ_{t,i}`` is opposite to the last one that was not 0, where
      ``ḡ_{t,i} = A_{t,i} / Δ_{t,i}`` is the gradient averaged along the step. Where a parameter did not
      move, its gradient is not known and the last sign is kept.

    Steps that were not measured are not seen, so a run measured every n-th step has its own counts.
    Memory: 10 K bytes, where the vectors are.

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
        self._reductions: ArrayOps | None = None
        self._turns: tuple[Native, Native] = (None, None)
        self._changes: tuple[Native, Native] = (None, None)

    def update(self, allocation: StepAllocation) -> None:
        step = step_of(allocation, "turns")
        movement, on = step.end - step.start, array_ops(allocation.values)
        if self._reductions is None:
            zeros = np.zeros(on.size(allocation.values), np.int8)
            for name in ("_turns", "_changes"):
                counts, last = zeros.astype(np.int32), zeros.copy()
                setattr(self, name, (on.native(counts, movement), on.native(last, movement)))
        self._reductions = on
        moved = on.signs(movement)
        self._turns = on.changes(*self._turns, moved)
        self._changes = on.changes(*self._changes, on.signs(allocation.values) * moved)

    @property
    def turns(self) -> np.ndarray:
        """Turns of each weight, integers (K,); empty before the first step."""
        return self._numpy(self._turns[0])

    @property
    def sign_changes(self) -> np.ndarray:
        """Sign changes of each gradient, integers (K,); empty before the first step."""
        return self._numpy(self._changes[0])

    def _numpy(self, counts: Native) -> np.ndarray:
        if self._reductions is None:
            return np.zeros(0, np.int32)
        return self._reductions.to_numpy(counts).copy()
