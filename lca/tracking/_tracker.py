"""`TrackerBase`: what every tracker of a training run offers, and the options that it takes."""

import warnings
import weakref
from collections.abc import Collection, Mapping
from dataclasses import replace
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar, Self, Unpack

from lca.allocation import Estimator
from lca.arrays import Vector, array_ops
from lca.errors import LCAError, LCAWarning
from lca.objective import Objective
from lca.row import CheckedWindow
from lca.summary import Summary
from lca.tables import HasTable, Table
from lca.tracking._call import Call
from lca.tracking._clock import StepClock
from lca.tracking._follower import LiveTheta, RunFollower
from lca.tracking._forecast import Forecast, Run, forecast
from lca.tracking._options import Options
from lca.tracking._pending import StepFields
from lca.tracking._session import Session
from lca.tracking._spans import AnyFollower, SpanFollower

_IN_USE: "weakref.WeakSet[TrackerBase]" = weakref.WeakSet()


class TrackerBase(HasTable):
    """Allocates the loss change of each update that a training loop makes inside a ``with`` block.

    A step is one update, from θ before it to θ after it. It is measured before the loop goes on, and the
    measurement changes nothing that training depends on.

    Parameters
    ----------
    objective
        The measured loss, or several by name; a single one is called ``train``.
    estimator
        How a step is allocated; default `lca.Adaptive`.
    every
        Measure every n-th step (default: every step), or those for which ``every(index)`` is true. The sums
        are then over these steps only; for totals of a whole run at a lower cost use ``span``.
    views
        Makes the view of one measured loss from its layout (a function, or a `ViewsByName`), or a list of
        these: `views` then has a list of views for each loss. They are beside the `summary`. The default is
        the `lca.summary.RunViews` of each loss and of each term of a `lca.Sum` that the summary is made of.
    on_error
        ``"warn"`` (default): an error in measuring ends the measuring with a warning, and training goes on.
        ``"raise"``: it is raised.
    record
        A `lca.Record`, or the path of a new one, to which every measured step is written. It is closed when
        the ``with`` block ends; its attribute ``complete`` is true if that was without an error.
    progress
        Show a bar with steps, rate and residual so far, and one line with a forecast of the cost when
        training begins; the number of updates that the run makes, without those before it, instead of
        ``True``, gives the time left as well. Callbacks know that number themselves. Default: nothing is
        shown.
    log_to
        A `lca.live.Logger`, or a list of them, that gets the numbers of each measured step: `lca.live.CSV`,
        `lca.live.TensorBoard`, `lca.live.WandB`, `lca.live.MLflow`. They are closed when the ``with`` block
        ends, also by an error.
    span
        Measure the straight line from θ_t to θ_{t+span} as one step, in place of the updates between. Its
        allocation is that of the line, which is exact as that of any step, adds up to the loss change of all
        updates, and does not see the path between; a summary tells how far its layers are from those of the
        updates (``path_difference``), measured on the 1st, 2nd, 4th, 8th, ... and every 64th line. Steps are
        then counted in lines.
    check_every
        How often a sampled estimator is checked: the measured loss at the start of the first and at the end
        of the last step, and after every n-th one, or after 16, 32, 64, ... (``"doubling"``, the default),
        for one forward pass over the data each. A summary holds its change, ``checked_change``, beside the
        sum of the allocations, and a sum outside its interval is a warning. ``None``: no check.
    check_examples
        Make the check on this many of the examples, the same ones each time, instead of all; their sampling
        error is part of the interval.
    groups
        Named groups of tensors, whose sums a summary holds under ``per_group`` and a record under
        ``settings["groups"]`` (`lca.analysis.group_totals`): a regular expression on the names, a list of
        names, or a function of a name, as in `lca.divisions.divisions`; with a framework also a type of
        module (all tensors inside it), and ``"param_groups"``, the groups of the optimizer (PyTorch), which
        are a division of their own. Tensors in no group are in ``"other"``.
    heads
        The number of heads of the attention layers, whose sums a summary holds under ``per_head``: rows of
        the query, key and value projections, columns of the output projection. A `lca.layout.Heads` also has
        the names of the projections, where they are unusual. All other entries are in ``"other"``.
    """

    _advice: ClassVar[Mapping[str, str]] = {}
    """How the loop supplies a field of `lca.Step`, by field; appended to the error if it is missing."""
    _by_hand: ClassVar[str] = ""
    """How the loop tells of changes that no optimizer makes, to end a message with."""
    _supplied: ClassVar[Collection[str] | None] = None
    """The fields of `lca.Step` that the loop can supply; ``None``: all."""
    _call: Call | None = None
    """The call that makes the run, if it is known; without it only `close` tells that the run is over."""

    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None,
        **options: Unpack[Options],
    ) -> None:
        self._session = Session(objective, estimator, advice=self._advice, supplied=self._supplied, **options)
        self._entered = self._active = False
        self._follower: AnyFollower

    @property
    def steps(self) -> int:
        """Number of updates made, measured or not: the index of the next step.

        Those of before the run are counted too, if a record is continued, or training is resumed by a
        trainer that knows their number. With ``span``: number of updates seen in this run.
        """
        return self._follower.steps

    @property
    def discontinuities(self) -> int:
        """Number of measured steps that did not start where the step before them had ended.

        Something other than the tracked updates changed the parameters in between. That part of the loss
        change is allocated to no step; a summary reports it as ``unmeasured_change``.
        """
        return self._follower.discontinuities

    @property
    def skipped_steps(self) -> int:
        """Number of steps that were to be measured but lacked a field that the estimator requires.

        The last step of a run, and a step before a discontinuity, lack the fields of a next step. An update
        from the batches left over at the end of an epoch may lack micro-batches that earlier updates had.
        Always 0 for estimators without ``required_fields``.
        """
        return self._session.skips.number

    @property
    def views(self) -> Mapping[str, Any]:
        """The view of each measured loss, by name; a list of views if ``views`` was a list."""
        return self._session.views

    @property
    def checked_windows(self) -> Mapping[str, list[CheckedWindow]]:
        """The self-checks of a sampled estimator that have ended, by measured loss."""
        return self._session.checked_windows

    @property
    def error(self) -> Exception | None:
        """The error that ended the measuring, or ``None``."""
        return self._session.error

    def estimate(self, steps: int | None = None, *, step_seconds: float | None = None) -> Forecast:
        """What measuring will cost, with this estimator and with others; takes about a second.

        The time of a gradient is measured on the objective, at θ as it is, by a few gradients that move
        nothing of the training. The number of gradients is the one that each estimator declares, so the cost
        of `lca.Adaptive` is the least that it may be. The work of an estimator and of the tracker on vectors
        is timed on steps whose gradients cost nothing; what the loop does to supply fields such as
        micro-batches is estimated from that. As soon as two steps have been measured, the time that they took
        replaces these estimates for this estimator; the time for splitting a batch is then part of training.
        With ``span`` the updates of the lines that are compared with their updates are counted.

        Parameters
        ----------
        steps
            The number of updates of the run; default: that of ``progress``.
        step_seconds
            The time of a step of training without measuring. Default: the median of the steps seen; before
            the second step there is none, and no factors are given. On a device that computes while Python
            goes on, the steps seen are too short if the loop does not wait for the device.

        Returns
        -------
        Forecast
            Prints as a table; `Forecast.rows` has the numbers.

        Raises
        ------
        LCAError
            If a number is not positive.
        """
        session, clock = self._session, self._clock
        steps = session.live.updates if steps is None else steps
        fraction = session.measured_fraction(steps)
        step_seconds = clock.training_seconds if step_seconds is None else step_seconds
        run = Run(session.estimator, fraction, steps, step_seconds, check_every=session.check_every)
        run = replace(run, span=session.span, apart=session.fraction_apart(steps))
        if clock.steps * fraction >= 1:
            run = replace(run, measuring_seconds=clock.measuring_seconds(run.compared_updates))
        with clock.stopped():
            run = replace(run, reading_seconds=self._reading_seconds())
            return forecast(session.objectives, self._theta_now(), run)

    def add_metrics(self, values: Mapping[str, float]) -> None:
        """Give numbers of the training, such as an accuracy, to the record of the run.

        They are written with the steps, into its attribute ``metrics``, with the number of updates made so
        far, and its page shows them (`lca.Record.add_metrics`). Callbacks pass on what the trainer logs.

        Raises
        ------
        LCAError
            If the run has ended; if a value is not a number, as ``on_error`` says.

        Examples
        --------
        >>> # tracker.add_metrics({"validation accuracy": correct / count})
        """
        if self._entered and not self._active:
            raise LCAError("the run has ended; call add_metrics inside the `with` block of the tracker.")
        with self._session.guarded(self.steps):
            self._session.add_metrics(self.steps, values)

    def expect(self, updates: int) -> None:
        """Set the number of updates of the run: for the time left in ``progress``, and as default of
        `estimate`.

        Updates before this run, in a record that is continued or by a trainer that resumes, do not count.
        """
        self._session.live.expect(updates)

    def _follow_trainer(self, updates: int) -> None:
        """The trainer resumes training by itself and made ``updates`` updates before this run.

        It does not count lines of ``span`` updates.
        """
        if isinstance(self._follower, RunFollower):
            self._follower.made = updates

    def summary(self) -> Summary:
        """`lca.summary.summarize` of each measured loss and of each term of a `lca.Sum`, by name.

        A term is named after the loss and itself, as in ``train/penalty``. The key ``skipped_steps`` is there
        if steps were skipped.

        Raises
        ------
        LCAError
            If no step was measured.
        """
        if not self._entered:
            raise LCAError("this tracker was never entered; put the training loop inside `with tracker:`.")
        return self._session.summary()

    def table(self) -> Table:
        """The table of `summary`; ``to_frame()``, ``to_latex()`` and ``to_csv(path)`` write it."""
        return self.summary().table()

    def close(self, *, complete: bool = True) -> None:
        """Stop tracking, as the end of the ``with`` block does; a record is marked ``complete`` or not."""
        self._call = None
        _IN_USE.discard(self)
        if not self._entered:
            self._session.close(complete=False)
        if not self._active:
            return
        self._active = False
        self._detach()
        try:
            if complete and not self._session.failed:
                with self._session.guarded(self.steps):
                    self._check_run()
            if complete:
                self._follower.settle()
        except LCAError:
            complete = False
            raise
        finally:
            self._follower.end(complete=complete)

    def __enter__(self) -> Self:
        if self._active:
            raise LCAError("this tracker is already in use; make another one for another run.")
        for tracker in [one for one in _IN_USE if one._is_over()]:
            tracker._abandon()
        self._entered = True
        with self._session.begins():
            with self._session.guarded(self.steps):
                self._session.describe(*self._description())
            self._follower.begin()
            self._attach()
        self._active = True
        _IN_USE.add(self)
        try:
            self._session.live.begin(self._session.first_step)
            if self._session.live.shows_progress:
                with self._session.guarded(self.steps):
                    self._session.live.announce(self.estimate().line)
        except BaseException:
            self.close(complete=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def _is_over(self) -> bool:
        """Whether the call that makes the run has ended, though the tracker was not closed."""
        return self._call is not None and self._call.is_over

    def _abandon(self) -> None:
        """Close a tracker whose run has ended without a word; its record is released also if that fails."""
        try:
            self.close(complete=False)
        except Exception as error:  # of an objective or a logger of any kind
            warnings.warn(
                f"an earlier run, which ended with an error, could not be closed: {type(error).__name__}: "
                f"{error}",
                LCAWarning,
                stacklevel=3,
            )
        finally:
            self._session.release_record()

    def _follow(self, theta: LiveTheta, step_fields: StepFields) -> None:
        """Begin with the parameters ``theta``; a subclass calls it once, in its constructor."""
        self._session.written_by(self)
        self._session.by_hand = self._by_hand
        self._live_copy, self._clock = theta.copy, StepClock()
        one = self._session.span == 1
        self._follower = (
            RunFollower(self._session, theta, step_fields, self._clock)
            if one
            else SpanFollower(self._session, theta, self._clock)
        )

    def _theta_now(self) -> Vector:
        """A new vector (K,) with θ as it is now."""
        return self._live_copy()

    def _reading_seconds(self) -> float:
        """About the time in which a measured step reads the model: θ three times, its state twice."""
        for _ in range(2):  # the first one sets up
            begin = perf_counter()
            for _ in range(3):
                theta = self._theta_now()
            array_ops(theta).total(theta)  # on a device: the work has ended
            self._session.state()
            self._session.state()
        return perf_counter() - begin

    def _description(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the run, and what is known of the model, for a record."""
        return {}, {}

    def _attach(self) -> None:
        """Begin to listen to updates."""

    def _detach(self) -> None:
        """Stop listening to updates and restore what was changed to listen."""

    def _check_run(self) -> None:
        """Raise `LCAError` if updates of the run, which has just ended without an error, were missed."""


def check_arguments(order: str, arguments: Mapping[str, tuple[object, bool]], objective: object) -> None:
    """Raise `LCAError` if arguments have the wrong type, as when they come in the wrong order.

    Parameters
    ----------
    order
        The right order and types, for the message.
    arguments
        By name: what was passed, and whether it has the right type.
    objective
        What was passed as the objective.
    """
    measured = objective.values() if isinstance(objective, Mapping) else [objective]
    wrong = [o for o in measured if isinstance(o, type) or not isinstance(o, Objective)]
    if wrong:
        arguments = {**arguments, "objective": (wrong[0], False)}
    for name, (argument, right) in arguments.items():
        if not right:
            raise LCAError(
                f"the {name} is of type {type(argument).__name__}; the order is {order}, and an Objective or "
                "several by name."
            )
