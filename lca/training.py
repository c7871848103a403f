"""A plain training loop that yields its path step by step, so that a run can be allocated as it happens.

Nothing is stored: each `Step` is made when asked for and can be forgotten afterwards, which keeps memory
independent of the number of steps.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lca.data import Batch
from lca.data.batches import check_batch_size
from lca.errors import DataError, NonFiniteError
from lca.layout import Layout
from lca.objective import Objective
from lca.optimizers import Optimizer
from lca.step import Step

Array = np.ndarray


def minibatches(x: Array, y: Array, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
    """Draw ``steps`` mini-batches, epoch after epoch, each epoch a fresh shuffle without replacement.

    An epoch is every example exactly once: N // batch_size full batches, and a last, smaller one if
    batch_size does not divide N. It is kept, and the next batch starts a new epoch. Batches of one epoch
    are therefore not independent, which matters to estimators that measure on the next batch.

    Raises
    ------
    DataError
        If the data are unusable (see `lca.data.Batch`), ``batch_size`` < 1 or ``steps`` < 0.

    Examples
    --------
    >>> batches = minibatches(np.zeros((5, 1)), np.arange(5), batch_size=2, steps=4, seed=0)
    >>> [len(batch) for batch in batches]
    [2, 2, 1, 2]
    """
    check_batch_size(batch_size)
    if steps < 0:
        raise DataError(f"steps must be ≥ 0, got {steps}.")
    return _draw(Batch(x, y), batch_size, steps, np.random.default_rng(seed))


def _draw(data: Batch, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
    order = np.empty(0, dtype=np.intp)
    for _ in range(steps):
        if not len(order):
            order = rng.permutation(len(data))
        now, order = order[:batch_size], order[batch_size:]
        yield data.take(now)


def train(
    objective: Objective, theta: Array, optimizer: Optimizer, batches: Iterable[Batch]
) -> Iterator[Step]:
    """Train on ``batches`` from ``theta`` (K,) and yield each update as a `Step`; one gradient a step.

    The loss that drives the update is ``objective`` on the batch. θ is never changed in place: ``start``
    and ``end`` of a step stay valid for as long as they are kept, and ``end`` is the next ``start``.

    Raises
    ------
    NonFiniteError
        When a loss, gradient or update is NaN or infinite; names the step and the tensor.

    Examples
    --------
    >>> from lca.data import load_digits
    >>> from lca.models import DatasetLoss, logistic_regression
    >>> from lca.optimizers import SGD
    >>> digits, network = load_digits().reshaped((64,)), logistic_regression(64, 10)
    >>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
    >>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=20, seed=0)
    >>> for step in train(objective, network.init(seed=0), SGD(lr=0.5), batches):
    ...     pass
    >>> step.index, objective.loss(step.end) < objective.loss(network.init(seed=0))
    (19, True)
    """
    state = optimizer.init(theta)
    for index, batch in enumerate(batches):
        state, end = _update(objective, optimizer, state, Step(theta, theta, index, batch))
        yield Step(start=theta, end=end, index=index, batch=batch)
        theta = end


def _update(objective: Objective, optimizer: Optimizer, state: Any, at: Step) -> tuple[Any, Array]:
    """The optimizer's next state and θ_{t+1}, all of it finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, with step and tensor
        loss, grad = objective.loss_and_grad(at.start, at.batch)
        state, delta = optimizer.update(state, grad, at.start)
        end: Array = at.start + delta
    if not np.isfinite(loss):
        raise NonFiniteError(
            f"step {at.index}: the loss on the training batch is {loss}; a smaller learning rate is the "
            "usual fix."
        )
    _check_finite(grad, objective.layout, f"step {at.index}: the gradient")
    _check_finite(end, objective.layout, f"step {at.index}: θ after the update")
    return state, end


def _check_finite(vector: Array, layout: Layout, what: str) -> None:
    finite = np.isfinite(vector)
    if not finite.all():
        position = int(np.argmin(finite))
        raise NonFiniteError(
            f"{what} is {vector[position]} in tensor {layout.tensor_at(position)!r} (entry {position} of the "
            "flat vector); a smaller learning rate is the usual fix."
        )
