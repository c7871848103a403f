"""`own_work`: how long a measured step works on vectors, beside the gradients and losses that it asks for."""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from lca.allocation import Cost, Estimator, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch
from lca.step import MicroBatch, Step
from lca.summary import RunViews
from lca.tracking._options import MakeView
from lca.tracking._session import Session

MOST = 2**20
"""The most parameters of the vectors that are timed; more take proportionally longer."""
_STEPS = 5
_ENOUGH = 0.1  # seconds after which no further step is timed
_SUPPLY = {"gradient": 1, "micro_batches": 14, "halves": 14, "update_slope": 6}
"""About how many passes over vectors (K,) it takes to supply a field of a step: a copy of each gradient, and
for each of two micro-batches the update of an optimizer with two moments."""


@dataclass(frozen=True)
class OwnWork:
    """What an estimator and the tracker do in a step beside gradients and losses.

    Attributes
    ----------
    seconds
        The time of a step whose gradients cost nothing.
    sizes
        The number of examples in each gradient on a sample that it asked for.
    start_cost
        What a run asks for at the beginning of its first step, in addition to the cost of a step.

    Examples
    --------
    >>> OwnWork(0.001, (64, 64, 64, 64)).seconds
    0.001
    """

    seconds: float
    sizes: tuple[int, ...] = ()
    start_cost: Cost = field(default_factory=Cost)


def own_work(estimator: Estimator, layout: Layout, theta: Vector, examples: int | None) -> OwnWork | None:
    """Time the steps of a run whose gradients cost nothing, as a tracker measures them.

    What supplying the fields of a step costs the loop is estimated by passes over a vector.

    Parameters
    ----------
    estimator
        What is timed; it begins a run of its own.
    layout
        The layout of the parameters.
    theta
        θ (K,), of which at most the first `MOST` numbers are used.
    examples
        The number of examples that can be drawn; ``None`` if none can.

    Returns
    -------
    OwnWork or None
        The work of a step; ``None`` if the estimator refuses such steps, or if each process holds a part of
        θ: how many steps are timed differs between processes, which must make the same calls.
    """
    if array_ops(theta).collective:
        return None
    whole = len(theta)
    if whole > MOST:
        theta, layout = theta[:MOST], Layout(("w",), ((MOST,),))
    start, end, zero = theta + 0, theta + 1, theta * 0
    free, times = _Free(layout, zero, examples or 1), []
    try:
        views: list[MakeView] = [RunViews.of, _StartCost]
        session = Session(free, estimator, views=views, on_error="raise", check_every=None)
        for index in range(_STEPS):
            step = _step(start, end, zero, index)
            free.asked.clear()
            begin = perf_counter()
            session.measure(step)
            array_ops(zero).total(zero)  # on a device: the work has ended
            times.append(perf_counter() - begin)
            if times[-1] > _ENOUGH:
                break
            start, end = end, start
    except LCAError:
        return None
    seconds = median(times[1:] or times)  # the first one sets up
    seconds = (seconds + _supply(estimator, theta)) * max(1.0, whole / MOST)
    return OwnWork(seconds, tuple(free.asked), session.views["train"][1].cost)


class _StartCost:
    """The view that keeps the cost at the start of the first step."""

    def __init__(self, _: Layout) -> None:
        self.cost: Cost | None = None

    def update(self, allocation: StepAllocation) -> None:
        if self.cost is None:
            self.cost = allocation.start_cost


@dataclass(frozen=True)
class _Free:
    """An objective whose loss and gradient are 0 and take no time."""

    layout: Layout
    zero: Any
    n_examples: int
    weight: None = None
    asked: list[int] = field(default_factory=list)
    """The sizes of the samples on which gradients were asked for."""

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        return index

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return 0.0

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        if batch is not None:
            self.asked.append(len(batch))
        return 0.0, self.zero


def _step(start: Vector, end: Vector, gradient: Vector, index: int) -> Step:
    pair = (MicroBatch(gradient, gradient), MicroBatch(gradient, gradient))
    return Step(
        start,
        end,
        index,
        batch=np.arange(1),
        next_batch=np.arange(1),
        gradient=gradient,
        next_gradient=gradient,
        micro_batches=pair,
        next_micro_batches=pair,
        halves=pair,
        next_halves=pair,
        update_slope=-1.0,
    )


def _supply(estimator: Estimator, theta: Vector) -> float:
    """Seconds that the loop takes to supply the fields of this step."""
    fields = getattr(estimator, "required_fields", ())
    passes = sum(_SUPPLY.get(field, 0) for field in fields)
    if not passes:
        return 0.0
    begin = perf_counter()
    array_ops(theta).total(theta + 1)
    return passes * (perf_counter() - begin)
