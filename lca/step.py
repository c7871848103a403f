"""A training run as a path: `Step` is one segment of it, `Trajectory` a stored sequence of points."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError, TrajectoryError
from lca.objective import Batch, State


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One micro-batch of a training batch, for estimators that cross-fit.

    Parameters
    ----------
    gradient
        g_m(θ_t), its own gradient (K,); the mean over the parts is the training gradient.
    update
        Δ^{(−m)} (K,): the update that the optimizer would have made without this micro-batch.
    """

    gradient: Vector
    update: Vector


@dataclass(frozen=True, eq=False)
class ExampleScores:
    """Errors of single examples, which the forward pass of training computes anyway.

    Parameters
    ----------
    index
        Which examples of the measured data, integers (n,).
    values
        A score ≥ 0 for each, (n,); ``1 - p_model(label)`` for a classifier (`lca.objective.Scored`).

    Raises
    ------
    LCAError
        If they are not that.
    """

    index: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        index, values = np.asarray(self.index), np.asarray(self.values, dtype=np.float64)
        fits = index.ndim == 1 and index.shape == values.shape and np.issubdtype(index.dtype, np.integer)
        if not fits:
            raise LCAError(
                "scores are one number an example (n,), with the integers (n,) that number the examples in "
                f"the measured data; got scores {values.shape} for numbers {index.dtype} {index.shape}. A "
                "mean loss will not do: give the outputs and labels, or losses one by one."
            )
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise LCAError(
                f"scores must be finite and ≥ 0, got some from {values.min()} to {values.max()}; give errors "
                "such as 1 - p(label), or the losses one by one."
            )
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "values", values)


def check_outputs(outputs: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise `LCAError` unless these are the shapes of logits (n, C) and classes (n,)."""
    if len(outputs) != 2 or labels != outputs[:1]:
        raise LCAError(
            "scores(index, outputs, labels) takes logits (n, C) and classes (n,), got outputs "
            f"{outputs} and labels {labels}; for other losses give errors (n,) and no labels."
        )


@dataclass(frozen=True, eq=False)
class Step:
    """One update of the parameters: the straight segment from ``start`` to ``end``.

    The fields from ``gradient`` on are what a training loop has for nothing. Estimators that live on them say
    which they need; the others never look.

    Parameters
    ----------
    start, end
        θ_t and θ_{t+1}, vectors of shape (K,).
    index
        t, used in messages and records.
    batch
        The mini-batch that made the step, for estimators that need it.
    state
        What else the measured loss depends on (`lca.objective.Stateful`; running statistics, say), at both
        ends. One and the same object twice: it did not move. If it did, the path integral is taken in the
        first state and the rest of the loss change reported as ``state_change``, which costs one more
        evaluation.
    gradient
        The gradient (K,) that training computed on ``batch`` at θ_t.
    next_batch, next_gradient, next_micro_batches
        The mini-batch that makes the next step, its training gradient (K,) at θ_{t+1}, and its micro-batches.
    micro_batches
        The micro-batches of ``batch``.
    scores
        How wrong the model at θ_t was on single examples, those of ``batch`` as a rule.
    """

    start: Vector
    end: Vector
    index: int = 0
    batch: Batch | None = None
    state: tuple[State, State] | None = None
    gradient: Vector | None = None
    next_batch: Batch | None = None
    next_gradient: Vector | None = None
    next_micro_batches: tuple[MicroBatch, ...] = ()
    micro_batches: tuple[MicroBatch, ...] = ()
    scores: ExampleScores | None = None


class Trajectory:
    """The steps between consecutive stored points θ_0, θ_1, ..., θ_T.

    Parameters
    ----------
    points
        Anything with a length and integer indexing whose items are (K,) vectors: a list, a (T+1, K)
        array, a memory map, a Zarr or HDF5 data set. Each row is read once, when its step comes up.

    Raises
    ------
    TrajectoryError
        If there are fewer than two points, or two neighbours are one and the same object (a buffer
        that was updated in place and not copied).

    Examples
    --------
    >>> import numpy as np
    >>> run = Trajectory(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]))
    >>> [(step.index, step.end - step.start) for step in run]
    [(0, array([1., 0.])), (1, array([0., 2.]))]
    """

    def __init__(self, points: Sequence[Vector] | Any) -> None:
        try:
            count = len(points)
        except TypeError:
            raise TrajectoryError(
                f"a trajectory needs points with a length and an index (list, array, memory map, ...), got "
                f"{type(points).__name__}; for a stream, pass an iterable of Step to allocate instead."
            ) from None
        if count < 2:
            raise TrajectoryError(
                f"a trajectory needs at least two points (one step), got {count}; keep the parameters "
                "before the first update as well."
            )
        self.points = points

    def __len__(self) -> int:
        """The number of steps, one less than the number of points."""
        return len(self.points) - 1

    def __iter__(self) -> Iterator[Step]:
        start = self.points[0]
        for t in range(len(self)):
            end = self.points[t + 1]
            if end is start:
                raise TrajectoryError(
                    f"points {t} and {t + 1} are the same array object, so the path does not move there; "
                    "store a copy of the parameters after each update."
                )
            yield Step(start, end, index=t)
            start = end
