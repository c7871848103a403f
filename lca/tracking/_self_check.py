"""`SelfCheck`: measures the loss now and then, and compares its change with the sum of the allocations."""

import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from math import hypot, inf, isfinite, isnan, nan, sqrt
from typing import Any

import numpy as np

from lca._freedom import satterthwaite
from lca._schedules import doubles
from lca._verdict import SMALL_MISS, noise_at_end, sampling_limit
from lca.allocation import _FEW, Estimator
from lca.arrays import Vector, array_ops
from lca.errors import LCAError, LCAWarning, NonFiniteError
from lca.objective import Objective, Sampled, State, at_state, evaluate
from lca.row import CheckedWindow, Row
from lca.step import Step, _moves_state
from lca.tolerances import EPS32, conservation, repeat
from lca.tracking._causes import likely_causes
from lca.tracking._epochs import EpochLength
from lca.tracking._options import CheckEvery
from lca.views._rows import Rows

Losses = dict[str, np.ndarray]
"""By measured loss: the loss of each group of examples, (G,); all data are one group."""

FIRST = 16
"""Steps before the first check of ``"doubling"``."""
SHORT_WINDOWS = 4
"""Windows of fewer than `FIRST` steps at each check of ``"doubling"``, as one of them tells little."""
SHOWN, WARNED = 0.95, 0.999
"""Levels of the interval that is shown, and of that outside which there is a warning: checks are many."""
WINDOW = np.dtype([(field.name, "f8") for field in fields(CheckedWindow)])
"""The columns in which windows are kept."""
GROWN = 2.0
"""How many times the part of the change that was missed at the last warning makes another one due."""
GROUPS = 32
"""Groups of a part of the data, whose spread gives the standard error of its loss."""


class SelfCheck:
    """Compares the allocations of a sampled estimator with the change of the measured loss.

    The loss is measured at the start of the first step, at the end of the last one, and at the end of every
    n-th step in between; between two measurements lies a window (`lca.row.CheckedWindow`) of consecutive
    steps. Where a step is missing the window ends, and the next one begins when the next check is due. Totals
    are never corrected. With ``"doubling"`` there are four windows where they are shorter than 16 steps.

    Where the state that the loss depends on moves, as running statistics do, what it does is in no
    allocation, and must not be in the change either: a window is then a single step, measured at both ends in
    the state in which the step is allocated.

    Cost: one forward pass for each measurement; with ``"doubling"`` at most log₂(T / 16) + 3 in T
    consecutive steps, and eight times as many where fewer than 16 are consecutive. With an estimator on
    training batches, a few examples are measured twice first, because the change of a random loss cannot
    check anything.

    Parameters
    ----------
    objectives
        The measured losses by name.
    every, examples
        ``check_every`` and ``check_examples`` of a tracker.
    estimator
        The one that is checked; a warning gives the advice that its settings have not taken.
    supplied
        As in `lca.tracking._causes.likely_causes`.
    epoch
        What the tracker sees of the epochs of the loop.

    Raises
    ------
    LCAError
        If ``examples`` are given and an objective is not `lca.objective.Sampled`.

    Attributes
    ----------
    seen
        What the tracker has seen in the loop that makes allocations wrong, for the warning.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        every: CheckEvery,
        examples: int | None = None,
        estimator: Estimator | None = None,
        *,
        supplied: Collection[str] | None = None,
        epoch: EpochLength | None = None,
    ) -> None:
        self._epoch = epoch or EpochLength(estimator)
        self._every, self._estimator, self._supplied = every, estimator, supplied
        self.seen: dict[str, None] = {}
        self._data = [_Data(name, own, examples) for name, own in objectives.items()]
        self._data_of: dict[str, _Data] = {}
        self._accounts: dict[str, _Account] = {}
        self._steps = self._held = 0  # measured steps; those in the open window
        self._short = 0  # windows of fewer than `FIRST` steps that no other continued
        self._due = True
        self._start: Losses | None = None  # where the open window begins
        self._last: _Reached | None = None
        self._missing = -1
        self._moved = False  # whether the state did

    def add(self, step: Step, rows: Mapping[str, Row]) -> None:
        """Process a step that was allocated; a check that has ended becomes part of ``rows``.

        Raises
        ------
        NonFiniteError
            If a measured loss is not finite.
        """
        if self._every is None:
            return
        self._moved |= _moves_state(step)
        if not self._continues(step):
            self._drop()
        elif _moves_state(step) and self._last is not None:
            self.end(self._last.theta)
            self._drop()  # a window without steps began in the state before
        if self._start is None and self._due:
            self._begin(self._measured(step.start, _state_of(step)))
            if not self._accounts and self._is_random(step):
                self._every = None
                return
        after = step.state[1] if step.state else None
        self._last = _Reached(step.index, step.end, array_ops(step.end).snapshot(step.end), after)
        self._steps += 1
        self._due |= self._is_due()
        if self._start is not None:
            self._held += 1
            for name in rows.keys() & self._start.keys():
                self._accounts.setdefault(name, _Account(name, self._likely)).add(rows[name])
            if _moves_state(step):
                self._close(step.end, _state_of(step))
                self._count_short()
            elif self._due:
                self._begin(self._close(step.end, after))
            elif self._missing == step.index + 1:
                self.end(step.end)
        for name, account in self._accounts.items():
            if account.unwritten and name in rows:
                rows[name].check = account.unwritten.pop(0)

    def skip(self, index: int) -> None:
        """Step ``index`` will not be measured."""
        self._missing = index
        if self._last is not None and self._last.index == index - 1:
            self.end(self._last.theta)

    def end(self, theta: Vector) -> None:
        """End the open window at ``theta``, unless that is not where the last measured step ended."""
        if self._start is None or self._last is None or not self._held:
            return
        if self._last.is_at(theta):
            self._close(theta, self._last.state)
            self._count_short()
        self._drop()

    def warn_of_rest(self) -> None:
        """The run is over: warn if its sums miss more than has been warned of."""
        for account in self._accounts.values():
            _warn(account.rest())

    def release(self) -> None:
        """The run is over: release all vectors; another one may begin."""
        self._drop()
        self._last, self._due = None, True

    @property
    def windows(self) -> dict[str, list[CheckedWindow]]:
        """All checks that have ended, by measured loss."""
        return {name: account.windows for name, account in self._accounts.items()}

    def summary(self, name: str) -> dict[str, Any]:
        """The keys of a summary that tell of the check of one loss."""
        account = self._accounts.get(name, _Account(name, self._likely))
        rows, windows = account.rows.array(), account.windows
        return {
            "checked_steps": account.steps,
            "checked_change": float(rows["change"].sum()) if windows else None,
            "checked_total": float(rows["total"].sum()) if windows else None,
            "checked_margin": _or_none(account.margin),
            "checked_examples": data.examples if (data := self._data_of.get(name)) else None,
            "checked_windows": list(map(as_json, windows)),
        }

    def take_unwritten(self) -> dict[str, list[CheckedWindow]]:
        """The windows that ended after the last row, by loss, for those who only see rows."""
        found = {name: own.unwritten for name, own in self._accounts.items() if own.steps}
        for name in found:
            self._accounts[name].unwritten = []
        return found

    def final(self, unwritten: Mapping[str, list[CheckedWindow]]) -> dict[str, Any]:
        """What the rows of a record do not hold: margin and noise of the run, and these windows."""
        return {
            name: {
                "margin": _or_none(self._accounts[name].margin),
                "noise": _or_none(self._accounts[name].noise_at_end),
                "windows": list(map(as_json, windows)),
            }
            for name, windows in unwritten.items()
        }

    def _likely(self, total: float, change: float) -> list[str]:
        return likely_causes(
            self._estimator,
            total,
            change,
            supplied=self._supplied,
            seen=list(self.seen),
            updates=self._epoch.updates,
            moved=self._moved,
        )

    def _is_random(self, step: Step) -> bool:
        """Whether a measured loss is another one when it is measured again; warns of it."""
        if self._estimator is None or self._estimator.target != "batch":  # others were tried before this step
            return False
        assert self._start is not None
        for data in self._data:
            first, again = data.twice(step.start, _state_of(step), float(self._start[data.name][0]))
            if abs(first - again) > repeat(first, array_ops(step.start).eps(step.start)):
                _warn(
                    f"the loss {data.name!r} was {first:.6g} and then {again:.6g} at the same parameters: it "
                    "draws random numbers, so its change cannot check the allocations, and the check is "
                    "omitted. If training draws anew for each batch, the allocations are those of the mean "
                    "of the loss over the draws. To have them checked, draw once, pass the draws with the "
                    "data of the objective, and turn off random layers and augmentation where the loss is "
                    "measured."
                )
                return True
        return False

    def _continues(self, step: Step) -> bool:
        """Whether a step begins where the last one ended."""
        if self._last is None:
            return False
        same_state = self._last.state is _state_before(step)
        return self._last.index + 1 == step.index and same_state and self._last.is_at(step.start)

    def _is_due(self) -> bool:
        n = self._steps
        if self._every == "doubling":
            return n >= FIRST and doubles(n)
        assert isinstance(self._every, int)
        return n % self._every == 0

    def _begin(self, losses: Losses) -> None:
        self._start, self._held, self._due = losses, 0, False
        for account in self._accounts.values():
            account.begin()

    def _close(self, theta: Vector, state: State | None) -> Losses:
        """Measure the loss at the end of the last step, and end the window there."""
        assert self._start is not None
        assert self._last is not None
        found, last = self._measured(theta, state), self._last.index
        eps = array_ops(theta).eps(theta)
        for name, account in self._accounts.items():
            losses = self._start[name], found[name]
            message = account.end((last - self._held + 1, last), losses, self._data_of[name], eps)
            _warn(message)
        self._start = None
        return found

    def _count_short(self) -> None:
        """A window has ended that no other continues; after a short one more are due."""
        if self._held < FIRST:
            self._short += 1
            self._due |= self._every == "doubling" and self._short % SHORT_WINDOWS != 0

    def _drop(self) -> None:
        """Give up the open window; one without steps begins again with the next step."""
        self._due |= self._start is not None and not self._held
        if self._start is not None:
            for account in self._accounts.values():
                account.drop()
        self._start, self._held = None, 0

    def _measured(self, theta: Vector, state: State | None) -> Losses:
        found: Losses = {}
        for data in self._data:
            losses = data.losses(theta, state)
            self._data_of |= dict.fromkeys(losses, data)
            found |= losses
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"the loss {name!r} is {values[~np.isfinite(values)][0]} where it was measured to check "
                    "the allocations; if the run diverged, lower the learning rate."
                )
        return found


def _warn(message: str | None) -> None:
    if message:
        warnings.warn(message, LCAWarning, stacklevel=6)


def _state_before(step: Step) -> State | None:
    """The state in which the step before ended."""
    return step.previous_state or (step.state[0] if step.state else None)


def _state_of(step: Step) -> State | None:
    """The state in which a step is allocated."""
    return step.state[0] if step.state else None


@dataclass(frozen=True, eq=False)
class _Reached:
    """Where the last measured step ended: θ with a snapshot of it, and the state."""

    index: int
    theta: Vector
    snapshot: object
    state: State | None

    def is_at(self, theta: Vector) -> bool:
        """Whether θ is still what it was there."""
        return theta is self.theta or array_ops(theta).unchanged(self.snapshot, theta)


class _Data:
    """All examples of a measured loss, or a fixed part of them in groups."""

    def __init__(self, name: str, objective: Objective, examples: int | None) -> None:
        self.name, self._objective = name, objective
        self.examples: int | None = None  # of the part
        self._batches: list[Any] = []
        self._weights, self._missing = np.ones(1), 0.0
        if examples is not None:
            self._draw(examples)

    def _draw(self, examples: int) -> None:
        objective = self._objective
        if not isinstance(objective, Sampled):
            raise LCAError(
                f"check_examples={examples} needs an objective that is a mean over examples "
                f"(lca.objective.Sampled), which {type(objective).__name__} is not; omit it, and all data "
                "are used."
            )
        weight = np.ones(objective.n_examples) if objective.weight is None else objective.weight
        weighted = np.flatnonzero(weight)
        if examples >= len(weighted):
            return
        rows = np.random.default_rng(0).permutation(weighted)[:examples]
        groups = np.array_split(rows, min(GROUPS, examples))
        self._batches = [objective.batch(group, weight[group]) for group in groups]
        self._weights = np.array([weight[group].sum() for group in groups])
        self.examples, self._missing = examples, 1 - examples / len(weighted)

    def twice(self, theta: Vector, state: State | None, measured: float) -> tuple[float, float]:
        """The loss of a few examples twice; if it is not a mean over examples, ``measured`` and once more."""
        objective = at_state(self._objective, state)
        with suppress(LCAError):
            if isinstance(self._objective, Sampled):
                few = self._objective.batch(np.arange(min(_FEW, self._objective.n_examples)))
                return objective.loss(theta, few), objective.loss(theta, few)
        return measured, objective.loss(theta)

    def losses(self, theta: Vector, state: State | None) -> Losses:
        """The losses at θ, of each group and of each term of a `lca.Sum`."""
        objective = at_state(self._objective, state)
        if self._batches:
            return {self.name: np.array([objective.loss(theta, batch) for batch in self._batches])}
        found = evaluate(objective, theta, gradient=False)
        terms = {f"{self.name}/{term}": part.loss for term, part in found.terms.items()}
        return {name: np.array([loss]) for name, loss in {self.name: found.loss, **terms}.items()}

    def mean(self, changes: np.ndarray) -> float:
        """The change of the loss from those of its groups."""
        return float(self._weights @ changes / self._weights.sum())

    def margin(self, level: float, changes: np.ndarray) -> float:
        """Half the width of the interval of the change over all data around the mean; 0 for all data."""
        if not self._missing:
            return 0.0
        parts, groups = self._weights * (changes - self.mean(changes)) / self._weights.sum(), len(changes)
        variance = float(self._missing * (parts**2).sum() * groups / (groups - 1))
        return _margin(level, variance, groups - 1)


class _Account:
    """The checks of one measured loss; earlier ones are in a temporary file, as there may be one a step."""

    def __init__(self, name: str, likely: Callable[[float, float], list[str]] = lambda *_: []) -> None:
        self._name, self._likely = name, likely
        self.rows = Rows(WINDOW)
        self.steps = 0  # in all windows
        self.unwritten: list[CheckedWindow] = []
        self.margin = nan  # of the sum over all windows
        self._noise = 0.0  # as `sampling_limit`
        self._outside = nan  # the margin of the sum, with a part of the data at the level of warnings
        self._window, self._run = _Estimate(), _Estimate()
        self._before = deepcopy(self._run)  # without the open window
        self._changes: np.ndarray | float = 0.0  # of the groups of examples, over all windows
        self._alike: dict[int, _Spread] = {}  # of the windows, by their number of random nodes
        self._largest = self._warned = 0.0  # change; part of it that the last warning said is missed
        self._missed = self._rounding = self._change = 0.0  # over all windows
        self._last = -1

    @property
    def windows(self) -> list[CheckedWindow]:
        """All checks that have ended."""
        return list(map(CheckedWindow._of, self.rows.array().tolist()))

    @property
    def noise_at_end(self) -> float:
        """The noise of a run that is over."""
        return noise_at_end(self._noise, self._outside, self._largest)

    def add(self, row: Row) -> None:
        self._window.add(row)
        self._run.add(row)

    def begin(self) -> None:
        self._window, self._before = _Estimate(), deepcopy(self._run)

    def drop(self) -> None:
        self._window, self._run = _Estimate(), deepcopy(self._before)

    def end(
        self, steps: tuple[int, int], losses: tuple[np.ndarray, np.ndarray], data: _Data, eps: float
    ) -> str | None:
        """End a window; returns a warning if the allocations do not fit the change of the loss."""
        start, end = losses
        changes = end - start
        margin = hypot(self._window_margin(), data.margin(SHOWN, changes))
        found = CheckedWindow(*steps, data.mean(changes), self._window.total, margin, data.examples)
        self.rows.append(found._numbers)
        self.steps += found.last_step - found.first_step + 1
        self.unwritten.append(found)
        self._changes = self._changes + changes
        whole = np.asarray(self._changes)
        of_run, of_data = self._run.margin(WARNED), data.margin(WARNED, whole)
        self.margin = hypot(self._run.margin(SHOWN), data.margin(SHOWN, whole))
        self._outside = hypot(self._run.margin(SHOWN), of_data)
        self._noise = of_data if isnan(of_run) else hypot(of_run, of_data)
        self._change, self._last = data.mean(whole), found.last_step
        self._largest = max(self._largest, abs(self._change))
        self._missed = abs(self._run.total - self._change)
        self._rounding = conservation(self._run.mass, float(np.abs(start).max() + np.abs(end).max()), eps)
        return self._warning(GROWN * self._warned, self._noise)

    def rest(self) -> str | None:
        """A warning if the run, which is over, misses more than the last one has said."""
        return self._warning(self._warned + SMALL_MISS, self.noise_at_end)

    def _warning(self, known: float, noise: float) -> str | None:
        has_bars = not isnan(self._outside)
        limit = sampling_limit(self.steps, self._largest, noise, has_bars=has_bars)
        part = self._missed / self._largest if self._largest else inf
        if self._missed <= max(self._rounding, limit) or part <= known:
            return None
        self._warned = part
        return self._message(self._change, self._last)

    def _window_margin(self) -> float:
        """The margin of the open window; windows with the same number of random nodes are pooled for it."""
        spread = self._window.spread()
        if spread is None:
            return nan
        alike = self._alike.get(spread.most)
        self._alike[spread.most] = spread if alike is None else spread.pooled_with(alike)
        return spread.margin(SHOWN, self._alike[spread.most])

    def _message(self, change: float, last: int) -> str:
        margin = self.margin
        known = "no error bars" if isnan(margin) else f"95 % interval of the sum ± {margin:.3g}"
        causes = "".join(f"\n- {cause}" for cause in self._likely(self._run.total, change))
        return (
            f"the allocations of the loss {self._name!r} sum to {self._run.total:+.6g} over "
            f"{self.steps} steps up to step {last}, but the measured loss changed by "
            f"{change:+.6g} ({known}). They are not corrected. Possible causes, the likeliest first:{causes}"
        )


class _Estimate:
    """The sum of the allocations of consecutive steps, and its sampling variance.

    A node that two steps share is one sample, so its contributions are added before they are squared
    (`lca.views.ErrorBars`).
    """

    def __init__(self) -> None:
        self.total = self.mass = 0.0
        self._known = True
        self._open: dict[float, np.ndarray] = {}
        self._spread = _Spread()

    def add(self, row: Row) -> None:
        self.total += row.total
        self.mass += row.allocation.mass
        nodes = row.replicate_totals
        self._known &= bool(nodes) and min(map(len, nodes.values())) > 1
        if not self._known:
            return
        for time in self._open.keys() - nodes.keys():
            self._spread = self._spread.with_node(self._open.pop(time))
        for time, sums in nodes.items():
            self._open[time] = self._open.get(time, 0.0) + sums

    def spread(self) -> "_Spread | None":
        """The spread of the total; ``None`` without error bars."""
        if not self._known:
            return None
        spread = self._spread
        for sums in self._open.values():
            spread = spread.with_node(sums)
        return spread

    def margin(self, level: float) -> float:
        """Half the width of the interval of the total; NaN without error bars."""
        spread = self.spread()
        return nan if spread is None else spread.margin(level, spread)


@dataclass(frozen=True)
class _Spread:
    """The sampling variance of a sum over independent nodes, and what tells how well it is known.

    Attributes
    ----------
    variance, root, least, most
        As in `satterthwaite`; ``most`` without the nodes that are exact up to rounding.
    """

    variance: float = 0.0
    root: float = 0.0
    least: float = inf
    most: int = 0

    def with_node(self, sums: np.ndarray) -> "_Spread":
        """The same with the replicates of one more node."""
        own, freedom = float(sums.var(ddof=1)) / len(sums), len(sums) - 1
        variance = self.variance + own
        most = self.most + freedom * (own > EPS32 * variance)
        return _Spread(variance, hypot(self.root, own / sqrt(freedom + 2)), min(self.least, freedom), most)

    def pooled_with(self, other: "_Spread") -> "_Spread":
        """The spread of both, for the degrees of freedom of a sum over the same number of nodes."""
        return replace(self, variance=hypot(self.variance, other.variance), root=hypot(self.root, other.root))

    def margin(self, level: float, alike: "_Spread") -> float:
        """Half the width of the interval of the sum, with the degrees of freedom of those ``alike``."""
        if not self.root:
            return 0.0
        freedom = satterthwaite(alike.variance, alike.root, self.least, self.most)
        return _margin(level, self.variance, freedom)


def _margin(level: float, variance: float, freedom: float) -> float:
    """Half the width of Student's interval."""
    from scipy.special import stdtrit  # noqa: PLC0415 - slow to import

    return float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance)


def as_json(window: CheckedWindow) -> dict[str, Any]:
    """A window as plain values; JSON has no NaN."""
    return {**vars(window), "margin": _or_none(window.margin)}


def _or_none(number: float) -> float | None:
    return number if isfinite(number) else None
