"""`Speed`: how long loss and gradient of an objective take, measured in about a second."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import median
from time import perf_counter

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.objective import Objective, Sampled, leaves

SECONDS = 1.0
"""About how long all measurements take, unless a single gradient takes longer."""
_FIRST, _GROWTH = 16, 8  # examples of the first sample, and how much larger the next one is


@dataclass(frozen=True)
class Speed:
    """How long evaluations of one objective take, in seconds.

    Attributes
    ----------
    gradient, loss
        Of all data.
    sizes, seconds
        Gradients on samples: numbers of examples, and how long each took; empty if none can be drawn.

    Examples
    --------
    >>> Speed(0.5, 0.25, (16, 128), (0.25, 0.75)).of_examples(72)
    0.5
    """

    gradient: float
    loss: float
    sizes: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def of_examples(self, count: float) -> float | None:
        """The time of a gradient on ``count`` examples; ``None`` if it is not known."""
        if not self.sizes:
            return None
        if count >= self.sizes[-1]:
            return self.seconds[-1] * count / self.sizes[-1]
        return float(np.interp(count, self.sizes, self.seconds))


def speeds_of(objectives: Mapping[str, Objective], theta: Vector) -> dict[str, Speed]:
    """How long each measured loss takes: the sum over its terms; each objective is timed once."""
    parts = {id(own): own for own in leaves(objectives)}
    budget = SECONDS / len(parts)
    timed = {key: _speed(own, theta, budget) for key, own in parts.items()}
    return {name: _sum([timed[id(own)] for own in leaves(o)]) for name, o in objectives.items()}


def _sum(speeds: list[Speed]) -> Speed:
    if len(speeds) == 1:
        return speeds[0]
    return Speed(sum(speed.gradient for speed in speeds), sum(speed.loss for speed in speeds))


def _speed(objective: Objective, theta: Vector, budget: float) -> Speed:
    """Time gradients on growing samples up to all data, or to what the budget allows.

    Each sample is drawn anew, and θ is another vector each time, as in the steps of a run.
    """
    n = examples_of(objective)
    agreed = getattr(objective, "agreed", float)  # processes that share the evaluations must do the same
    if n is None:
        loss = _time_of(partial(objective.loss, theta), budget / 4, agreed)
        return Speed(_time_of(partial(_finished, objective, theta), budget, agreed), loss)
    assert isinstance(objective, Sampled)
    sizes, seconds, size, drawn = [], [], min(n, _FIRST), _Drawn(objective, theta, n)
    while True:
        sizes.append(size)
        seconds.append(_time_of(partial(drawn.gradient, size), budget, agreed, part=size < n))
        if size == n or seconds[-1] > budget / (2 * _GROWTH):
            break
        size = min(n, _GROWTH * size)
    share = n / size
    batch = () if size == n else (objective.batch(np.arange(size)),)
    loss = _time_of(partial(objective.loss, theta, *batch), budget / 4, agreed)
    return Speed(share * seconds[-1], share * loss, tuple(sizes), tuple(seconds))


class _Drawn:
    """Gradients on samples of an objective, each at a vector that differs from the last one."""

    def __init__(self, objective: Sampled, theta: Vector, examples: int) -> None:
        self._objective, self._examples = objective, examples
        self._points = cycle((theta, theta + 0))
        self._random = np.random.default_rng(0)

    def gradient(self, size: int) -> None:
        draws = size < self._examples  # a gradient of all data needs no sample
        index = self._random.integers(0, self._examples, size)
        batch = (self._objective.batch(index),) if draws else ()
        _finished(self._objective, next(self._points), *batch)


def examples_of(objective: Objective) -> int | None:
    """The number of examples that can be drawn; ``None`` if none can."""
    if not isinstance(objective, Sampled):
        return None
    try:
        objective.batch(np.zeros(1, int))
        return int(objective.n_examples)
    except LCAError:  # not a mean over examples
        return None


def _finished(objective: Objective, theta: Vector, *batch: object) -> float:
    """A gradient whose computation has ended, also on a device that computes while Python goes on."""
    return array_ops(theta).total(objective.loss_and_grad(theta, *batch)[1])


def _time_of(
    call: Callable[[], object], budget: float, agreed: Callable[[float], float], *, part: bool = False
) -> float:
    """Seconds of a call: the median of three, unless the first one takes most of the budget.

    That of a part of the data is then taken a second time: what the first one sets up, such as a traced
    function, would be multiplied by the number of parts.
    """
    first = agreed(_once(call))
    if first > budget / 2:
        return min(first, agreed(_once(call))) if part else first
    return median((first, agreed(_once(call)), agreed(_once(call))))


def _once(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin
