"""`steps_between`: the steps of a replay of checkpoints, in all frameworks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from lca._state import same_state
from lca.arrays import Vector
from lca.frameworks._checkpoints import Checkpoint
from lca.objective import State
from lca.step import Step

ReadCheckpoint: TypeAlias = Callable[[Path], tuple[Vector, State | None]]


def steps_between(checkpoints: Sequence[Checkpoint], read: ReadCheckpoint) -> Iterator[Step]:
    """The steps between consecutive checkpoints; each file is read once, when its step comes up.

    ``Step.index`` counts steps from 0, and ``Step.checkpoints`` has the numbers of both ends. A state that
    did not change is the same object at both ends.

    Parameters
    ----------
    checkpoints
        At least two, in the order of training, from `checkpoints_in_order`.
    read
        Returns θ (K,) and the state of one file, or ``None`` for the state.

    Returns
    -------
    Iterator of Step
        ``operator.length_hint(steps)`` is the number of steps that are left.

    Examples
    --------
    >>> import numpy as np
    >>> points = {Path("0"): np.zeros(2), Path("1"): np.ones(2)}
    >>> run = [Checkpoint(Path("0"), 100), Checkpoint(Path("1"), 250)]
    >>> steps = steps_between(run, lambda path: (points[path], None))
    >>> [(step.end - step.start, step.checkpoints) for step in steps]
    [(array([1., 1.]), (100, 250))]
    """
    return _Counted(_steps_between(checkpoints, read), len(checkpoints) - 1)


class _Counted(Iterator[Step]):
    """Steps of which it is known how many there are.

    >>> from operator import length_hint
    >>> steps = _Counted(iter([Step(0.0, 1.0), Step(1.0, 2.0)]), 2)
    >>> length_hint(steps), next(steps).end, length_hint(steps)
    (2, 1.0, 1)
    """

    def __init__(self, steps: Iterator[Step], count: int) -> None:
        self._steps, self._left = steps, count

    def __next__(self) -> Step:
        step = next(self._steps)
        self._left -= 1
        return step

    def __length_hint__(self) -> int:
        return self._left


def _steps_between(checkpoints: Sequence[Checkpoint], read: ReadCheckpoint) -> Iterator[Step]:
    start, before = read(checkpoints[0].path)
    for index, (first, last) in enumerate(pairwise(checkpoints)):
        end, after = read(last.path)
        if before is not None and after is not None and same_state(before, after):
            after = before
        state = None if before is None or after is None else (before, after)
        yield Step(start, end, index, state=state, checkpoints=(first.number, last.number))
        start, before = end, after
