"""`own_work`: how long a measured step works on vectors, beside the gradients and losses that it asks for."""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from lca.allocation import Estimator
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch
from lca.step import ExampleScores, MicroBatch, Step
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

    Examples
    --------
    >>> OwnWork(0.001, (64, 64, 64, 64)).seconds
    0.001
    """

    seconds: float
    sizes: tuple[int, ...] = ()


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
    free, times = FreeLoss(layout, zero, examples or 1), []
    try:
        session = Session(free, estimator, on_error="raise", check_every=None)
        for index in range(_STEPS):
            step = made_up_step(estimator, start, end, zero, index)
            free.asked.clear()
            begin = perf_counter()
            session.measure(step)
            array_ops(zero).total(zero)  # on a device: the work has ended
            times.append(perf_counter() - begin)
            if index and times[-1] > _ENOUGH:
                break
            start, end = end, start
    except LCAError:
        return None
    seconds = median(times[1:] or times)  # the first one sets up
    seconds = (seconds + _supply(estimator, theta)) * max(1.0, whole / MOST)
    return OwnWork(seconds, tuple(free.asked))


@dataclass(frozen=True)
class FreeLoss:
    """An objective whose loss and gradient are 0 and take no time.

    >>> from lca.objective import Scored
    >>> isinstance(FreeLoss(Layout(("w",), ((1,),)), np.zeros(1), 8), Scored)
    True
    """

    layout: Layout
    zero: Any
    n_examples: int
    weight: None = None
    labels: None = None
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

    def scores(self, theta: Vector, batch: Batch | None = None) -> np.ndarray:
        return np.ones(self.n_examples if batch is None else len(batch))


def made_up_step(estimator: Estimator, start: Vector, end: Vector, gradient: Vector, index: int) -> Step:
    """A step with all fields that an estimator may require."""
    number = max(2, getattr(estimator, "micro_batches", 2))
    parts = (MicroBatch(gradient, gradient),) * number
    return Step(
        start,
        end,
        index,
        batch=np.arange(1),
        next_batch=np.arange(1),
        gradient=gradient,
        next_gradient=gradient,
        micro_batches=parts,
        next_micro_batches=parts,
        halves=parts,
        next_halves=parts,
        update_slope=-1.0,
        scores=ExampleScores(np.zeros(1, int), np.ones(1)),
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
