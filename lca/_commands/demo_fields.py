"""What the demo adds to the steps of any backend so that sampled estimators can measure them.

An ordinary training loop computes these fields anyway. The demo evaluates them a second time beside the
backend's loop, so that training is the same, bit for bit, whatever the estimator.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Objective
from lca.reference._data import Batch
from lca.reference._models import DatasetLoss
from lca.reference._optimizers import Optimizer, leave_one_out, update_slope
from lca.reference._training import with_next
from lca.step import ExampleScores, MicroBatch, Step

NEXT = ("next_batch", "next_gradient", "next_micro_batches")
"""The fields that come from the following step, so that the last step of a run lacks them."""


@dataclass(frozen=True, eq=False)
class SampledLoss:
    """A backend's loss over labelled examples as an `lca.objective.Scored`.

    Loss and gradient are the backend's; the examples and their errors are those of ``reference``, the same
    network and data in NumPy.
    """

    objective: Objective
    reference: DatasetLoss

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    @property
    def n_examples(self) -> int:
        return self.reference.n_examples

    @property
    def weight(self) -> np.ndarray | None:
        return self.reference.weight

    @property
    def labels(self) -> np.ndarray | None:
        return self.reference.labels

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        return self.reference.batch(index, weight)

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        return self.objective.loss_and_grad(theta, batch)

    def scores(self, theta: Vector, batch: Batch | None = None) -> np.ndarray:
        return self.reference.scores(array_ops(theta).to_numpy(theta), batch)


def with_fields(
    steps: Iterable[Step],
    required: Iterable[str],
    loss: SampledLoss,
    optimizer: Optimizer,
    vector: Callable[[np.ndarray], Vector],
) -> Iterator[Step]:
    """The same steps with the fields of `lca.Step` that an estimator requires.

    Parameters
    ----------
    steps
        Steps of a backend, with their batches.
    required
        Names of fields. With one of `NEXT` the last step is dropped.
    loss
        The loss that training minimises on each batch.
    optimizer
        The optimizer that made the steps.
    vector
        From a NumPy vector to the backend's own.

    Raises
    ------
    LCAError
        If a batch is too small to be split into two micro-batches.
    """
    required = set(required)
    own = required | {name.removeprefix("next_") for name in required}
    completed = _completed(steps, own, loss, optimizer, vector)
    return with_next(completed) if required & set(NEXT) else completed


def _completed(
    steps: Iterable[Step],
    fields: set[str],
    loss: SampledLoss,
    optimizer: Optimizer,
    vector: Callable[[np.ndarray], Vector],
) -> Iterator[Step]:
    """Each step with those of its own fields that are asked for."""
    state: Any = None
    for step in steps:
        assert step.batch is not None
        found: dict[str, Any] = {}
        if fields & {"gradient", "micro_batches", "update_slope"}:
            known = step.gradient
            found["gradient"] = loss.loss_and_grad(step.start, step.batch)[1] if known is None else known
        if "scores" in fields:
            assert step.batch.index is not None
            found["scores"] = ExampleScores(step.batch.index, loss.scores(step.start, step.batch))
        if fields & {"micro_batches", "update_slope"}:
            to_numpy = array_ops(step.start).to_numpy
            theta, gradient = to_numpy(step.start), to_numpy(found["gradient"])
            state = optimizer.init(theta) if state is None else state
            if "micro_batches" in fields:
                found["micro_batches"] = _halves(step, loss, optimizer, state, vector)
            if "update_slope" in fields:
                slope = update_slope(optimizer, state, gradient, theta)
                found["update_slope"] = slope if isinstance(slope, float) else vector(slope)
            state = optimizer.update(state, gradient, theta)[0]
        yield replace(step, **found)


def _halves(
    step: Step, loss: SampledLoss, optimizer: Optimizer, state: Any, vector: Callable[[np.ndarray], Vector]
) -> tuple[MicroBatch, ...]:
    """Both halves of the batch, each with the update that the optimizer would have made without it."""
    batch = step.batch
    assert batch is not None
    if len(batch) < 2:
        raise LCAError(
            f"step {step.index}: a batch of one example cannot be split into micro-batches; choose a "
            "--batch-size that leaves no single example at the end of an epoch."
        )
    halves = [batch.take(slice(m, None, 2)) for m in range(2)]
    grads = [loss.loss_and_grad(step.start, half)[1] for half in halves]
    ops = array_ops(step.start)
    sizes = [half.total_weight for half in halves]
    updates = leave_one_out(
        optimizer, state, [ops.to_numpy(grad) for grad in grads], ops.to_numpy(step.start), sizes=sizes
    )
    return tuple(MicroBatch(g, vector(u), n) for g, u, n in zip(grads, updates, sizes, strict=True))
