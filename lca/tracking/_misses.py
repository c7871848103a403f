"""`Misses`: how much of the loss change of a run the allocations miss, said when the run ends."""

import warnings
from collections import defaultdict
from collections.abc import Mapping

from lca._verdict import LARGE_MISS, missed_part
from lca.allocation import StepAllocation
from lca.errors import LCAWarning

MANY = 10
"""So many times a change are not counted: the change is close to 0."""


class Misses:
    """Sums up the residuals of a run, and warns of those that its estimator could not remove.

    A run whose steps all met their tolerances gives no warning, nor does an estimator without tolerances: it
    is known by its residual, which every summary shows.
    """

    def __init__(self) -> None:
        self._losses: dict[str, _Miss] = defaultdict(_Miss)

    def update(self, allocations: Mapping[str, StepAllocation]) -> None:
        """Take in the allocations of one step by loss."""
        for name, allocation in allocations.items():
            self._losses[name].update(allocation)

    def warn(self) -> None:
        """Warn of each loss of which steps that did not converge left more than a tenth unallocated."""
        for name, miss in self._losses.items():
            if miss.unconverged and miss.part > LARGE_MISS:
                part = _shown(miss.part)
                warnings.warn(
                    f"the allocations of {name!r} miss {part} of its change ({miss.residual:+.4g} of "
                    f"{miss.change:+.4g}; largest residual of a step {miss.largest:.4g}): {miss.unconverged} "
                    f"of {miss.steps} steps did not meet their tolerance. Either the "
                    "gradient is not that of the loss (straight-through estimators, detached parts, "
                    "quantisation), or the steps are too large: allow more gradients with "
                    "Adaptive(max_gradients=...); or the loss is computed in a low precision, as under "
                    "autocast, whose rounding errors are of this size.",
                    LCAWarning,
                    stacklevel=2,
                )


def _shown(part: float) -> str:
    """A part in per cent; of a change of 0 or nearly so, that it is far more than all.

    >>> _shown(0.25), _shown(float("inf"))
    ('25%', 'many times all')
    """
    return f"{part:.0%}" if part < MANY else "many times all"


class _Miss:
    """The misses of one loss."""

    def __init__(self) -> None:
        self.residual = self.change = self.largest = 0.0
        self.steps = self.unconverged = 0

    @property
    def part(self) -> float:
        return missed_part(self.change, self.residual, self.largest)

    def update(self, a: StepAllocation) -> None:
        self.steps += 1
        self.unconverged += not a.converged
        self.residual += a.residual
        self.change += a.loss_change
        self.largest = max(self.largest, abs(a.residual))
