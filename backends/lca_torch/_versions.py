"""`Versions`: replicas of a model whose Python side changes during a run, the last two of them."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from lca._schedules import doubles
from lca.errors import LCAError
from lca.objective import State
from lca_torch._replica import Replica

PATIENCE = 3
"""Changes of one variable without effect after which only every 4th, 8th, 16th, ... change is looked at."""
CONFIGURATION = "configuration"
"""The name of the version in a state."""


class _Clock:
    """Counts the changes of all models, so that the losses of one run share one entry of the state."""

    now = 0
    entry = np.zeros(1, dtype=np.int64)

    @classmethod
    def tick(cls) -> None:
        cls.now += 1
        cls.entry = np.array([cls.now])


class Versions:
    """The present replica of the model and the one before it, for steps that began before a change.

    When a Python variable of the model or the loss has changed, a new replica is made, and the loss of both
    is compared: if it is the same, the variable does not matter, and the version stays.

    Parameters
    ----------
    replicate
        Makes a replica of the model as it is now.
    """

    def __init__(self, replicate: Callable[[], Replica]) -> None:
        self._replicate = replicate
        self._kept = [(_Clock.now, replicate())]
        self._inert: Counter[str] = Counter()
        self.last_change = ""
        """The last change, in words."""

    @property
    def current(self) -> Replica:
        """The model as it was when it was last looked at."""
        return self._kept[-1][1]

    def of(self, state: State) -> Replica:
        """The replica that a state belongs to.

        Raises
        ------
        LCAError
            If it is gone.
        """
        entry = state.get(CONFIGURATION, _Clock.entry)
        if entry is _Clock.entry:  # as at nearly every evaluation
            return self.current
        number = int(entry[0])
        for since, replica in reversed(self._kept):
            if since <= number:
                return replica
        raise LCAError(
            f"the model or the loss has changed twice since this state was read ({self.last_change}); a "
            "step can be measured only if it changes at most once during the step."
        )

    def state(self) -> Mapping[str, np.ndarray]:
        """The version as an entry of the state."""
        return {CONFIGURATION: _Clock.entry}

    def follow(self, same: Callable[[Replica, Replica], bool]) -> None:
        """Look for changes; ``same`` says whether two replicas have the same loss."""
        changes = self.current.configuration.changes()
        if not changes:
            return
        self.last_change = "; ".join(list(changes.values())[:3])
        if not any(self._is_due(path) for path in changes):
            self._inert.update(changes.keys())
            return
        made = self._replicate()
        if same(self.current, made):
            self._inert.update(changes.keys())
        else:
            for path in changes:
                del self._inert[path]
            _Clock.tick()
            self._kept = [self._kept[-1], (_Clock.now, made)]
            return
        self._kept[-1] = self._kept[-1][0], made

    def refresh(self, same: Callable[[Replica, Replica], bool]) -> str:
        """Replace the current replica by one made now; what differs, in words, if their losses do."""
        known = self.current.configuration.moved  # `follow` will see that
        made = self._replicate()
        if same(self.current, made):
            self._kept[-1] = self._kept[-1][0], made
            return ""
        if known:
            return ""
        return f"last seen: {self.last_change}" if self.last_change else "an object that the loss reads"

    def _is_due(self, path: str) -> bool:
        seen = self._inert[path] + 1
        return seen <= PATIENCE or doubles(seen)
