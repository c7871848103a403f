"""`CheckpointLines`: between which checkpoints the steps of a replay run."""

from typing import Any

from lca.step import Step


class CheckpointLines:
    """The numbers of the checkpoints of a replay, as far as a summary needs them.

    >>> import numpy as np
    >>> lines, theta = CheckpointLines(), np.zeros(1)
    >>> for ends in ((0, 100), (100, 500)):
    ...     lines.add(Step(theta, theta, checkpoints=ends))
    >>> lines.summary()
    {'checkpoints': {'first': 0, 'last': 500, 'largest_gap': 400}}
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, step: Step) -> None:
        """A measured step, which may be one of a replay."""
        if step.checkpoints is None:
            return
        first, last = step.checkpoints
        gap = max(self._numbers.get("largest_gap", 0), last - first)
        self._numbers = {"first": self._numbers.get("first", first), "last": last, "largest_gap": gap}

    def summary(self) -> dict[str, Any]:
        """The entry ``checkpoints`` of a summary; empty for a run that is not a replay."""
        return {"checkpoints": dict(self._numbers)} if self._numbers else {}
