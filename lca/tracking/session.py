"""`Session`: decides which steps of a run are measured, handles errors, and passes the allocations on."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from lca.allocation import Estimator, start_each
from lca.errors import IncompleteStepError, LCAError, LCAWarning, UnknownNameError
from lca.estimators import Adaptive
from lca.estimators.stochastic import required_fields_of
from lca.layout import Layout, check_same_layout
from lca.objective import Objective, State, Sum, state_of
from lca.record import Record
from lca.row import Row, rows_of
from lca.step import Step
from lca.summary import RunViews, summarize
from lca.views import View
from lca.views.view import show

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
    """Raise `LCAError` unless these are options of a `Session`."""
    if on_error not in get_args(OnError):
        raise UnknownNameError("on_error", on_error, get_args(OnError))
    if not callable(every) and (not isinstance(every, int) or every < 1):
        raise LCAError(f"every must be a positive integer or a function of the step, got {every!r}.")


class Session:
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
        ``"raise"``: it is raised. A step that lacks what earlier ones had (`skipped_steps`) is no error.
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
    skipped_steps
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
        self.required_fields = required_fields_of(estimator)
        self._every = every
        self._on_error = on_error
        self.skipped_steps = 0
        self._measured, self._warned = False, False
        self._layouts = {name: measured.layout for name, measured in self.objectives.items()}
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
            found = self._allocate(step)
        except IncompleteStepError as error:
            if not self._measured:
                raise
            if not self._warned:
                warnings.warn(f"left out, as all like it will be: {error}", LCAWarning, stacklevel=2)
            self._warned = True
            self.skipped_steps += 1
            return
        self._measured = True
        rows: dict[str, Row] = {}
        for name, allocation in found.items():
            rows |= rows_of({name: allocation}, self._layouts[name])
        for name, row in rows.items():
            if name in self.views:
                show(self.views[name], row)
        if self._record is not None:
            self._record.write(rows)

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

        A term is called by the loss and its own name: ``train/penalty``. ``skipped_steps`` is there if there
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
            if self.skipped_steps:
                summaries[name]["skipped_steps"] = self.skipped_steps
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
