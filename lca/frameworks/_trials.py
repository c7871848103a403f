"""`Trials`: whether the loss of a batch is a mean over examples, tried again in the course of a run.

A loss may become another one: a term of the whole batch whose weight rises from 0 is in no loss before, and
one such as ``max(mean, c)`` is constant until the mean has passed c.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import TypeAlias

import numpy as np

from lca._listing import listed
from lca._schedules import doubles
from lca._state import same
from lca.arrays import Vector, array_ops
from lca.errors import DataError, LCAError, NonFiniteError
from lca.frameworks._data import Rows
from lca.frameworks._loss import ModelLoss
from lca.frameworks._loss_checks import untold, unweighted, weight_of
from lca.frameworks._split import NO_PARTS, SplitTest, eps_of, points_of, split_test
from lca.frameworks._tryout import Found
from lca.objective import State
from lca.tolerances import rebatched

Moved: TypeAlias = Mapping[str, tuple[Vector | None, Vector]]
"""Entries of a state that have moved: before, and after."""
CONFIGURATION = "configuration"
"""The entry of a state that counts the changes of Python values of the model and the loss."""
WEIGHTS = "batch_weight"
"""The entry of a state that holds the weights of a few batches, if a function of the user gives them."""
LONGEST = 256
"""Evaluations between two trials of a loss while its state, or θ, moves all the time."""
HEAVY = 7
"""The weight of half of the rows, where the others have weight 1."""


class Trials:
    """Tests of the loss of a batch, made again when the state that the loss reads has moved.

    Trials take place at the first evaluation in a state that has moved; while it goes on moving, at the 2nd,
    4th, 8th, ... evaluation after that, and later every 256th. Each costs as much as `split_test` and, where
    samples are weighted, `supports_weights`.

    As θ moves all the time, the mean is also tried at the θ of the 2nd, 4th, 8th, ..., later every 256th
    evaluation that depends on it, and at the end of a run. That costs half of a `split_test`. Not so where
    several processes share the evaluations.

    Parameters
    ----------
    loss
        The loss.
    found
        What was found when the objective was made.
    unstated
        Why a loss for which the split test has this result is refused where all data are measured; "" if it
        is not.
    """

    def __init__(self, loss: ModelLoss, found: Found, unstated: Callable[[SplitTest], str]) -> None:
        self._loss, self._cuts, self._few, self._unstated = loss, found.cuts, found.few, unstated
        self.split = found.split
        """Whether the loss is a mean, as it was found last."""
        self._weighs: bool | None = None  # not known
        self._weights: np.ndarray | None = None
        self._bare: State | None = None  # the last state, without and with these weights
        self._state: State | None = None
        self._moves = Moves(self.state() or {})
        self._cause = self._cause_of_weights = ""  # what moved before a trial failed
        self._remedy = "keep what moved as it was"
        self._relies = loss.shares == 1  # processes that share evaluations might not all try at the same time
        self._relies_cut = self._relies and bool(unstated(SplitTest("?")))  # also where all data are measured
        self._relied = self._tried = 0  # evaluations that depend on the mean; those at the last trial of it
        self._on_some = False  # whether any of them was on some of the examples

    def state(self) -> State | None:
        """The state of the loss, with the weights of a few batches if the user's function gives weights."""
        found, weights = self._loss.state(), self._weights_now()
        if weights is None:
            return found
        if self._bare is not found or self._weights is None or not np.array_equal(weights, self._weights):
            self._bare, self._weights, self._state = found, weights, {**(found or {}), WEIGHTS: weights}
        return self._state

    def require_weights(self, state: State | None) -> None:
        """Raise if ``batch_weight`` gives other numbers now than in this state.

        Raises
        ------
        DataError
            If it does: the mean over batches in that state is not known any more.
        """
        now = None if state is None or WEIGHTS not in state else self._weights_now()
        if state is None or now is None or np.array_equal(before := state[WEIGHTS], now):
            return
        which = int(np.flatnonzero(before != now)[0])
        raise DataError(
            f"batch_weight gives {now[which]:.6g} for a batch to which it gave {before[which]:.6g} in the "
            "state in which the loss is measured: it reads something that has changed since, such as the "
            "weights of classes. Keep that as it is during the run, or measure all data as one batch "
            "(batch_size=)."
        )

    def _weights_now(self) -> np.ndarray | None:
        if self._loss.counts_examples or not self._cuts:
            return None
        return np.array([weight_of(self._loss, cut.whole) for cut in (self._cuts[0], self._cuts[-1])])

    def weighs(self) -> bool:
        """Whether the loss of a weighted sample is the weighted mean; tried until that is known."""
        if not self._weighs and self._cuts and not self._cause_of_weights:
            self._weighs = self._try_weights(self._points(None), None)
        return bool(self._weighs)

    def no_weights(self) -> LCAError:
        """The error for a weighted sample, where the last trial of weights has failed or told nothing."""
        if self._weighs is False:
            return unweighted(self._loss.sample_hint)
        if not array_ops(theta := self._loss.theta()).all_finite(theta):
            return NonFiniteError(
                "examples cannot be drawn by their error where the parameters hold NaN or Inf: training has "
                "probably diverged (lower the learning rate or clip the gradient)."
            )
        if not self._cuts:
            return untold("the measured data are a single example")
        return untold(
            f"the {len(Rows(self._cuts[0].whole))} examples on which it was tried have the same loss, as "
            "where the outputs of the network do not depend on its inputs, or none that is finite"
        )

    def follow(self, state: State | None) -> None:
        """The loss is evaluated in this state next: try again what is known if that is due."""
        if self.split.reason or state is None or not self._moves.is_due(state):
            return
        unseen, moved = self._moves.begin(state)
        if not moved or not array_ops(theta := self._loss.theta()).all_finite(theta):
            return
        points = self._points(state)
        self.split = self._split_at(points, state)
        if self.split.reason:
            self._cause = _text(moved, self._loss.what_changed(), unseen)
        elif self._weighs and not (found := self._try_weights(points, state)):
            self._weighs = found
            self._cause_of_weights = _text(moved, self._loss.what_changed(), unseen)

    def rely(self, theta: Vector, state: State | None, *, mean: bool) -> None:
        """The loss is evaluated at θ in this state next, and that depends on what is known of its mean.

        ``mean`` as in `require`.
        """
        if self.split.reason or not (self._relies if mean else self._relies_cut):
            return
        self._relied += 1
        self._on_some |= mean
        if self._relied > 1 and doubles(self._relied, LONGEST):
            self._try_at(theta, state)

    def end(self, theta: Callable[[], Vector]) -> None:
        """The run ends at this θ: try the mean a last time, if anything was measured that depends on it.

        Raises
        ------
        LCAError
            If that fails.
        """
        if self._relied > self._tried and not self.split.reason:
            self._try_at(theta(), self.state())
            self.require(mean=self._on_some, weights=False)

    def _try_at(self, theta: Vector, state: State | None) -> None:
        since, self._tried = self._relied - self._tried, self._relied
        if not array_ops(theta).all_finite(theta):
            return
        self.split = self._split_at([theta], state)
        if self.split.reason:
            ago = f"{since} evaluation{'s' * (since > 1)} ago"
            self._cause = (
                f"the loss was a mean over examples where it was tried, {ago} (values since then may be "
                "wrong)"
            )
            self._remedy = (
                "change the loss: a function of a mean over the batch, such as max(mean, c), is not a mean "
                "over examples"
            )

    def _split_at(self, points: Sequence[Vector], state: State | None) -> SplitTest:
        """The split test; where the run has diverged, so that there are no losses, what is known stays."""
        found = split_test(self._loss, points, self._cuts, state)
        return self.split if found.reason == NO_PARTS else found

    def require(self, *, mean: bool, weights: bool) -> None:
        """Raise if a later trial has failed on which this evaluation depends.

        Parameters
        ----------
        mean
            Whether it is evaluated on some of the examples; otherwise on all data.
        weights
            Whether these are weighted.

        Raises
        ------
        LCAError
            If a trial has failed since the objective was made.
        """
        if self._cause and mean:
            raise LCAError(
                f"{self._cause}, and now the loss is not a mean over examples: {self.split.reason}. So it "
                "cannot be estimated from samples or taken apart by example. Use lca.Adaptive, or "
                "lca.estimators.CrossFit on training batches (or LaggedCrossFit, which requires the gradient "
                f"alone), with batch_size=... of the objective stated; or {self._remedy}."
            )
        if self._cause and (text := self._unstated(self.split)):
            raise DataError(f"{self._cause}, and now {text}")
        if self._cause_of_weights and weights:
            raise LCAError(f"{self._cause_of_weights}, and now {self.no_weights()}")

    def _points(self, state: State | None) -> Sequence[Vector]:
        theta = self._loss.theta()
        _, grad = self._loss.evaluate(theta, [self._few], state, gradient=True)
        return points_of(self._loss, theta, grad)

    def _try_weights(self, points: Sequence[Vector], state: State | None) -> bool | None:
        return supports_weights(self._loss, points, Rows(self._cuts[0].whole), state)


class Moves:
    """Which entries of a state have moved since they were looked at, and when to look again.

    An entry that keeps moving is looked at ever more rarely, others at once when they move.

    >>> moves = Moves({"beta": np.zeros(1)})
    >>> states = [{"beta": np.full(1, float(n))} for n in range(1, 10)]
    >>> [n for n, state in enumerate(states, 1) if moves.is_due(state) and moves.begin(state)[1]]
    [1, 2, 4, 8]
    """

    def __init__(self, state: State) -> None:
        self._state, self._seen = state, dict(state)
        self._now = 0  # evaluations
        self._next: dict[str, int] = {}  # when an entry that has moved is looked at again
        self._pause: dict[str, int] = {}  # and how many evaluations that is after it was looked at
        self._due: float = inf

    def is_due(self, state: State) -> bool:
        """Count an evaluation; whether an entry may have moved that is to be looked at."""
        self._now += 1
        if state is self._state and self._now < self._due:
            return False
        self._state = state
        self._due = min(self._waiting(), default=inf)
        return any(
            self._now >= self._next.get(name, 0) and not self._is_as_seen(name, state) for name in state
        )

    def begin(self, state: State) -> tuple[int, Moved]:
        """A trial begins: what moved, before and after, and for how many evaluations that may be unseen."""
        moved = {n: (self._seen.get(n), state[n]) for n in state if not self._is_as_seen(n, state)}
        unseen = 0
        for name in moved:
            pause, when = self._pause.get(name, 0), self._next.get(name, 0)
            if when >= self._now:
                unseen = max(unseen, pause - (when - self._now))
            self._seen[name] = state[name]
            self._pause[name] = min(2 * pause, LONGEST) if pause else 1
            self._next[name] = self._now + self._pause[name]
        self._due = min(self._waiting(), default=inf)
        return unseen, moved

    def _waiting(self) -> list[int]:
        return [when for when in self._next.values() if when > self._now]

    def _is_as_seen(self, name: str, state: State) -> bool:
        return name in self._seen and same(self._seen[name], state[name])


def supports_weights(
    loss: ModelLoss, points: Sequence[Vector], rows: Rows, state: State | None
) -> bool | None:
    """Whether the loss of weighted rows is the weighted mean of their losses.

    The half of the rows with the largest losses gets another weight than the other half, so that any
    other mean shows. ``None`` if no point tells, as all rows have the same loss there. Costs a forward pass
    of each row and four of all, at each point. Batches of all rows have one length, as the length alone may
    change the rounding of a model.

    Raises
    ------
    LCAError
        If the loss has no weighted form.
    """
    half, told = len(rows) // 2, False
    if not half:
        return None
    for theta in points:
        try:
            singles = loss.evaluate_each(theta, [[row] for row in rows.batches(1)], state, gradient=False)
            order = np.argsort([value for value, _ in singles])
            low, high = order[:half], order[-half:]

            def loss_of(index: np.ndarray, weight: np.ndarray | None, theta: Vector = theta) -> float:
                sample = loss.sample(rows.take(index), weight)
                return loss.evaluate(theta, [sample], state, gradient=False)[0]

            both = np.concatenate([low, high])
            lower, higher = (loss_of(np.concatenate([each, each]), None) for each in (low, high))
            tolerance = rebatched(max(abs(lower), abs(higher)), eps_of(loss, theta))
            if not isfinite(tolerance):
                continue
            for heavy in (1, HEAVY):
                found = loss_of(both, np.repeat([1.0, heavy], half))
                if not abs(found - (lower + heavy * higher) / (1 + heavy)) <= tolerance:
                    return False
        except DataError:  # the loss does not take weights
            return False
        told |= abs(higher - lower) > 4 * tolerance
    return told or None


def _text(moved: Moved, changed: str, unseen: int) -> str:
    """What moved, numbers first, as these are weights of terms; and what may have been measured wrongly."""
    names = sorted(moved, key=lambda name: math.prod(moved[name][1].shape))
    words = listed([_moved(name, changed, *moved[name]) for name in names])
    since = f" (in the last {unseen} evaluations, which may be wrong)" if unseen > 1 else ""
    return f"what the loss reads besides θ has moved{since}: {words}"


def _moved(name: str, changed: str, before: Vector | None, after: Vector) -> str:
    if name == CONFIGURATION:
        return changed or "a Python value"
    if before is None or math.prod(before.shape) != 1 or math.prod(after.shape) != 1:
        return repr(name)
    old, new = (array_ops(value).to_numpy(value).item() for value in (before, after))
    return f"{name!r} from {old:.6g} to {new:.6g}"
