"""`StateMoves`: counts the steps in which a state moves, and warns where that makes allocations wrong."""

import warnings
from collections.abc import Iterable

from lca._listing import listed
from lca._state import same
from lca.allocation import Estimator
from lca.errors import LCAWarning
from lca.estimators._stochastic import required_fields_of
from lca.objective import State
from lca.step import Step, _moves_state

FEW = 4
"""The number of steps from which on a state may be said to move in most of them."""


class StateMoves:
    """Counts the steps in which the state moves, and warns if parameters that are not in θ do.

    It also warns of an estimator that takes the gradient at the end of a step from the next update, if the
    state moves between half of the steps: that is looked at the 4th, 8th, 16th, ... time.

    Parameters
    ----------
    estimator
        That of the run.

    Attributes
    ----------
    left_out
        The names of the parameters of the model that are not in θ.
    steps
        The number of steps in which the state moved.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._measured = estimator.target == "full"  # state_change
        by_next = any(field.startswith("next_") for field in required_fields_of(estimator))
        self._judge = type(estimator).__name__ if by_next else ""
        self._seen = self._between = 0  # measured steps; those before which the state moved
        self.left_out: Iterable[str] = ()
        self.steps = 0

    def add(self, step: Step) -> None:
        """Look at a measured step."""
        self._seen += 1
        if not _moves_state(step):
            return
        assert step.state is not None
        self.steps += 1
        before, after = step.previous_state or step.state[0], step.state[1]
        self._warn_of_parameters(step.index, before, after)
        if step.previous_state is not None:
            self._between += 1
            self._warn_of_next(step.previous_state, step.state[0])

    def _warn_of_parameters(self, index: int, before: State, after: State) -> None:
        """Warn, once, of parameters that are not in θ and moved."""
        moved = _moved(before, after, self.left_out)
        if moved:
            self.left_out = ()
            unknown = "" if self._measured else ", which this estimator does not measure"
            warnings.warn(
                f"{listed(moved)} moved in step {index}: parameters of the model that are not in θ, as "
                "frozen='omit' left them out. What they change in the loss is allocated to no "
                f"tensor, but is part of state_change{unknown}. Where they train later, make the objective "
                "with frozen='zero', or a new objective and tracker from that step on.",
                LCAWarning,
                stacklevel=3,
            )

    def _warn_of_next(self, before: State, after: State) -> None:
        """Warn, once, of an estimator that takes gradients from the next update, which has another state."""
        often = self._between >= FEW and 2 * self._between >= self._seen
        if not (self._judge and often and self._between & (self._between - 1) == 0):
            return
        moved = _moved(before, after, before.keys())
        if moved:
            warnings.warn(
                f"{listed(moved)}, which the loss depends on, moved before {self._between} of {self._seen} "
                f"measured steps. {self._judge} takes the gradient at the end of a step from the next "
                "update, which is made after the move. That does not matter if such a move changes the loss "
                "little; if it makes it another loss, such as that of another task, allocations are wrong. "
                "SampledPathIntegral and lca.Adaptive measure every step in its own state.",
                LCAWarning,
                stacklevel=4,
            )
            self._judge = ""


def _moved(before: State, after: State, names: Iterable[str]) -> list[str]:
    known = sorted(before.keys() & after.keys() & set(names))
    return [name for name in known if not same(before[name], after[name])]
