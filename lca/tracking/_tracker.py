"""`TrackerBase`: what every tracker of a training run offers, and the options that it takes."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, Self, Unpack

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.objective import Objective
from lca.row import CheckedWindow
from lca.tracking._follower import LiveTheta, RunFollower
from lca.tracking._options import Options
from lca.tracking._pending import StepFields
from lca.tracking._session import Session
from lca.tracking._spans import AnyFollower, SpanFollower


class TrackerBase:
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
        Make the check on so many of the examples, the same ones each time, instead of all; their sampling
        error is part of the interval.
    groups
        Named groups of tensors, whose sums a summary holds under ``per_group`` and a record under
        ``settings["groups"]`` (`lca.analysis.group_totals`): a regular expression on the names, a list of
        names, or a function of a name, as in `lca.divisions.divisions`; with a framework also a type of
        module (all tensors inside it), and ``"param_groups"``, the groups of the optimizer (PyTorch), which
        are a division of their own. Tensors in no group are in ``"other"``.
    heads
        The number of heads of the attention layers, whose sums a summary holds under ``per_head``: rows of
        the query, key and value projections, columns of the output projection. All other entries are in
        ``"other"``.
    """

    _advice: ClassVar[Mapping[str, str]] = {}
    """How the loop supplies a field of `lca.Step`, by field; appended to the error if it is missing."""

    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None,
        **options: Unpack[Options],
    ) -> None:
        self._session = Session(objective, estimator, advice=self._advice, **options)
        self._entered = self._active = False
        self._follower: AnyFollower

    @property
    def steps(self) -> int:
        """Number of updates seen, measured or not."""
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
        return self._session.skipped_steps

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

    def summary(self) -> dict[str, dict[str, Any]]:
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

    def close(self, *, complete: bool = True) -> None:
        """Stop tracking, as the end of the ``with`` block does; a record is marked ``complete`` or not."""
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
        self._entered = True
        self._follower.begin()
        self._attach()
        self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def _follow(self, theta: LiveTheta, step_fields: StepFields) -> None:
        """Begin with the parameters ``theta``; a subclass calls it once, in its constructor."""
        one = self._session.span == 1
        self._follower = (
            RunFollower(self._session, theta, step_fields) if one else SpanFollower(self._session, theta)
        )

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
