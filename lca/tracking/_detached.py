"""`DetachedMoves`: warns of tensors that move without training, and of which the loss has no gradient."""

import warnings
from collections.abc import Mapping

from lca._listing import listed
from lca._schedules import thins_out
from lca.errors import LCAWarning
from lca.estimators._path import Moved
from lca.objective import Objective, differentiated_by
from lca.row import Row
from lca.step import Step

OMIT = "pass frozen='omit' to the objective, so that they are state and not in θ"
"""What to do about tensors that follow others."""


class DetachedMoves:
    """Looks at some of the steps for a move whose effect on the loss no gradient shows.

    A teacher that follows the model moves within a step if a callback moves it before the end of the step is
    read. Where its outputs are detached the gradient is 0, and so is its allocation, but the loss changes.

    Parameters
    ----------
    objectives
        The measured losses by name.
    """

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        self._objectives = dict(objectives)
        self._moved = {name: Moved(own) for name, own in objectives.items()}
        self._steps = 0

    def add(self, step: Step, rows: Mapping[str, Row]) -> None:
        """Look at a measured step, now and then; warn of the first such move."""
        self._steps += 1
        if not thins_out(self._steps):
            return
        for name, objective in self._objectives.items():
            trained = differentiated_by(objective)
            if len(trained) == len(objective.layout.names):
                continue
            totals = zip(objective.layout.names, rows[name].totals("tensor").tolist(), strict=True)
            allocated = {tensor for tensor, total in totals if total}
            found = self._moved[name].beyond(trained | allocated, step)
            if found:
                self._objectives = {}
                warnings.warn(
                    f"{listed(sorted(found))} moved in step {step.index} without being trained, and the "
                    f"loss {name!r} has no gradient of them: what that changes in the loss is allocated to "
                    f"no tensor. If they follow others, as in a momentum encoder or mean teacher, {OMIT}.",
                    LCAWarning,
                    stacklevel=3,
                )
                return
