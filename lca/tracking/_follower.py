"""`RunFollower`: turns the updates of a training run into the steps that a `Session` measures."""

import warnings
from typing import Protocol

import numpy as np

from lca._listing import listed
from lca._state import same_state
from lca.arrays import Vector
from lca.errors import LCAError, LCAWarning
from lca.objective import State
from lca.record._place import Place
from lca.step import Step
from lca.tracking._clock import StepClock
from lca.tracking._detached import OMIT
from lca.tracking._pending import PendingStep, StepFields
from lca.tracking._session import Session

FOLLOWERS = (
    "{names} changed between updates, and no gradient of them is measured: if they follow others, as in a "
    f"momentum encoder, {OMIT}"
)
"""Said where nothing that trains has changed between two updates."""


class LiveTheta(Protocol):
    """Reads θ from a model that is being trained."""

    def copy(self) -> Vector:
        """A new vector with θ as it is now."""

    def borrow(self) -> Vector:
        """θ as it is now, valid until the next update; in the model's own memory where that is possible."""

    def persist(self, borrowed: Vector, memory: Vector) -> Vector:
        """Return a persistent copy of what `borrow` returned; may reuse the buffer ``memory``.

        ``ArrayOps.unchanged`` must recognise the copy by a snapshot of ``borrowed``, so that an estimator
        reuses what it computed at the end of one step at the start of the next.
        """

    def is_at(self, theta: Vector) -> bool:
        """Whether θ equals this vector now."""


class RunFollower:
    """Follows one training run and measures the steps that the session wants.

    The tracker calls `before` and `after` around each update, and `collect_fields` in between, once the
    gradient is available. Between two steps the follower holds one vector, θ; while it measures a step, also
    what `LiveTheta.borrow` returns. If the estimator requires fields of the next step, each step is measured
    one update later, and copies of both its ends are held until then.

    Parameters
    ----------
    session
        Measures the steps.
    theta
        Reads θ.
    step_fields
        Supplies the step fields; called by `collect_fields`.
    clock
        Is paused while something is measured.

    Attributes
    ----------
    steps
        Number of updates made, measured or not, including those before the run of which a record that is
        continued or a trainer that resumes training knows.
    made
        Number of updates that such a trainer has made before the run, or 0.
    discontinuities
        As in `lca.tracking.TrackerBase`.
    """

    def __init__(
        self,
        session: Session,
        theta: LiveTheta,
        step_fields: StepFields | None = None,
        clock: StepClock | None = None,
    ) -> None:
        self._session = session
        self._clock = clock or StepClock()
        self._theta = theta
        self._pending = PendingStep(session.required_fields, step_fields, session.reduced)
        self.steps = session.first_step
        self.made = 0
        self._seen = False  # whether an update has begun
        self.discontinuities = 0
        self._wanted = False
        self._start: Vector | None = None
        self._last: tuple[int, Vector] | None = None
        self._state: State | None = None  # as the last update left it
        self._at_update: State | None = None
        self._begun: Place | None = None

    @property
    def requested(self) -> frozenset[str]:
        """The fields of `lca.Step` to collect from the coming update."""
        return self._pending.requested(measured=self._wanted)

    @property
    def reads_theta(self) -> bool:
        """Whether `before` reads θ at the coming update."""
        return self._wanted or self._pending.step is not None

    @property
    def last_state(self) -> State | None:
        """The state as the last update left it, or as the run found it."""
        return self._state

    def begin(self, state: State | None = None) -> None:
        """The run begins, or continues after `end`; in ``state``, if something may have changed it since."""
        self._seen = False
        self._session.failed = self._session.error is not None
        with self._session.guarded(self.steps):
            self._begun = Place.of(self._theta.borrow())
            if self.made:
                self._session.follow(self.made, self._begun)
                self.made, self.steps = 0, self._session.first_step
        self._look_ahead(state)
        self._clock.resume()

    def before(self, *, after_forward: bool = True) -> None:
        """An update may follow; may be called again if no update was made.

        ``after_forward`` says whether the forward pass of the training batch is over.
        """
        if not self._seen and self._session.error is None:
            with self._session.guarded(self.steps):
                self._session.arrive(self._theta.borrow)
        self._seen = True
        self._start = None
        self._pending.clear()
        if self.reads_theta:
            self._clock.pause()
            with self._session.guarded(self.steps):
                start = self._read_start()
                pending = self._pending.step
                if pending is not None and start is not pending.end:
                    self._end_check()
                    self._skip_pending()
                if self._wanted:
                    self._at_update = self._session.state_at_update(self._state, after_forward=after_forward)
                    self._start = start
            self._clock.resume()

    def collect_fields(self) -> None:
        """The gradient of the update is available, and the update has not been made."""
        if self.requested:
            with self._session.guarded(self.steps):
                self._pending.collect(measured=self._start is not None)

    def after(self, state: State | None = None) -> None:
        """An update was made; ``state`` is that in which it ended, if something may have changed it since."""
        pending = self._pending.step
        measures = pending is not None or self._start is not None
        if measures:
            self._clock.pause()
        try:
            if pending is not None and self._session.error is None:
                with self._session.guarded(pending.index):
                    self._session.measure(self._pending.completed())
            if self._start is not None and self._session.error is None:
                with self._session.guarded(self.steps):
                    self._finish_step(self._start, state)
        finally:
            self._pending.clear()
            self.steps += 1
            self._look_ahead()
            self._clock.lap()
            if measures:
                self._clock.resume()

    def check(self) -> None:
        """Check that the model is still the one that is measured."""
        with self._session.guarded(self.steps):
            self._session.check()

    def moved_unseen(self) -> bool:
        """Whether θ has moved since the last update, or since the run began if no update was seen.

        Then something else updates the model: another optimizer, or the loop itself. False if it is not
        known, as the last update was not measured. Costs one pass over θ.
        """
        if not self._seen:
            now = Place.of(self._theta.borrow())
            return self._begun is not None and not np.array_equal(now.mass, self._begun.mass, equal_nan=True)
        return self._ended_measured and self._last is not None and not self._theta.is_at(self._last[1])

    def settle(self) -> None:
        """The run has ended without an error: account for what moved θ or the state after the last step.

        Raises
        ------
        LCAError
            If θ moved and no update was seen.
        """
        if self._session.failed:
            return
        try:
            self._session.check()
        except Exception as error:  # of an objective of any kind
            warnings.warn(
                f"whether the parameters changed after the last update is not known: {error}",
                LCAWarning,
                stacklevel=2,
            )
            return
        self._session.warn_of_misses()
        with self._session.guarded(self.steps):
            self._session.end_audit(self._theta.borrow)
            self._end_check()
            self._session.warn_of_rest()
            if not self._seen:
                self._check_unmoved()
            elif not self._ended_measured:
                self._session.book_end(self._theta.borrow())
            elif self.moved_unseen() or not same_state(self._session.state(), self._state):
                self._warn_of_end(self._session.book_end(self._theta.borrow()))

    @property
    def _ended_measured(self) -> bool:
        """Whether the last update was measured, or is waiting for its next step."""
        return self._last is not None and self._last[0] == self.steps - 1

    def _check_unmoved(self) -> None:
        if self.moved_unseen():
            raise LCAError(
                "the parameters changed during the run, but no update was seen: another optimizer updates "
                "the model, the loop changes the parameters itself, or the optimizer given is wrapped by "
                "another (such as SAM) that makes the updates itself. Give the tracker the optimizer that "
                f"the training loop calls{self._session.by_hand}."
            )

    def _warn_of_end(self, changes: str) -> None:
        moved = self.moved_unseen()
        if moved or changes:
            what = "the parameters" if moved else "the state that the loss depends on"
            effect = f" ({changes}, a part of unmeasured_change)" if changes else ""
            warnings.warn(
                f"{what} changed after the last update that was seen, step {self.steps - 1}; the resulting "
                f"loss change is not allocated{effect}. Were averaged weights loaded (SWA, EMA), or the "
                "best ones restored? Or does another optimizer update the model, or a wrapper that is not "
                "an optimizer itself (Lookahead)?",
                LCAWarning,
                stacklevel=2,
            )

    def end(self, *, complete: bool = True) -> None:
        """The run is over: release all vectors and close the record, marked ``complete`` or not."""
        if self._pending.step is not None:
            self._skip_pending()
        self._start = self._last = self._state = self._at_update = None
        with self._session.guarded(self.steps):
            self._session.close(complete=complete)

    def _end_check(self) -> None:
        """The steps end where the last measured one did: let the session measure the loss there."""
        if self._pending.step is not None:
            self._session.end_check(self._pending.step.start)
        elif self._last is not None:
            self._session.end_check(self._last[1])

    def _skip_pending(self) -> None:
        self._pending.step = None
        self._session.skips.number += 1

    def _look_ahead(self, state: State | None = None) -> None:
        """Decide, once, whether the next step is measured, and remember the state in which it begins."""
        self._wanted = False
        if self._session.error is not None:
            self._pending.step = None
        with self._session.guarded(self.steps):
            if self._session.wants(self.steps):
                if not self._ended_measured:  # else it was read just now
                    self._remember_state(state)
                self._wanted = True

    def _finish_step(self, start: Vector, now: State | None) -> None:
        """Measure the step from ``start`` to θ, or keep it pending until the next update."""
        previous, before = self._state, self._at_update
        self._state = before
        after = self._remember_state(now)
        state = None if before is None or after is None else (before, after)
        delayed = self._pending.delayed
        end = self._theta.copy() if delayed else self._theta.borrow()
        self._start = self._last = None
        step = Step(
            start,
            end,
            self.steps,
            state=state,
            previous_state=None if previous is before else previous,
            learning_rates=self._session.learning_rates() or None,
            **self._pending.own_fields(),
        )
        if delayed:
            self._pending.step = step
            self._last = (self.steps, end)
        else:
            self._session.measure(step)
            self._last = (self.steps, self._theta.persist(end, start))

    def _remember_state(self, now: State | None = None) -> State | None:
        """The state as it is ``now``; the object remembered before if nothing in it has changed since."""
        now = self._session.state() if now is None else now
        if not same_state(now, self._state):
            self._state = now
        return self._state

    def _read_start(self) -> Vector:
        """θ as it is now; the end of the last step itself if θ has not changed since."""
        self._session.check()
        if self._last is None:
            return self._theta.copy()
        index, end = self._last
        if self._theta.is_at(end):
            return end
        if index == self.steps - 1:
            self._end_check()
            if not self.discontinuities:
                skipped = (
                    f" Step {index} is skipped, as are later steps like it (skipped_steps): the estimator "
                    "requires fields of an update that begins where the step ended."
                )
                followers = self._session.moved_untrained(end, self._theta.borrow())
                which = FOLLOWERS.format(names=listed(followers)) if followers else ""
                self._session.skips.between = which or self._session.skips.between
                span = self._session.span
                apart = "steps" if span == 1 else f"the lines of span={span} with the numbers"
                warnings.warn(
                    f"parameters changed between {apart} {index} and {self.steps}, outside the updates that "
                    "are tracked; that part of the loss change is not allocated (see the attribute "
                    f"discontinuities).{'' if self._pending.step is None else skipped}"
                    f"{which and f' {which}.'}",
                    LCAWarning,
                    stacklevel=2,
                )
            self.discontinuities += 1
        self._last = None
        return self._theta.copy()
