"""What a tracker or callback of any framework does with the updates it sees: `Watch` and `Measurement`.

A framework's hooks know when an update is about to be made and when it was made, and how to read θ;
everything behind that is here, once. `Watch` makes steps of what it reads; `Measurement` decides which are
measured, what an error in measuring does to the training, and where the allocations go.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from lca.allocation import Estimator, start_each, with_terms
from lca.errors import IncompleteStepError, LCAError, LCAWarning, UnknownNameError
from lca.estimators import Adaptive
from lca.estimators.stochastic import needs_of
from lca.handover import HandOver, Source
from lca.layout import Layout, check_same_layout
from lca.objective import Objective, State, Sum, state_of
from lca.record import Record
from lca.step import Step
from lca.summary import RunViews, summarize
from lca.vectors import Vector
from lca.views import View

OnError: TypeAlias = Literal["warn", "raise"]
Schedule: TypeAlias = int | Callable[[int], bool]
RecordTo: TypeAlias = Record | str | PathLike[str]


@runtime_checkable
class ViewsByName(Protocol):
    """Makes the view of one measured loss where its name matters, as for what is written somewhere."""

    def view_of(self, name: str, layout: Layout) -> View:
        """The view of the measured loss ``name``."""


MakeViews: TypeAlias = Callable[[Layout], View] | ViewsByName


def check_options(every: Schedule, on_error: OnError) -> None:
    """Raise `LCAError` unless these are options of a `Measurement`."""
    if on_error not in get_args(OnError):
        raise UnknownNameError("on_error", on_error, get_args(OnError))
    if not callable(every) and (not isinstance(every, int) or every < 1):
        raise LCAError(f"every must be a positive integer or a function of the step, got {every!r}.")


class Measurement:
    """Allocates the steps of a training run that somebody else drives.

    Parameters
    ----------
    objective
        The measured loss, or several by name; a single one is called ``train``.
    estimator
        How a step is allocated; default `lca.Adaptive`.
    every
        Measure every n-th step, or those for which ``every(index)`` is true.
    views
        Makes the view of one measured loss from its layout, or is a `ViewsByName`; default: everything
        `summary` needs, which the terms of a `lca.Sum` then get as well (a few passes over their allocations
        a step).
    on_error
        ``"warn"``: an error in measuring ends the measuring with a warning, and the training goes on.
        ``"raise"``: it is raised. A step that lacks what earlier ones had (`left_out`) is no error.
    record
        A `lca.Record`, or the path of a new one: every measured step is written to it. It is closed when the
        run ends, also by an error; its attribute ``complete`` then says that.

    Attributes
    ----------
    views
        The view of each measured loss, by name, and of its terms (``train/penalty``) if it is a `RunViews`.
    needs
        What the estimator needs from the training loop: names of fields of `lca.Step`.
    error
        What ended the measuring, or ``None``.
    left_out
        Number of steps that were to be measured but lacked what to measure them by: a next step (the last
        one of a run, or one followed by a jump), or something that the loop had handed over before, as for
        batches left over at the end of an epoch. Always 0 for estimators that need nothing of the loop.
    """

    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: MakeViews = RunViews.of,
        on_error: OnError = "warn",
        record: RecordTo | None = None,
    ) -> None:
        check_options(every, on_error)
        self.objectives = dict(objective) if isinstance(objective, Mapping) else {"train": objective}
        estimator = estimator or Adaptive()
        self._allocate = start_each(self.objectives, estimator)
        self.needs = needs_of(estimator)
        self._every = every
        self._on_error = on_error
        self.left_out = 0
        self._measured, self._warned = False, False
        self.views = _views_of(self.objectives, views)
        self.error: Exception | None = None
        self._record = None if record is None else self._begun(record, estimator)

    @property
    def first_step(self) -> int:
        """The number of the first update: 0, or where the record that is continued ended."""
        return 0 if self._record is None else self._record.next_step

    def wants(self, index: int) -> bool:
        """Whether this step is to be measured."""
        if self.error is not None:
            return False
        return self._every(index) if callable(self._every) else index % self._every == 0

    def state(self) -> State | None:
        """A copy of what the measured losses depend on besides θ (`lca.objective.Stateful`)."""
        states = [state_of(objective) or {} for objective in self.objectives.values()]
        return {name: value for state in states for name, value in state.items()} or None

    def measure(self, step: Step) -> None:
        """Allocate a step, show it to the views and record it; leave it out if it lacks what others had."""
        try:
            rows = self._allocate(step)
        except IncompleteStepError as error:
            if not self._measured:
                raise
            if not self._warned:
                warnings.warn(f"left out, as all like it will be: {error}", LCAWarning, stacklevel=2)
            self._warned = True
            self.left_out += 1
            return
        self._measured = True
        for name, allocation in with_terms(rows).items():
            if name in self.views:
                self.views[name].update(allocation)
        if self._record is not None:
            self._record.update(rows)

    def close(self, *, complete: bool = True) -> None:
        """Close the record, if there is one; ``complete``: training came to its end."""
        if self._record is not None:
            self._record.close(complete=complete and self.error is None)

    @contextmanager
    def guarded(self, index: int) -> Iterator[None]:
        """Whatever goes wrong inside, while measuring step ``index``, is handled as ``on_error`` says."""
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            self.error = error
            warnings.warn(
                f"measuring stopped at step {index}, training goes on: {type(error).__name__}: {error}",
                LCAWarning,
                stacklevel=2,
            )

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss, and of the terms of a `lca.Sum`, by name.

        A term is called by the loss and its own name: ``train/penalty``. ``steps_left_out`` is there if there
        were any.

        Raises
        ------
        LCAError
            If no step was measured, or ``views`` are not the default ones.
        """
        summaries = {}
        for name, view in self.views.items():
            if not isinstance(view, RunViews):
                raise LCAError("summary() needs the default views; read your own from `views`.")
            if not len(view.trace.rows):
                if name not in self.objectives:
                    continue  # an estimator that does not keep the terms apart
                raise LCAError(f"no step was measured{self._why()}.")
            summaries[name] = summarize(view)
            if self.left_out:
                summaries[name]["steps_left_out"] = self.left_out
        return summaries

    def _begun(self, record: RecordTo, estimator: Estimator) -> Record:
        layout = check_same_layout((o.layout for o in self.objectives.values()), "the losses of one record")
        made = record if isinstance(record, Record) else Record(record)
        every = {} if callable(self._every) else {"every": self._every}
        return made.begin(layout, estimator=estimator, settings=every)

    def _why(self) -> str:
        return "" if self.error is None else f": {type(self.error).__name__}: {self.error}".rstrip(".")


def _views_of(objectives: Mapping[str, Objective], make: MakeViews) -> dict[str, View]:
    """The view of each measured loss; where it can tell the `summary` of that, one of each term as well."""
    views: dict[str, View] = {}
    for name, measured in objectives.items():
        layout = measured.layout
        views[name] = make.view_of(name, layout) if isinstance(make, ViewsByName) else make(layout)
        if isinstance(measured, Sum) and isinstance(views[name], RunViews):
            views |= {f"{name}/{term}": RunViews.of(measured.layout) for term in measured.terms}
    return views


class LiveTheta(Protocol):
    """θ in a model that is being trained, as a framework reads it."""

    def read(self) -> Vector:
        """A copy of θ as it is now."""

    def now(self) -> Vector:
        """θ as it is now, good until the next update; in the model's own memory where that is possible."""

    def kept(self, now: Vector, memory: Vector) -> Vector:
        """What `now` returned, made to last; may overwrite ``memory``, a vector that nobody needs any more.

        The engine recognises it: ``VectorOps.unchanged`` tells that a step that begins there begins where the
        one that ended with ``now`` had ended.
        """

    def is_at(self, theta: Vector) -> bool:
        """Whether θ is exactly this vector now."""

    def equal(self, a: Vector, b: Vector) -> bool:
        """Whether two tensors hold the same numbers."""


class Watch:
    """Follows one training run: told before and after each update, it measures the steps that are wanted.

    Between two steps it holds one vector, θ; while one is measured, what `LiveTheta.now` needs on top. An
    estimator that needs something of the next step (its batch, gradient, parts) gets each step one update
    late, for which the step keeps both its ends.

    Parameters
    ----------
    source
        What the training loop has at hand (`lca.handover.Source`); called between `before` and `after`, by
        `hand_over`.

    Attributes
    ----------
    steps
        Number of updates seen, measured or not; those of a record that is continued count as seen.
    jumps
        Number of measured steps that did not begin where the step before had ended: something else than these
        updates moved the parameters, and that part of the loss change belongs to no step.
    """

    def __init__(self, measurement: Measurement, theta: LiveTheta, source: Source | None = None) -> None:
        self._measurement = measurement
        self._theta = theta
        self._hand_over = HandOver(measurement.needs, source)
        self.steps = measurement.first_step
        self.jumps = 0
        self._wanted = False
        self._start: Vector | None = None
        self._last: tuple[int, Vector] | None = None
        self._state: State | None = None

    @property
    def asked(self) -> frozenset[str]:
        """What the coming update has to hand over: names of fields of `lca.Step`."""
        return self._hand_over.asked(measured=self._wanted)

    def begin(self) -> None:
        """The run begins, or goes on after `end`."""
        self._look_ahead()

    def before(self) -> None:
        """An update may be made now; may be called again if none was."""
        self._start = None
        self._hand_over.forget()
        pending = self._hand_over.pending
        if self._wanted or pending:
            with self._measurement.guarded(self.steps):
                start = self._read_start()
                if pending and start is not pending.end:
                    self._leave_out()
                self._start = start if self._wanted else None

    def hand_over(self) -> None:
        """The gradient of the update is there, and the update not yet made."""
        if self.asked:
            with self._measurement.guarded(self.steps):
                self._hand_over.ask(measured=self._start is not None)

    def after(self) -> None:
        """An update was made."""
        pending = self._hand_over.pending
        if pending:
            with self._measurement.guarded(pending.index):
                self._measurement.measure(self._hand_over.completed())
        if self._start is not None and self._measurement.error is None:
            with self._measurement.guarded(self.steps):
                self._step(self._start)
        self._hand_over.forget()
        self.steps += 1
        self._look_ahead()

    def end(self, *, complete: bool = True) -> None:
        """The run is over: lets go of all vectors; ``complete`` is for the record."""
        if self._hand_over.pending:
            self._leave_out()
        self._start = self._last = self._state = None
        with self._measurement.guarded(self.steps):
            self._measurement.close(complete=complete)

    def _leave_out(self) -> None:
        self._hand_over.pending = None
        self._measurement.left_out += 1

    def _look_ahead(self) -> None:
        """Decide, once, whether the next step is measured; if so it begins in the state that there is now."""
        self._wanted = False
        if self._measurement.error is not None:
            self._hand_over.pending = None
        with self._measurement.guarded(self.steps):
            if self._measurement.wants(self.steps):
                self._remember_state()
                self._wanted = True

    def _step(self, start: Vector) -> None:
        """Measure the step from ``start`` to θ, or let it wait for its next one."""
        before, after = self._state, self._remember_state()
        state = None if before is None or after is None else (before, after)
        end = self._theta.read() if self._hand_over.late else self._theta.now()
        self._start = self._last = None
        step = self._hand_over.given_to(Step(start, end, self.steps, state=state))
        if self._hand_over.late:
            self._hand_over.pending = step
            self._last = (self.steps, end)
        else:
            self._measurement.measure(step)
            self._last = (self.steps, self._theta.kept(end, start))

    def _remember_state(self) -> State | None:
        """The state as it is now; the very object remembered before if nothing in it has moved since."""
        now, known = self._measurement.state(), self._state
        if now is None or known is None or not all(self._theta.equal(now[name], known[name]) for name in now):
            self._state = now
        return self._state

    def _read_start(self) -> Vector:
        """θ as it is now; the end of the last step itself if nothing moved since, so that it is reused."""
        if self._last is None:
            return self._theta.read()
        index, end = self._last
        if self._theta.is_at(end):
            return end
        if index == self.steps - 1:
            if not self.jumps:
                warnings.warn(
                    f"parameters changed between steps {index} and {self.steps}, outside the updates that "
                    "are watched; that part of the loss change is not allocated (see the attribute jumps).",
                    LCAWarning,
                    stacklevel=2,
                )
            self.jumps += 1
        self._last = None
        return self._theta.read()
