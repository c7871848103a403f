"""A training loop that yields each update as a `Step`, so that a run can be allocated while it trains.

The loop is a generator and stores no steps, so memory does not grow with the number of updates.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lca._micro_batches import mean_gradient
from lca.arrays import Vector, array_ops
from lca.errors import DataError, LCAError, NonFiniteError
from lca.layout import Layout
from lca.objective import Objective, Scored, leaves
from lca.reference._data import Batch
from lca.reference._data.batches import check_batch_size
from lca.reference._optimizers import Optimizer, leave_one_out, update_slope
from lca.step import ExampleScores, MicroBatch, Step

Array = np.ndarray


def minibatches(
    x: Array, y: Array, batch_size: int, steps: int, seed: int, *, independent: bool = False
) -> Iterator[Batch]:
    """Draw ``steps`` mini-batches: shuffled epochs, or independent samples.

    An epoch visits every example once, in an order shuffled anew. If ``batch_size`` does not divide N, the
    last batch of an epoch is smaller; it is not dropped. Batches of one epoch are not independent of each
    other, which biases estimators that measure on the next batch. Each batch records the positions of its
    examples in ``Batch.index``.

    Parameters
    ----------
    x, y
        All examples (N, ...) and their targets, as in `lca.reference.Batch`.
    batch_size
        Examples in each batch, ≥ 1.
    steps
        Number of batches to yield, ≥ 0, over as many epochs as that takes.
    seed
        Seed of ``numpy.random.default_rng``; the same seed yields the same batches.
    independent
        Draw each batch from all examples with replacement, instead of shuffling epochs.

    Raises
    ------
    DataError
        If the data are invalid (see `lca.reference.Batch`), ``batch_size`` < 1 or ``steps`` < 0.

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
        chosen, order = order[:batch_size], order[batch_size:]
        yield data.take(chosen)


def train(
    objective: Objective,
    theta: Vector,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    *,
    micro_batches: int = 1,
    scores: bool = False,
    slopes: bool = False,
) -> Iterator[Step]:
    """Train from ``theta`` on ``batches`` and yield each update as a `Step`.

    Each update uses the gradient of ``objective`` on its batch. θ is never modified in place: a step's
    ``start`` and ``end`` remain valid, and its ``end`` is the next step's ``start``. Cost: one gradient on
    the batch per step.

    Tensors that the objective does not differentiate (``objective.differentiated``, such as the frozen ones
    of a `Network`) stay exactly as they are, also if the optimizer decays weights.

    Parameters
    ----------
    objective
        The loss to train on; ``loss_and_grad(theta, batch)`` is called with each batch.
    theta
        θ_0 (K,), the initial parameters; their dtype is that of the run.
    optimizer
        For example `Adam`, or any `Optimizer`.
    batches
        The training batches, for example from `minibatches`; one update each.
    micro_batches
        The number of micro-batches into which each batch is split. If it is 2 or more, each step carries
        their gradients and leave-one-out updates (`Step.micro_batches`); the path is the same to rounding.
    scores
        Add the importance score of each example of the batch (`Step.scores`). Cost: one forward pass over
        the batch.
    slopes
        Add how the update depends on its gradient (`Step.update_slope`). Cost: one more update.

    Yields
    ------
    Step
        With its ``batch`` and ``gradient``, and what ``micro_batches``, ``scores`` and ``slopes`` ask for.

    Raises
    ------
    NonFiniteError
        If a loss, gradient or update is NaN or infinite; the message names the step and the tensor.
    LCAError
        If a batch has fewer examples than ``micro_batches``, or ``scores`` is set and the objective or the
        batches do not provide what they are computed from, or ``slopes`` is set and the optimizer has none.

    Examples
    --------
    >>> from lca.reference import SGD, DatasetLoss, load_digits, logistic_regression
    >>> digits, network = load_digits().reshaped((64,)), logistic_regression(64, 10)
    >>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
    >>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=20, seed=0)
    >>> for step in train(objective, network.init(seed=0), SGD(lr=0.5), batches):
    ...     pass
    >>> step.index, objective.loss(step.end) < objective.loss(network.init(seed=0))
    (19, True)
    """
    if not isinstance(micro_batches, int) or micro_batches < 1:
        raise LCAError(f"micro_batches must be an integer ≥ 1, got {micro_batches!r}.")
    frozen = frozen_entries(objective)
    if frozen is not None:
        optimizer = _Partial(optimizer, array_ops(theta).vector(1.0 - frozen, theta))
    state = optimizer.init(theta)
    for index, batch in enumerate(batches):
        before = state
        state, step = _update(objective, optimizer, state, Step(theta, theta, index, batch), micro_batches)
        if scores:
            step = replace(step, scores=_scores(objective, theta, batch))
        if slopes:
            step = replace(step, update_slope=update_slope(optimizer, before, step.gradient, theta))
        yield step
        theta = step.end


def trained_tensors(objective: Objective) -> frozenset[str]:
    """Names of the tensors that training moves: those that the objective, and every term, differentiates."""
    names = frozenset(objective.layout.names)
    return names.intersection(*(getattr(own, "differentiated", names) for own in leaves(objective)))


def frozen_entries(objective: Objective) -> Array | None:
    """Where θ (K,) is not trained, as booleans; ``None`` if all of it is."""
    layout, trained = objective.layout, trained_tensors(objective)
    frozen = [name not in trained for name in layout.names]
    return np.repeat(frozen, layout.sizes) if any(frozen) else None


@dataclass(frozen=True)
class _Partial:
    """An optimizer that moves some entries of θ: those where ``trained`` (K,) is 1 instead of 0."""

    optimizer: Optimizer
    trained: Vector

    def init(self, theta: Vector) -> Any:
        return self.optimizer.init(theta)

    def update(self, state: Any, grad: Vector, theta: Vector) -> tuple[Any, Vector]:
        state, delta = self.optimizer.update(state, grad, theta)
        return state, self.trained * delta

    def slope(self, state: Any, grad: Vector, theta: Vector) -> Vector | float:
        return self.trained * update_slope(self.optimizer, state, grad, theta)


def with_next(steps: Iterable[Step]) -> Iterator[Step]:
    """Add the batch, gradient and micro-batches of the following step to each step.

    Each step is yielded one step late, once the following one exists. The last step is dropped, because it
    has no following one: train for one step more than you measure. No gradient is computed.

    Parameters
    ----------
    steps
        Consecutive steps of one run, such as those of `train`.

    Yields
    ------
    Step
        With ``next_batch``, ``next_gradient`` and ``next_micro_batches``.

    Raises
    ------
    LCAError
        If a step does not begin where the previous one ended.

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
                    f"step {step.index} does not begin where step {last.index} ended; pass all steps of one "
                    "run, and skip steps afterwards."
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
    """The optimizer's next state and the completed step; raises if a number is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # raised below, naming step and tensor
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
    """Loss and gradient on the batch, and the micro-batches if there are at least two."""
    if micro_batches == 1:
        return *objective.loss_and_grad(at.start, at.batch), ()
    assert at.batch is not None
    if len(at.batch) < micro_batches:
        raise LCAError(
            f"step {at.index}: a batch of {len(at.batch)} cannot be split into {micro_batches} "
            "micro-batches; use larger batches, or a batch size that leaves no smaller last batch."
        )
    cuts = [at.batch.take(slice(m, None, micro_batches)) for m in range(micro_batches)]
    losses, grads = zip(*(objective.loss_and_grad(at.start, cut) for cut in cuts), strict=True)
    sizes = [cut.total_weight for cut in cuts]
    updates = leave_one_out(optimizer, state, grads, at.start, sizes=sizes)
    grad = mean_gradient(grads, sizes, range(micro_batches))
    loss = float(np.average(losses, weights=sizes))
    return loss, grad, tuple(map(MicroBatch, grads, updates, sizes))


def _scores(objective: Objective, theta: Array, batch: Batch) -> ExampleScores:
    if not isinstance(objective, Scored) or batch.index is None:
        raise LCAError(
            "scores=True needs an objective that computes scores (lca.objective.Scored) and batches with an "
            "index (Batch.index), such as those of lca.reference.minibatches."
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
