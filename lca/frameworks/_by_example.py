"""The losses of single examples of a `ModelLoss`, and their derivatives along the movement of groups."""

import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lca.arrays import Vector
from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import LCAWarning
from lca.frameworks._loss_checks import shortened
from lca.frameworks._trees import PyTree, examples_in, take
from lca.objective import State

if TYPE_CHECKING:
    from lca.frameworks._loss import ModelLoss


def one_by_one(
    loss: "ModelLoss",
    theta: Vector,
    batches: Iterable[PyTree],
    movement: GroupMovement,
    *,
    state: State | None,
    names: Collection[str] | None,
) -> ExampleSlopes:
    """The slopes from one gradient per example: slow, but correct for every mean over examples."""
    losses, slopes = [], []
    moves = bool(movement.moving)
    for row in single_examples(batches):
        loss_of_row, grad = loss.evaluate(theta, [row], state, gradient=moves, names=names)
        losses.append(loss_of_row)
        slopes.append(movement.along(grad) if moves else np.zeros(len(movement.groups)))
    return ExampleSlopes(np.array(losses), np.stack(slopes, axis=1))


def single_examples(batches: Iterable[PyTree]) -> Iterator[PyTree]:
    """Batches of one example each.

    >>> [row.tolist() for row in single_examples([np.arange(2), np.arange(1)])]
    [[0], [1], [0]]
    """
    for batch in batches:
        for n in range(examples_in(batch)):
            yield take(batch, slice(n, n + 1))


def joined_slopes(movement: GroupMovement, parts: Iterable[ExampleSlopes]) -> ExampleSlopes:
    """Concatenate the slopes of several batches, whose rows are the groups that changed.

    >>> from lca import Layout
    >>> groups = Layout(("a", "b"), ((1,), (1,))).groups("tensor")
    >>> part = ExampleSlopes(np.ones(2), np.array([[3.0, 4.0]]))
    >>> joined_slopes(GroupMovement(np.array([0.0, 1.0]), groups), [part, part]).slopes
    array([[0., 0., 0., 0.],
           [3., 4., 3., 4.]])
    """
    found = list(parts)
    losses = np.concatenate([part.losses for part in found])
    slopes = np.zeros((len(movement.groups), len(losses)))
    slopes[movement.moving] = np.concatenate([part.slopes for part in found], axis=1)
    return ExampleSlopes(losses, slopes)


def warn_of_no_forward_mode(cause: Exception) -> None:
    """Warn that allocation by example falls back to one gradient for each example."""
    warnings.warn(
        "an operation of the model has no forward-mode derivative, so examples are allocated by one gradient "
        f"each, which is much slower ({shortened(cause)}); choose few examples, or another form of the "
        "operation.",
        LCAWarning,
        stacklevel=3,
    )
