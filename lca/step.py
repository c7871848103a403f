"""`Step`, one update of a training run with its fields, and `Trajectory`, a stored sequence of points."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError, TrajectoryError
from lca.layout import Layout
from lca.objective import Batch, State

__all__ = [
    "ExampleScores",
    "MicroBatch",
    "Step",
    "Trajectory",
]


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One micro-batch of a training batch, for `lca.estimators.CrossFit`.

    Parameters
    ----------
    gradient
        g_m(θ_t), the gradient (K,) of its mean loss, before any clipping. The mean over the micro-batches,
        weighted by their sizes, is the training gradient.
    update
        Δ^{(−m)} (K,), the update that the optimizer would have made, after any clipping, without this
        micro-batch (`lca.reference.leave_one_out`).
    weight
        How much it counts in the mean over the micro-batches, such as its number of examples or tokens; > 0.

    Raises
    ------
    LCAError
        If the weight is not a positive finite number.

    Examples
    --------
    >>> MicroBatch(gradient=np.array([1.0]), update=np.array([-0.3])).update
    array([-0.3])
    """

    gradient: Vector
    update: Vector
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < inf:
            raise LCAError(
                f"the weight of a micro-batch must be a positive finite number, got {self.weight!r}."
            )


@dataclass(frozen=True, eq=False)
class ExampleScores:
    """How wrong the model was on single examples, as the forward pass of training shows.

    Parameters
    ----------
    index
        Which examples of the measured data they are, integers (n,).
    values
        One score for each (n,), float64, ≥ 0 and about as large as the gradient of the example;
        ``1 - p_model(label)`` for a classifier (`lca.objective.Scored`). Scores that are NaN or infinite, as
        of a batch that the loop skips, are ignored with a warning: the examples keep those that they had.

    Raises
    ------
    LCAError
        If shapes or dtypes differ from these, or a score is negative.

    Examples
    --------
    >>> ExampleScores(np.array([7, 2]), np.array([0.1, 0.9])).values
    array([0.1, 0.9])
    """

    index: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        index, values = np.asarray(self.index), np.asarray(self.values, dtype=np.float64)
        fits = index.ndim == 1 and index.shape == values.shape and np.issubdtype(index.dtype, np.integer)
        if not fits:
            raise LCAError(
                "scores must be one number for each example (n,), with the index of each example in the "
                f"measured data, integers (n,); got scores {values.shape} with an index {index.dtype} "
                f"{index.shape}. Pass the errors or losses of the single examples, not their mean."
            )
        if (values < 0).any():
            raise LCAError(
                f"scores must be ≥ 0, got {np.nanmin(values)}; pass errors such as 1 - p(label), or the "
                "losses of the single examples."
            )
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, eq=False)
class Step:
    """One update of the parameters: the straight segment from ``start`` to ``end``.

    The optional fields are by-products of training; an estimator lists those it uses in ``required_fields``.
    All vectors have the type, dtype and device of θ.

    Parameters
    ----------
    start, end
        θ_t and θ_{t+1}, vectors of shape (K,).
    index
        t, used in messages and records.
    batch
        The training batch from which the update was computed.
    state
        The state, besides θ, that the measured loss depends on (`lca.objective.Stateful`, e.g. running
        statistics), before and after the update; the same object twice if it did not change. If it changed,
        the path integral is taken in the first state, and the effect of the change is reported as
        ``state_change``, which costs one more evaluation.
    previous_state
        The state in which the step before ended, if it was changed before this update, as by a schedule or
        by the update of another model. ``loss_start`` is then measured in it, and ``state_change`` includes
        ``L(θ_t)`` in ``state[0]`` minus ``L(θ_t)`` in ``previous_state``; costs a forward pass, unless the
        step before was measured.
    gradient
        The gradient (K,) of the training loss of ``batch`` at θ_t, before any clipping.
    next_batch, next_gradient, next_micro_batches
        The training batch of the next step, its gradient (K,) at θ_{t+1}, and its micro-batches.
    micro_batches
        The micro-batches of ``batch``.
    halves, next_halves
        The two halves of ``batch`` and of the next one as micro-batches, where the loop took a single
        gradient: that of the first half comes from a pass of the tracker's own.
    update_slope
        C in ``Δ_t = b + C ∘ g`` with g = ``gradient``, a number or a vector (K,): ``-lr`` for SGD,
        ``-lr (1 - β₁) / ((1 - β₁^t) (√v̂ + ε))`` for Adam, whose v̂ is that of the update itself. If the
        gradient was clipped to c g, C contains c.
    scores
        How wrong the model at θ_t was on single examples, usually those of ``batch``.
    checkpoints
        In a replay of checkpoints: the numbers of those at ``start`` and ``end``, in which a record of the
        run counts. Usually there are many updates between them.
    learning_rates
        The learning rates of the update, by the group of the optimizer, for a record of the run.

    Examples
    --------
    >>> step = Step(np.array([1.0, 0.0]), np.array([0.5, 0.0]), index=3, gradient=np.array([1.0, 0.0]))
    >>> step.index, step.end - step.start
    (3, array([-0.5,  0. ]))
    """

    start: Vector
    end: Vector
    index: int = 0
    batch: Batch | None = None
    state: tuple[State, State] | None = None
    previous_state: State | None = None
    gradient: Vector | None = None
    next_batch: Batch | None = None
    next_gradient: Vector | None = None
    next_micro_batches: tuple[MicroBatch, ...] = ()
    micro_batches: tuple[MicroBatch, ...] = ()
    halves: tuple[MicroBatch, ...] = ()
    next_halves: tuple[MicroBatch, ...] = ()
    update_slope: Vector | float | None = None
    scores: ExampleScores | None = None
    checkpoints: tuple[int, int] | None = None
    learning_rates: Mapping[str, float] | None = None


class Trajectory:
    """The steps between consecutive stored points θ_0, θ_1, ..., θ_T.

    Parameters
    ----------
    points
        Anything with a length and integer indexing whose items are (K,) vectors: a list, a (T+1, K)
        array, a memory map, a Zarr or HDF5 data set. Each row is read once, when its step comes up.
    layout
        The layout of the points, if it is known. `lca.allocate` then refuses an objective with another one,
        for which the points would be other parameters.

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

    def __init__(self, points: Sequence[Vector] | Any, layout: Layout | None = None) -> None:
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
        self.points, self.layout = points, layout

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


def _moves_state(step: Step) -> bool:
    """Whether the state moves in a step, or did since the step before."""
    return step.previous_state is not None or (step.state is not None and step.state[0] is not step.state[1])
