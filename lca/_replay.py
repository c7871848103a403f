"""`Replay`: evaluates a loss again where it was measured before, to see whether anything but θ moves it."""

from typing import TYPE_CHECKING

from lca.arrays import array_ops
from lca.errors import NonDeterministicError
from lca.objective import Objective, at_state, evaluate, leaves, what_changed
from lca.step import Step
from lca.tolerances import conservation, repeat

if TYPE_CHECKING:
    from lca.allocation import StepAllocation

LONGEST = 64
"""Largest number of steps between two regular replays."""
JUMP = 4.0
"""A residual of this many times the largest recent one, relative to the mass, has a cause to look for."""
DECAY = 0.98
"""The factor by which the largest recent residual shrinks at each step."""


class Replay:
    """Checks that a loss is a function of θ and its state alone, in the course of a run.

    What is computed at the end of a step is reused at the start of the next one. If something else that the
    loss reads has changed in between (a weight of a penalty, a flag, another model), the step would be
    allocated between two different losses. So the loss is evaluated again at the start of a step that

    - did not converge, or left a residual that is 4 times the largest recent one (relative to the mass); or
    - is the 2nd, 4th, 8th, ... of the run, and later every 64th.

    An objective that measures a copy of what the user has may offer ``refresh()``, which makes the copy anew,
    and returns in words what has changed unseen since the last one; that is an error, too (`refuse_unseen`;
    a tracker asks once more when its run ends).

    Cost: one forward pass a replay; the regular ones take 0.5 % of a gradient a step. Differences within
    rounding at the largest loss of the run so far are allowed.

    Parameters
    ----------
    objective
        The measured loss.
    name
        What the loss is called, for messages; may be empty.
    """

    def __init__(self, objective: Objective, name: str = "") -> None:
        self._objective, self._which = objective, f" {name!r}" if name else ""
        self._left = self._interval = 2
        self._largest_loss = 0.0
        self._recent: float | None = None  # the largest |residual| / mass

    def check(self, step: Step, a: "StepAllocation") -> None:
        """Replay the start of a step if that is due.

        Raises
        ------
        NonDeterministicError
            If the loss differs from the one by which the step was allocated.
        """
        if a.sampled or a.loss_start != a.loss_start:
            return  # no loss was measured
        self._largest_loss = max(self._largest_loss, abs(a.loss_start), abs(a.loss_end))
        regular, suspicious = self._is_due(), self._is_suspicious(step, a)
        if regular or suspicious:
            self._replay(step, a.loss_start)

    def _is_due(self) -> bool:
        self._left -= 1
        if self._left:
            return False
        self._left, self._interval = self._interval, min(2 * self._interval, LONGEST)
        return True

    def _is_suspicious(self, step: Step, a: "StepAllocation") -> bool:
        residual = abs(a.residual)
        jumped = self._recent is not None and residual > JUMP * self._recent * a.mass
        self._recent = max(DECAY * (self._recent or 0.0), residual / a.mass if a.mass else 0.0)
        rounding = conservation(a.mass, self._largest_loss, array_ops(step.start).eps(step.start))
        return residual > rounding and (jumped or not a.converged)

    def _replay(self, step: Step, before: float) -> None:
        refuse_unseen(self._objective, f"step {step.index}: the loss{self._which}")
        objective = at_state(self._objective, step.state[0] if step.state else None)
        allowed = repeat(self._largest_loss, array_ops(step.start).eps(step.start))
        if abs(objective.loss(step.start) - before) <= allowed:
            return
        now = evaluate(objective, step.start).loss  # some models round differently without a gradient
        if abs(now - before) > allowed:
            raise self._error(step, before, now)

    def _error(self, step: Step, before: float, now: float) -> NonDeterministicError:
        known = what_changed(self._objective)
        cause = f": {known}" if known else ""
        return NonDeterministicError(
            f"step {step.index}: the loss{self._which} at the start of the step was {before:.9g} when it was "
            f"measured and is {now:.9g} now, at the same parameters and in the same state. Something else "
            f"that the loss reads has changed it by {now - before:+.3g}{cause}. Make that a buffer or "
            "parameter of the model, or a variable that the objective sees as state "
            "(lca.objective.Stateful); or make objective and tracker anew when it changes."
        )


def refuse_unseen(objective: Objective, which: str) -> None:
    """Let the parts of an objective be copied anew, and raise if that shows a change that nothing else shows.

    Parameters
    ----------
    objective
        The measured loss; parts without ``refresh()`` measure the user's own objects.
    which
        Begins the message.

    Raises
    ------
    NonDeterministicError
        If one has changed.
    """
    unseen = "; ".join(text for own in leaves(objective) if (text := getattr(own, "refresh", str)()))
    if unseen:
        raise NonDeterministicError(
            f"{which} has changed through something that is neither θ nor state: {unseen}. Steps since the "
            "last such test may have been measured with the loss as it was before. Make that a buffer or "
            "parameter of the model, or a plain attribute of it; or make objective and tracker anew when it "
            "changes."
        )
