"""`Openings`: adds what moved the state between two updates to the loss change of the later step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, isnan
from typing import TYPE_CHECKING

from lca.arrays import array_ops
from lca.errors import NonFiniteError
from lca.objective import Objective, State, at_state, evaluate
from lca.step import Step

if TYPE_CHECKING:
    from lca.allocation import StepAllocation


@dataclass(frozen=True, eq=False)
class _Closed:
    """Where the step before ended: a snapshot of θ, the state, the loss and its terms."""

    theta: object
    state: State
    loss: float
    terms: Mapping[str, float]

    def is_start_of(self, step: Step) -> bool:
        """Whether the loss at θ_t in `Step.previous_state` is the one that is known here."""
        return self.state is step.previous_state and array_ops(step.start).unchanged(self.theta, step.start)


class Openings:
    """Adds to each allocation what moved the state between the step before and this update.

    That is ``L(θ_t)`` in ``state[0]`` minus ``L(θ_t)`` in `Step.previous_state`, a part of ``state_change``.
    The second loss is known if the step before was measured and ended there; otherwise it costs a forward
    pass.

    Parameters
    ----------
    objective
        The measured loss of one run.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._last: _Closed | None = None

    def __call__(self, step: Step, a: "StepAllocation") -> "StepAllocation":
        """``a``, which begins in ``state[0]``, with the change before it."""
        last, self._last = self._last, None
        if step.state is None or a.sampled or isnan(a.loss_start):
            return a  # there is no state, or no loss was measured
        before = step.previous_state
        if before is not None and before is not step.state[0]:
            if last is not None and last.is_start_of(step):
                loss, terms = last.loss, last.terms
            else:
                loss, terms = self._measured(step, before)
                a = replace(a, cost=replace(a.cost, full_losses=a.cost.full_losses + 1))
            parts = {name: _opened(part, terms[name]) for name, part in a.terms.items()}
            a = replace(_opened(a, loss), terms=parts)
        ends = {name: part.loss_end for name, part in a.terms.items()}
        self._last = _Closed(array_ops(step.end).snapshot(step.end), step.state[1], a.loss_end, ends)
        return a

    def _measured(self, step: Step, state: State) -> tuple[float, dict[str, float]]:
        found = evaluate(at_state(self._objective, state), step.start, gradient=False)
        if not isfinite(found.loss):
            raise NonFiniteError(
                f"step {step.index}: the loss at the start of the step is {found.loss} in the state in which "
                "the previous step ended. Check what the loop changed between the two updates (data, "
                "buffers, attributes)."
            )
        return found.loss, {name: term.loss for name, term in found.terms.items()}


def _opened(a: "StepAllocation", loss: float) -> "StepAllocation":
    return replace(a, loss_start=loss, state_change=a.state_change + (a.loss_start - loss))
