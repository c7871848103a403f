"""`Misses`: how much of the loss change of a run the allocations miss, said when the run ends."""

import warnings
from collections import defaultdict
from collections.abc import Mapping

from lca._verdict import LARGE_MISS, missed_part
from lca.allocation import StepAllocation
from lca.errors import LCAWarning


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
                warnings.warn(
                    f"the allocations of {name!r} miss {miss.part:.0%} of its change ({miss.residual:+.4g} "
                    f"of {miss.change:+.4g}; largest residual of a step {miss.largest:.4g}): "
                    f"{miss.unconverged} of {miss.steps} steps did not meet their tolerance. Either the "
                    "gradient is not that of the loss (straight-through estimators, detached parts, "
                    "quantisation), or the steps are too large: allow more gradients with "
                    "Adaptive(max_gradients=...); or the loss is computed in a low precision, as under "
                    "autocast, whose rounding errors are of this size.",
                    LCAWarning,
                    stacklevel=2,
                )


class _Miss:
    """Of one loss."""

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
