"""`own_seconds`: how long an estimator works on vectors, beside the gradients and losses that it asks for."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from lca.allocation import Estimator
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch
from lca.row import Row
from lca.step import MicroBatch, Step
from lca.summary import RunViews

MOST = 2**20
"""The most parameters of the vectors that are timed; more take proportionally longer."""
_STEPS = 4
_ENOUGH = 0.1  # seconds after which no further step is timed
_SUPPLY = {"gradient": 1, "micro_batches": 14, "halves": 14, "update_slope": 6}
"""About how many passes over vectors (K,) it takes to supply a field of a step: a copy of each gradient, and
for each of two micro-batches the update of an optimizer with two moments."""


def own_seconds(estimator: Estimator, layout: Layout, theta: Vector, examples: int | None) -> float | None:
    """Time the steps of a run whose gradients cost nothing, and the reading of its allocations.

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
    float or None
        Seconds a step; ``None`` if the estimator refuses such steps.
    """
    whole = len(theta)
    if whole > MOST:
        theta, layout = theta[:MOST], Layout(("w",), ((MOST,),))
    start, end, zero = theta + 0, theta + 1, theta * 0
    try:
        run = estimator.start(_Free(layout, zero, examples or 1))
        views, best = RunViews.of(layout), float("inf")
        for index in range(_STEPS):
            step = _step(start, end, zero, index)
            begin = perf_counter()
            views.read(Row(run(step), layout))
            array_ops(zero).total(zero)  # on a device: the work has ended
            seconds = perf_counter() - begin
            best = min(best, seconds)
            if seconds > _ENOUGH:
                break
            start, end = end, start
    except LCAError:
        return None
    return (best + _supply(estimator, theta)) * max(1.0, whole / MOST)


@dataclass(frozen=True)
class _Free:
    """An objective whose loss and gradient are 0 and take no time."""

    layout: Layout
    zero: Any
    n_examples: int
    weight: None = None

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        return index

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return 0.0

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
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
