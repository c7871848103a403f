"""`RunFollower`: turns the updates of a training run into the steps that a `Session` measures."""

import warnings
from typing import Protocol

from lca.arrays import Vector
from lca.errors import LCAWarning
from lca.objective import State
from lca.step import Step
from lca.tracking.pending import PendingStep, StepFields
from lca.tracking.session import Session


class LiveTheta(Protocol):
    """θ in a model that is being trained, as a framework reads it."""

    def read(self) -> Vector:
        """A copy of θ as it is now."""

    def now(self) -> Vector:
        """θ as it is now, good until the next update; in the model's own memory where that is possible."""

    def kept(self, now: Vector, memory: Vector) -> Vector:
        """What `now` returned, made to last; may overwrite ``memory``, a vector that nobody needs any more.

        The engine recognises it: ``ArrayOps.unchanged`` tells that a step that begins there begins where the
        one that ended with ``now`` had ended.
        """

    def is_at(self, theta: Vector) -> bool:
        """Whether θ is exactly this vector now."""

    def equal(self, a: Vector, b: Vector) -> bool:
        """Whether two tensors hold the same numbers."""


class RunFollower:
    """Follows one training run: told before and after each update, it measures the steps that are wanted.

    Between two steps it holds one vector, θ; while one is measured, what `LiveTheta.now` needs on top. An
    estimator that needs something of the next step (its batch, gradient, parts) gets each step one update
    late, for which the step keeps both its ends.

    Parameters
    ----------
    source
        What the training loop has at hand (`lca.tracking.pending.StepFields`); called between `before` and `after`, by
        `hand_over`.

    Attributes
    ----------
    steps
        Number of updates seen, measured or not; those of a record that is continued count as seen.
    jumps
        Number of measured steps that did not begin where the step before had ended: something else than these
        updates moved the parameters, and that part of the loss change belongs to no step.
    """

    def __init__(self, measurement: Session, theta: LiveTheta, source: StepFields | None = None) -> None:
        self._measurement = measurement
        self._theta = theta
        self._hand_over = PendingStep(measurement.required_fields, source)
        self.steps = measurement.first_step
        self.discontinuities = 0
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
        self._measurement.skipped_steps += 1

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
            if not self.discontinuities:
                warnings.warn(
                    f"parameters changed between steps {index} and {self.steps}, outside the updates that "
                    "are watched; that part of the loss change is not allocated (see the attribute jumps).",
                    LCAWarning,
                    stacklevel=2,
                )
            self.discontinuities += 1
        self._last = None
        return self._theta.read()
