"""`each_step`: allocate the steps of a trajectory as they are asked for."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lca.errors import TrajectoryError
from lca.step import Step

Result = TypeVar("Result")


def each_step(trajectory: Iterable[Step], allocate_step: Callable[[Step], Result]) -> Iterator[Result]:
    """The result of each step, in order and computed when it is asked for.

    Raises
    ------
    TrajectoryError
        If there is no step.

    Examples
    --------
    >>> from lca import Trajectory
    >>> list(each_step(Trajectory([[0.0], [0.5], [2.0]]), lambda step: step.index))
    [0, 1]
    """
    none_yet = True
    for step in trajectory:
        none_yet = False
        yield allocate_step(step)
    if none_yet:
        raise TrajectoryError("there was no step to allocate; was the trajectory already consumed?")
