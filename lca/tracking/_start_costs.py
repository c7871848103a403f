"""`start_costs`: the additional cost of a measured step that does not begin where another one ended."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np

from lca.allocation import Cost, Estimator, StepAllocation
from lca.arrays import Vector
from lca.layout import Layout
from lca.objective import Batch
from lca.tracking._own_work import FreeLoss, made_up_step

_STEPS = 64
"""Steps of a run; the second half counts, as sizes that an estimator adapts have then settled."""
_MOST = 2**18
"""The most examples that are drawn from."""


@dataclass(frozen=True)
class StartCosts:
    """What a step costs in addition where no other one ended at its start.

    Attributes
    ----------
    usual
        On average. 0 for an estimator that keeps to a budget.
    largest
        At most.

    Examples
    --------
    >>> StartCosts(Cost(examples=64)).largest.examples
    0.0
    """

    usual: Cost = field(default_factory=Cost)
    largest: Cost = field(default_factory=Cost)


def start_costs(estimator: Estimator, layout: Layout, examples: int | None) -> StartCosts:
    """Compare a run whose steps are apart with one whose steps follow each other.

    Both are made of steps of one parameter in each tensor, on a linear loss that costs nothing.

    Parameters
    ----------
    estimator
        It begins runs of its own.
    layout
        The names of the tensors.
    examples
        The number of examples that can be drawn; ``None`` if none can.

    Returns
    -------
    StartCosts
        0 if the estimator refuses such steps.
    """
    tensors, n = len(layout.names), min(examples or 1, _MOST)
    loss = _Linear(Layout(layout.names, ((1,),) * tensors), np.zeros(tensors), n)
    try:
        apart = _run(estimator, loss, apart=True)
        following = _run(estimator, loss, apart=False)
    except Exception:  # of an estimator of any kind, which may know the shapes of the tensors
        return StartCosts()
    settled = slice(_STEPS // 2, None)
    usual = _each(np.mean, [a.cost for a in apart[settled]])
    largest = _each(np.max, [a.start_cost for a in apart[1:]])
    if examples and largest.examples >= n:  # all there are
        largest = replace(largest, examples=largest.examples * examples / n)
    return StartCosts(
        usual - _each(np.mean, [a.cost for a in following[settled]]),
        largest - _each(np.max, [a.start_cost for a in following[settled]]),
    )


class _Linear(FreeLoss):
    """The sum of all parameters, which every rule integrates exactly, on every sample."""

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return float(theta.sum())

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        return self.loss(theta), np.ones_like(theta)


def _run(estimator: Estimator, loss: FreeLoss, *, apart: bool) -> list[StepAllocation]:
    """The allocations of a run between two points; ``apart``: each step begins at the same one."""
    allocate_step, found = estimator.start(loss), list[StepAllocation]()
    here, there = loss.zero, loss.zero + 1
    for number in range(_STEPS):
        index = 2 * number if apart else number
        found.append(allocate_step(made_up_step(estimator, here, there, np.ones_like(here), index)))
        if not apart:
            here, there = there, here
    return found


def _each(reduce: Callable[[list[float]], float], costs: list[Cost]) -> Cost:
    """The mean or the maximum of each number."""
    names = [one.name for one in fields(Cost)]
    return Cost(**{name: float(reduce([getattr(cost, name) for cost in costs])) for name in names})
