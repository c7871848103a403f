"""`CallbackBase`: what the callbacks of training frameworks have in common."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, Unpack

from lca.allocation import Estimator
from lca.errors import LCAError, LCAWarning
from lca.summary import Summary
from lca.tables import HasTable, Table
from lca.tracking._call import Call
from lca.tracking._options import Options, Settings, names_options
from lca.tracking._tracker import TrackerBase

AnyTracker = TypeVar("AnyTracker", bound=TrackerBase)


class CallbackBase(HasTable, Generic[AnyTracker]):
    """Makes a tracker when a run of the framework begins, and keeps its results when the run has ended.

    Parameters
    ----------
    measured
        What is measured; the subclass makes the objective from it when the run begins.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `lca.tracking.TrackerBase`. ``on_error`` also applies to errors when the run begins.

    Attributes
    ----------
    tracker
        The tracker of the last run; ``None`` before the first run, or if measuring could not begin (`error`
        then says why).
    """

    @names_options
    def __init__(
        self,
        measured: Any,
        estimator: Estimator | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._settings = Settings.of(options)
        self._measured, self._estimator, self._options = measured, estimator, options
        self._failure: Exception | None = None
        self.tracker: AnyTracker | None = None

    @property
    def steps(self) -> int:
        """As `lca.tracking.TrackerBase.steps`; 0 before the first run."""
        return 0 if self.tracker is None else self.tracker.steps

    @property
    def discontinuities(self) -> int:
        """As `lca.tracking.TrackerBase.discontinuities`; 0 before the first run."""
        return 0 if self.tracker is None else self.tracker.discontinuities

    @property
    def skipped_steps(self) -> int:
        """As `lca.tracking.TrackerBase.skipped_steps`; 0 before the first run."""
        return 0 if self.tracker is None else self.tracker.skipped_steps

    @property
    def views(self) -> Mapping[str, Any]:
        """The view of each measured loss, by name; empty before the first run."""
        return {} if self.tracker is None else self.tracker.views

    @property
    def error(self) -> Exception | None:
        """The error that ended the measuring or kept it from beginning, or ``None``."""
        return self._failure if self.tracker is None else self.tracker.error

    def summary(self) -> Summary:
        """As `lca.tracking.TrackerBase.summary`, of the last run.

        Raises
        ------
        LCAError
            If no step was measured.
        """
        if self.tracker is None:
            failure = self._failure
            reason = f"{type(failure).__name__}: {failure}" if failure else "no run has begun."
            raise LCAError(f"no step was measured: {reason}")
        return self.tracker.summary()

    def table(self) -> Table:
        """The table of `summary`."""
        return self.summary().table()

    def _add_metrics(self, values: Mapping[str, Any]) -> None:
        """Pass on the numbers among what the framework has logged while the run lasts."""
        if self.tracker is not None and self.tracker._active:
            numbers = {
                name: number for name, value in values.items() if (number := _number(value)) is not None
            }
            self.tracker.add_metrics(numbers)

    def _begin_epoch(self) -> None:
        """A pass over the data of training begins."""
        if self.tracker is not None:
            self.tracker._session.epoch.begin(self.steps)

    def _end_epoch(self) -> None:
        """A pass over the data has ended, if it was one."""
        if self.tracker is not None:
            self.tracker._session.epoch.end(self.steps)

    def _begin(
        self,
        make_tracker: Callable[[], AnyTracker],
        updates: int | None = None,
        made: int = 0,
        call: Call | None = None,
    ) -> None:
        """A run begins: make its tracker and enter it, or handle the error as ``on_error`` says.

        It will make ``updates`` updates, as far as the framework knows, after ``made`` of an earlier part,
        which are not among them. It lasts at most as long as ``call``, if that is known: a framework may not
        tell of an error.
        """
        self._end(complete=False)  # a run that ended without the framework saying so
        self.tracker = self._failure = None
        try:
            tracker = make_tracker()
            if updates is not None and updates > 0:
                tracker.expect(updates)
            tracker._follow_trainer(made)
            tracker._call = call
            tracker.__enter__()
        except Exception as error:
            if self._settings.on_error == "raise":
                raise
            self._failure = error
            warnings.warn(
                f"measuring did not begin, training goes on: {type(error).__name__}: {error}",
                LCAWarning,
                stacklevel=3,
            )
        else:
            self.tracker = tracker

    def _end(self, *, complete: bool = True) -> None:
        """The run is over, with an error unless it is ``complete``."""
        if self.tracker is not None:
            self.tracker.close(complete=complete)


def _number(value: Any) -> float | None:
    """A single number as a float; ``None`` for anything else.

    >>> _number(1), _number("a")
    (1.0, None)
    """
    if isinstance(value, str | bytes | bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
