"""`StateMoves`: the steps in which a state moves, and parameters that are part of it."""

import warnings
from collections.abc import Iterable

from lca._state import same
from lca.errors import LCAWarning
from lca.step import Step, _moves_state


class StateMoves:
    """Counts the steps in which the state moves, and warns if parameters that are not in θ do.

    Parameters
    ----------
    measured
        Whether the estimator measures ``state_change``.

    Attributes
    ----------
    left_out
        The names of the parameters of the model that are not in θ.
    steps
        The number of steps in which the state moved.
    """

    def __init__(self, *, measured: bool) -> None:
        self._measured = measured
        self.left_out: Iterable[str] = ()
        self.steps = 0

    def add(self, step: Step) -> None:
        """Look at a measured step."""
        if not _moves_state(step):
            return
        assert step.state is not None
        self.steps += 1
        before, after = step.previous_state or step.state[0], step.state[1]
        known = sorted(before.keys() & after.keys() & set(self.left_out))
        moved = [name for name in known if not same(before[name], after[name])]
        if moved:
            self.left_out = ()  # told once
            more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
            unknown = "" if self._measured else ", which this estimator does not measure"
            warnings.warn(
                f"{', '.join(moved[:3])}{more} moved in step {step.index}: parameters of the model that are "
                "not in θ, as frozen='omit' left them out. What they change in the loss is allocated to no "
                f"tensor, but is part of state_change{unknown}. Where they train later, make the objective "
                "with frozen='zero', or a new objective and tracker from that step on.",
                LCAWarning,
                stacklevel=2,
            )
