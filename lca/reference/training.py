"""A plain training loop that yields its path step by step, so that a run can be allocated as it happens.

Nothing is stored: each `Step` is made when asked for and can be forgotten afterwards, which keeps memory
independent of the number of steps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lca.errors import DataError, LCAError, NonFiniteError
from lca.layout import Layout
from lca.objective import Objective, Scored
from lca.reference.data import Batch
from lca.reference.data.batches import check_batch_size
from lca.reference.optimizers import Optimizer, leave_one_out, mean_gradient
from lca.step import ExampleScores, MicroBatch, Step

Array = np.ndarray


def minibatches(
    x: Array, y: Array, batch_size: int, steps: int, seed: int, *, independent: bool = False
) -> Iterator[Batch]:
    """Draw ``steps`` mini-batches, epoch after epoch, each epoch a fresh shuffle without replacement.

    An epoch is every example exactly once: N // batch_size full batches, and a last, smaller one if
    batch_size does not divide N. It is kept, and the next batch starts a new epoch. Batches of one epoch
    are therefore not independent, which matters to estimators that measure on the next batch. With
    ``independent=True`` each batch is drawn from all examples, with replacement. Batches know which
    examples they hold (`Batch.index`).

    Raises
    ------
    DataError
        If the data are unusable (see `lca.reference.data.Batch`), ``batch_size`` < 1 or ``steps`` < 0.

    Examples
    --------
    >>> batches = minibatches(np.zeros((5, 1)), np.arange(5), batch_size=2, steps=4, seed=0)
    >>> [len(batch) for batch in batches]
    [2, 2, 1, 2]
    """
    check_batch_size(batch_size)
    if steps < 0:
        raise DataError(f"steps must be ≥ 0, got {steps}.")
    data, rng = Batch(x, y, index=np.arange(len(x))), np.random.default_rng(seed)
    if independent:
        return (data.take(rng.integers(len(data), size=batch_size)) for _ in range(steps))
    return _draw(data, batch_size, steps, rng)


def _draw(data: Batch, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
    order = np.empty(0, dtype=np.intp)
    for _ in range(steps):
        if not len(order):
            order = rng.permutation(len(data))
        now, order = order[:batch_size], order[batch_size:]
        yield data.take(now)


def train(
    objective: Objective,
    theta: Array,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    *,
    micro_batches: int = 1,
    scores: bool = False,
) -> Iterator[Step]:
    """Train on ``batches`` from ``theta`` (K,) and yield each update as a `Step`; one gradient a step.

    The loss that drives the update is ``objective`` on the batch. θ is never changed in place: ``start``
    and ``end`` of a step stay valid for as long as they are kept, and ``end`` is the next ``start``.

    Parameters
    ----------
    micro_batches
        Micro-batches that each batch is cut into. From 2 on, their gradients and the updates without each
        of them come with the step (`Step.micro_batches`); the update is the same to rounding.
    scores
        Hand over how wrong the model was on each example of the batch (`Step.scores`): one forward pass
        over the batch here, and nothing in a framework, where the outputs are still at hand.

    Raises
    ------
    NonFiniteError
        When a loss, gradient or update is NaN or infinite; names the step and the tensor.
    LCAError
        If a batch has fewer examples than ``micro_batches``, or ``scores`` are not to be had.

    Examples
    --------
    >>> from lca.reference.data import load_digits
    >>> from lca.reference.models import DatasetLoss, logistic_regression
    >>> from lca.reference.optimizers import SGD
    >>> digits, network = load_digits().reshaped((64,)), logistic_regression(64, 10)
    >>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
    >>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=20, seed=0)
    >>> for step in train(objective, network.init(seed=0), SGD(lr=0.5), batches):
    ...     pass
    >>> step.index, objective.loss(step.end) < objective.loss(network.init(seed=0))
    (19, True)
    """
    if not isinstance(micro_batches, int) or micro_batches < 1:
        raise LCAError(f"micro_batches must be a whole number ≥ 1, got {micro_batches!r}.")
    state = optimizer.init(theta)
    for index, batch in enumerate(batches):
        state, step = _update(objective, optimizer, state, Step(theta, theta, index, batch), micro_batches)
        yield replace(step, scores=_scores(objective, theta, batch)) if scores else step
        theta = step.end


def with_next(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps, each with the batch, gradient and micro-batches of the one after it; costs nothing.

    A step is handed on when the next one has been made. The last has no next one and is left out: train one
    step longer than is to be measured.

    Raises
    ------
    LCAError
        If the steps are no path (one does not begin where the last one ended).

    Examples
    --------
    >>> a, b, c = np.zeros(1), np.ones(1), np.full(1, 3.0)
    >>> path = [Step(a, b, 0, batch="first"), Step(b, c, 1, batch="second", gradient=np.full(1, -2.0))]
    >>> [step] = with_next(path)
    >>> step.next_batch, step.next_gradient
    ('second', array([-2.]))
    """
    last: Step | None = None
    for step in steps:
        if last is not None:
            if not np.array_equal(last.end, step.start):
                raise LCAError(
                    f"step {step.index} does not begin where step {last.index} ended; pair neighbours "
                    "of one run, before any step is left out."
                )
            yield replace(
                last,
                next_batch=step.batch,
                next_gradient=step.gradient,
                next_micro_batches=step.micro_batches,
            )
        last = step


def _update(
    objective: Objective, optimizer: Optimizer, state: Any, at: Step, micro_batches: int
) -> tuple[Any, Step]:
    """The optimizer's next state and the step to θ_{t+1}, all of it finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, with step and tensor
        loss, grad, cut = _gradient(objective, optimizer, state, at, micro_batches)
        state, delta = optimizer.update(state, grad, at.start)
        end: Array = at.start + delta
    if not np.isfinite(loss):
        raise NonFiniteError(
            f"step {at.index}: the loss on the training batch is {loss}; a smaller learning rate is the "
            "usual fix."
        )
    _check_finite(grad, objective.layout, f"step {at.index}: the gradient")
    _check_finite(end, objective.layout, f"step {at.index}: θ after the update")
    return state, replace(at, end=end, gradient=grad, micro_batches=cut)


def _gradient(
    objective: Objective, optimizer: Optimizer, state: Any, at: Step, micro_batches: int
) -> tuple[float, Array, tuple[MicroBatch, ...]]:
    """Loss and gradient on the batch, and its micro-batches if it is to be cut."""
    if micro_batches == 1:
        return *objective.loss_and_grad(at.start, at.batch), ()
    assert at.batch is not None
    if len(at.batch) < micro_batches:
        raise LCAError(
            f"step {at.index}: a batch of {len(at.batch)} cannot be split into {micro_batches} micro-batches; use larger "
            "batches, or a data set that leaves no small one over."
        )
    cuts = [at.batch.take(slice(m, None, micro_batches)) for m in range(micro_batches)]
    losses, grads = zip(*(objective.loss_and_grad(at.start, cut) for cut in cuts), strict=True)
    sizes = [cut.total_weight for cut in cuts]
    updates = leave_one_out(optimizer, state, grads, at.start, sizes=sizes)
    grad = mean_gradient(grads, sizes, range(micro_batches))
    loss = float(np.average(losses, weights=sizes))
    return loss, grad, tuple(map(MicroBatch, grads, updates))


def _scores(objective: Objective, theta: Array, batch: Batch) -> ExampleScores:
    if not isinstance(objective, Scored) or batch.index is None:
        raise LCAError(
            "scores need an objective that has them (lca.objective.Scored) and batches that know their "
            "examples (Batch.index), such as those of lca.reference.training.minibatches."
        )
    return ExampleScores(batch.index, objective.scores(theta, batch))


def _check_finite(vector: Array, layout: Layout, what: str) -> None:
    finite = np.isfinite(vector)
    if not finite.all():
        position = int(np.argmin(finite))
        raise NonFiniteError(
            f"{what} is {vector[position]} in tensor {layout.tensor_at(position)!r} (entry {position} of the "
            "flat vector); a smaller learning rate is the usual fix."
        )
