"""`Session`: decides which steps of a run are measured, handles errors, and distributes the allocations."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from typing import Any, Unpack

from lca._heads import head_groups
from lca._listing import listed
from lca._replay import refuse_unseen
from lca._state import same_state
from lca.allocation import Estimator, StepAllocation, start_each
from lca.arrays import Vector, array_ops
from lca.divisions import HEAD, divisions
from lca.errors import IncompleteStepError, LCAError, LCAWarning, NonFiniteError
from lca.estimators import Adaptive
from lca.estimators._stochastic import required_fields_of
from lca.frameworks import ModelObjective
from lca.groups import Groups
from lca.layout import _labelled_groups, check_same_layout
from lca.live._outputs import LiveOutputs
from lca.objective import (
    Checked,
    Objective,
    State,
    Sum,
    _is_stateful,
    differentiated_by,
    evaluate,
    leaves,
    state_at_update,
    state_of,
)
from lca.record import Record
from lca.record._metrics import as_numbers
from lca.record._place import Place
from lca.record._writers import Run
from lca.row import CheckedWindow, Row, rows_of
from lca.step import Step
from lca.summary import _COSTS, RunViews, Summary, summarize
from lca.tracking._checkpoint_lines import CheckpointLines
from lca.tracking._detached import DetachedMoves
from lca.tracking._epochs import EpochLength
from lca.tracking._measured_on import measured_on
from lca.tracking._misses import Misses
from lca.tracking._options import (
    MakeViews,
    Options,
    RecordTo,
    Settings,
    names_options,
)
from lca.tracking._path_sums import PathDifference, PathSums
from lca.tracking._precision import PrecisionDifference
from lca.tracking._run_views import readers_of, refuse_two_histories, summarized_views, views_of
from lca.tracking._self_check import SelfCheck
from lca.tracking._skips import Skips
from lca.tracking._state_moves import StateMoves
from lca.views import GroupTotals


class Session:
    """Allocates the steps of one training run and passes the allocations to views and record.

    Trackers use it; for stored runs there is `lca.allocate`.

    Parameters
    ----------
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    objective, estimator, every, views, on_error, record, progress, log_to
        As in `lca.tracking.TrackerBase`. With ``span``, `measure` gets the straight lines as its steps.
    advice
        How the training loop supplies a field of `lca.Step`, by field; appended to the error of a step that
        lacks the field.
    supplied
        The fields of `lca.Step` that the loop can supply; ``None``: all.

    Attributes
    ----------
    first_step
        The index of the first update: 0, the number of steps in the record that is continued, or the number
        of updates that a trainer has made before.
    views
        The view of each measured loss by name, or the list of its views, and of each of its terms
        (``train/penalty``) if the view of the loss is a `lca.summary.RunViews`.
    required_fields
        Names of the fields of `lca.Step` that the estimator requires from the training loop.
    reduced
        Returns the fields of an update as far as the estimator uses them.
    error
        The error that ended the measuring, or ``None``.
    path
        With ``span``: the sums over the updates under the next step, by loss, if they were measured.
    failed
        Whether there was an error in measuring since the run began, which may have been raised.
    skips
        The steps that were to be measured and lacked a required field.
    live
        What is shown and logged while the run goes on.
    check_every
        As in `lca.tracking.TrackerBase`.
    state_moves
        In which measured steps the state moved.
    learning_rates
        Reads the learning rates of an update that was just made; empty without a record.
    by_hand
        How a loop tells of changes that no optimizer makes, to end a message with.
    on_failure
        Called with an error in measuring before it is raised or ends the measuring.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> session = Session(Quadratic(np.eye(2)))
    >>> session.measure(Step(np.ones(2), np.zeros(2)))
    >>> session.summary()["train"]["lca_total"]
    -1.0
    """

    @names_options
    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        advice: Mapping[str, str] | None = None,
        supplied: Collection[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        settings = Settings.of(options)
        span = settings.span
        self.objectives = dict(objective) if isinstance(objective, Mapping) else {"train": objective}
        estimator = estimator or Adaptive()
        self._allocate = start_each(self.objectives, estimator)
        self.required_fields = required_fields_of(estimator)
        if span > 1 and self.required_fields:
            raise LCAError(
                f"span={span} measures straight lines over several updates, but the estimator requires "
                f"{', '.join(f'Step.{field}' for field in self.required_fields)}, which belong to single "
                "updates; use lca.Adaptive, lca.PathIntegral or lca.estimators.SampledPathIntegral, with "
                "refresh=n, a number of steps, for samplings other than 'uniform', or omit span."
            )
        self.estimator, self.span = estimator, span
        self.reduced = getattr(estimator, "reduced", dict)
        self.live = LiveOutputs(settings.progress, settings.log_to, span=span)
        self._every, self._on_error = settings.every, settings.on_error
        self.skips = Skips(type(estimator).__name__, self.required_fields, advice or {})
        self._misses, self._detached = Misses(), DetachedMoves(self.objectives)
        self._lines = CheckpointLines()
        self._precision = PrecisionDifference(self.objectives)
        self._checked = [own for own in leaves(self.objectives) if isinstance(own, Checked)]
        self._stateful = [own for own in leaves(self.objectives) if _is_stateful(own)]
        self._measures_losses = estimator.target == "full"
        self.state_moves = StateMoves(estimator)
        self.check_every = settings.check_every
        self.epoch = EpochLength(estimator)
        checked = None if self._measures_losses else settings.check_every
        examples = None if checked is None else settings.check_examples
        self._check = SelfCheck(
            self.objectives, checked, examples, estimator, supplied=supplied, epoch=self.epoch
        )
        self.path: Mapping[str, PathSums] = {}
        self._differences: dict[str, PathDifference] = {}
        self._ends: dict[str, float] = {}
        self._final: dict[str, float] = {}
        self._layouts = {name: measured.layout for name, measured in self.objectives.items()}
        self.views = views_of(self.objectives, settings.views)
        self._summarized = summarized_views(self.objectives, self.views)
        self._readers = readers_of(self.views, self._summarized)
        layout = next(iter(self._layouts.values()))
        groups, heads = settings.groups, settings.heads
        self._divisions = {} if groups is None else divisions(groups, layout.names)
        self._head_groups = None if heads is None else head_groups(layout, heads)
        self._heads = {} if self._head_groups is None else _head_totals(self._layouts, self._head_groups)
        self.error: Exception | None = None
        self.failed = False
        self.learning_rates: Callable[[], Mapping[str, float]] = dict
        self.by_hand = ""
        self.on_failure: Callable[[Exception], None] | None = None
        record = settings.record
        if record is not None:
            refuse_two_histories(self.views)
        self._record: Record | None = None
        self._opened: Record | None = None  # a record that was opened here
        with self.begins():
            self._begin_record(record, estimator)

    @contextmanager
    def begins(self) -> Iterator[None]:
        """The context in which a run begins: a record that was opened for it is closed after an error."""
        try:
            yield
        except BaseException:
            if self._opened is not None:
                self._opened.close(complete=False)
            raise

    def written_by(self, run: Run) -> None:
        """``run`` is what closes this session, and with it the record."""
        if self._record is not None:
            self._record._written_by(run)

    def release_record(self) -> None:
        """Let others write the record, also if it could not be closed."""
        if self._record is not None:
            self._record._release()

    @property
    def recorded(self) -> int:
        """The number of steps in the record."""
        return 0 if self._record is None else self._record.steps

    def follow(self, updates: int, place: Place) -> None:
        """Count steps from the ``updates`` that a trainer, now here, has made, or as a record counts them."""
        if self._record is not None:
            self._record._continuation.follow(updates, place)
        self._begin_at(updates)

    def _begin_at(self, updates: int) -> None:
        """The run begins after ``updates`` updates, or where its record continues."""
        self.first_step = updates if self._record is None else self._record.next_step
        self.epoch.resumed = self.first_step > 0

    def arrive(self, theta: Callable[[], Vector]) -> None:
        """The first update of the run begins at θ: compare it with the end of a record that is continued."""
        if self._record is not None:
            self._record._continuation.arrive(theta)

    @property
    def checked_windows(self) -> Mapping[str, list[CheckedWindow]]:
        """As `lca.tracking.TrackerBase.checked_windows`."""
        return self._check.windows

    @property
    def records(self) -> bool:
        """Whether the steps are written to a record."""
        return self._record is not None

    @property
    def raises(self) -> bool:
        """Whether errors in measuring are raised (``on_error="raise"``)."""
        return self._on_error == "raise"

    def wants(self, index: int) -> bool:
        """Whether this step is to be measured."""
        if self.error is not None:
            return False
        wanted = self._every(index) if callable(self._every) else index % self._every == 0
        if not wanted:
            self._check.skip(index)
        return wanted

    def measured_fraction(self, updates: int | None) -> float:
        """The fraction of the updates of a run that begin a measured step."""
        if callable(self._every):
            measured = self._measured_steps(self._every, updates)
            return sum(measured) / len(measured) / self.span if measured else 1 / self.span
        return 1 / (self._every * self.span)

    def fraction_apart(self, updates: int | None) -> float:
        """The fraction of the updates that begin a measured step, after one that is not measured."""
        if callable(self._every):
            measured = self._measured_steps(self._every, updates)
            begun = sum(now and not before for before, now in pairwise(measured))
            return begun / len(measured) / self.span if measured else 0.0
        return self.measured_fraction(updates) if self._every > 1 else 0.0

    def _measured_steps(self, every: Callable[[int], bool], updates: int | None) -> list[bool]:
        steps = -(-(updates or 0) // self.span)
        return [bool(every(self.first_step + step)) for step in range(steps)]

    def describe(self, settings: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        """Tell the record what the tracker knows of the run; what the user has passed takes precedence."""
        if self._record is not None:
            layout = next(iter(self.objectives.values())).layout
            self._record.begin(layout, settings=settings, training=training)

    def add_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Pass metrics to the record, if there is one; raises `LCAError` for a value that is not a number."""
        numbers = as_numbers(values)
        if self._record is not None:
            self._record.add_metrics(numbers, step=step)

    def audit(self, views: MakeViews) -> "Session":
        """A session of the same losses and estimator with other views; no record, summary or self-check."""
        made = Session(
            self.objectives, self.estimator, views=views, on_error=self._on_error, check_every=None
        )
        made._summarized, made._readers = {}, readers_of(made.views, {})
        made._precision = PrecisionDifference({})
        return made

    def state(self) -> State | None:
        """A copy of what the measured losses depend on besides θ (`lca.objective.Stateful`)."""
        if len(self._stateful) == 1:
            return self._stateful[0].state() or None
        return state_of(self.objectives)

    def state_at_update(self, previous: State | None, *, after_forward: bool) -> State | None:
        """The state in which the coming update is taken; ``previous`` if it is the same.

        Before the forward pass that is the state as it is; after it, `lca.objective.state_at_update`.
        """
        now = self.state()
        if after_forward:
            return state_at_update(self.objectives, previous, now)
        return previous if same_state(now, previous) else now

    def moved_untrained(self, before: Vector, now: Vector) -> list[str]:
        """The tensors in which two vectors θ differ, if none of them is differentiated; else nothing."""
        objective = next(iter(self.objectives.values()))
        layout, trained = objective.layout, differentiated_by(objective)
        starts = zip(layout.names, layout.offsets, layout.sizes, strict=True)
        parts = {name: slice(start, start + size) for name, start, size in starts}
        differ = array_ops(now).moved(before, now, list(parts.values()))
        found = [name for name, differs in zip(parts, differ, strict=True) if differs]
        return found if trained.isdisjoint(found) else []

    def check(self) -> None:
        """Raise `LCAError` if an objective no longer measures what it was made for (`Checked`)."""
        for objective in self._checked:
            objective.check()

    def note_cause(self, cause: str) -> None:
        """Remember what makes the allocations of this loop wrong, for the warning of the self-check."""
        self._check.seen[cause] = None

    def measure(self, step: Step) -> None:
        """Allocate ``step``, update the views and write the record.

        A step that lacks a required field is skipped if an earlier one had it, or if the update that should
        have it is irregular (``skips``); otherwise this raises `IncompleteStepError`.
        """
        step = self.skips.without_other_gradient(self.skips.without_small_gradient(step))
        try:
            found = self._allocate(step)
        except IncompleteStepError as error:
            self._check.end(step.start)
            self.skips.add(step, error)
            return
        if not self.skips.measured:
            self._warn_of_terms(found)
        self.skips.measured = True
        self.state_moves.add(step)
        self._precision.begin(step.start)
        self._misses.update(found)
        self._lines.add(step)
        rows: dict[str, Row] = {}
        for name, allocation in found.items():
            path = self.path.get(name)
            whole = allocation if path is None else replace(allocation, cost=allocation.cost + path.cost)
            rows |= rows_of({name: whole}, self._layouts[name])
            if path is not None:
                difference = self._differences.setdefault(name, PathDifference())
                rows[name].path_difference = difference.add(rows[name], path)
        self._check.add(step, rows)
        self._detached.add(step, rows)
        self._final = {}
        self._ends = {name: row.allocation.loss_end for name, row in rows.items()}
        for name, row in rows.items():
            for read in self._readers.get(name, ()):
                read(row)
            if name in self._heads:
                self._heads[name].add(row.totals(self._heads[name].groups))
        if self._record is not None:
            self._record.write(rows)
        self.live.read(rows)

    def end_check(self, theta: Vector) -> None:
        """The measured steps end at θ, or are interrupted: measure the loss there, to check a sampled sum."""
        self._check.end(theta)
        self._precision.end(theta)

    def end_audit(self, theta: Callable[[], Vector]) -> None:
        """Check every loss a last time, at the θ where the run ends.

        Raises
        ------
        LCAError
            If samples were measured, and the loss has become one that is not a mean over examples.
        NonDeterministicError
            If a loss has changed unseen since it was last looked at.
        """
        for own in leaves(self.objectives):
            if isinstance(own, ModelObjective):
                own.end_run(theta)
        for name, objective in self.objectives.items() if self._ends and self._measures_losses else ():
            refuse_unseen(objective, f"at the end of the run, the loss {name!r}")

    def book_end(self, theta: Vector) -> str:
        """Measure the losses where the run has ended, which is not where the last measured step did.

        The change in between becomes part of the ``unmeasured_change`` of a summary. Costs one forward pass a
        loss; nothing if no step was measured, or the estimator measures no losses. Returns what it found in
        words, empty if no loss changed.

        Raises
        ------
        NonFiniteError
            If a loss is not finite there.
        """
        if not (self._ends and self._measures_losses):
            return ""
        self._final = {}
        for name, objective in self.objectives.items():
            found = evaluate(objective, theta, gradient=False)
            self._final[name] = found.loss
            self._final |= {f"{name}/{term}": part.loss for term, part in found.terms.items()}
        infinite = [name for name, loss in self._final.items() if not isfinite(loss)]
        if infinite:
            value = self._final[infinite[0]]
            self._final = {name: loss for name, loss in self._final.items() if isfinite(loss)}
            raise NonFiniteError(
                f"the loss {infinite[0]!r} is {value} at the end of the run, which is not where the last "
                "step ended; were other weights loaded?"
            )
        changes = {name: self._final[name] - self._ends[name] for name in self.objectives}
        return ", ".join(f"{name} {change:+.6g}" for name, change in changes.items() if change)

    def warn_of_rest(self) -> None:
        """Warn if the sums of the run miss more of the measured change than has been warned of."""
        self._check.warn_of_rest()

    def warn_of_misses(self) -> None:
        """Warn if the allocations miss much of the loss change of the run."""
        self._misses.warn()

    def close(self, *, complete: bool = True) -> None:
        """Close record and loggers, if there are any; ``complete`` says whether training reached its end."""
        self._check.release()
        unwritten = self._check.take_unwritten()
        try:
            if self._record is not None:
                complete = complete and not self.failed
                final_checks = self._check.final(unwritten)
                self._record.close(complete=complete, final_losses=self._final, final_checks=final_checks)
            self.live.read_checks(unwritten)
        finally:
            self.live.close()

    def guarded(self, index: int) -> "_Guarded":
        """Handle an error inside, in the measuring of step ``index``, as ``on_error`` says."""
        return _Guarded(self, index)

    def handle(self, error: Exception, index: int) -> bool:
        """Take note of an error in the measuring of step ``index``; whether training goes on."""
        self.failed = True
        if self.on_failure is not None:
            self.on_failure(error)
        if self.raises:
            return False
        self.error = error
        warnings.warn(
            f"measuring stopped at step {index}, training goes on: {type(error).__name__}: "
            f"{str(error).rstrip('.')}. Pass on_error='raise' to stop the training, too.",
            LCAWarning,
            stacklevel=3,
        )
        return True

    def summary(self) -> Summary:
        """As `lca.tracking.TrackerBase.summary`."""
        summaries = Summary()
        for name, view in self._summarized.items():
            if not len(view.trace.rows):
                if name not in self.objectives:
                    continue  # a term, of an estimator that does not allocate terms
                raise LCAError(f"no step was measured{self._reason()}.")
            summaries[name] = summarize(view, self._final.get(name))
            if self._divisions:
                summaries[name]["per_group"] = _per_group(view, self._divisions)
            if name in self._heads:
                summaries[name]["per_head"] = self._heads[name].by_name()
            if not self._measures_losses:
                summaries[name] |= self._check.summary(name)
                if self.state_moves.steps:
                    summaries[name]["state_moved_steps"] = self.state_moves.steps
            if self.span > 1:
                difference = self._differences.get(name, PathDifference())
                summaries[name] |= {key: summaries[name][key] / self.span for key in _COSTS}
                summaries[name] |= {
                    "span": self.span,
                    "path_difference": difference.whole if difference.lines else None,
                    "path_difference_steps": difference.lines,
                }
            summaries[name] |= self._lines.summary() | self._precision.summary(name)
            if self.skips.number:
                summaries[name]["skipped_steps"] = self.skips.number
        return summaries

    def _warn_of_terms(self, found: Mapping[str, StepAllocation]) -> None:
        """Warn of terms of a `lca.Sum` that the estimator does not allocate."""
        whole = [(name, own) for name, own in self.objectives.items() if not found[name].terms]
        terms = [f"{name}/{term}" for name, own in whole if isinstance(own, Sum) for term in own.terms]
        if terms:
            warnings.warn(
                f"{type(self.estimator).__name__} allocates a loss as a whole: {listed(terms)} "
                "have no rows in the summary, the views and a record. To allocate terms or classes use "
                "lca.Adaptive (cheaper with span= or every=).",
                LCAWarning,
                stacklevel=3,
            )

    def _begin_record(self, record: RecordTo | None, estimator: Estimator) -> None:
        """Begin at step 0, or where the record ends, with what the estimator remembers."""
        self._record = None if record is None else self._begun(record, estimator)
        self._begin_at(0)
        if self._record is not None and self._record.memory:  # the run goes on, and so does the estimator
            self._allocate = start_each(self.objectives, estimator, memory=self._record.memory)

    def _begun(self, record: RecordTo, estimator: Estimator) -> Record:
        layout = check_same_layout((o.layout for o in self.objectives.values()), "the losses of one record")
        made = record if isinstance(record, Record) else Record(record)
        self._opened = None if made is record else made
        groups = {name: _labelled_groups(layout, labels) for name, labels in self._divisions.items()}
        made.begin(layout, groups=groups | ({} if self._head_groups is None else {HEAD: self._head_groups}))
        settings: dict[str, Any] = {} if callable(self._every) else {"every": self._every}
        if self.span > 1:
            settings["span"] = self.span
        if self._divisions:
            settings["groups"] = self._divisions
        known = measured_on(self.objectives)
        if known:
            settings["measured_on"] = known
        own = {key: value for key, value in settings.items() if key not in made._settings}
        made._continuation.compare_run(own)
        made.begin(layout, estimator=estimator, settings=settings)
        return made

    def _reason(self) -> str:
        if self.error is not None:
            return f": {type(self.error).__name__}: {self.error}".rstrip(".")
        return f": {reason}" if (reason := self.skips.reason) else ""


class _Guarded:
    """The context of `Session.guarded`; a generator would take three times as long, several times a step."""

    __slots__ = "_index", "_session"

    def __init__(self, session: Session, index: int) -> None:
        self._session, self._index = session, index

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Exception) and self._session.handle(error, self._index)


def _head_totals(names: Iterable[str], heads: Groups) -> dict[str, GroupTotals]:
    return {name: GroupTotals(heads, keep_rows=False) for name in names}


def _per_group(run: RunViews, parts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """The sums of the run over the groups of each division."""
    tensors = run.tensors.totals
    groups = {division: _labelled_groups(run.layout, labels) for division, labels in parts.items()}
    return {
        division: dict(zip(own.names, own.merged(tensors).tolist(), strict=True))
        for division, own in groups.items()
    }
