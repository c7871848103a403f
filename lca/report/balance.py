"""Does the allocation add up? The first thing a report says."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lca.report.run import Run, number
from lca.tolerances import EPS32, summed

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Balance:
    """The books of one measured loss over the measured steps; sums in units of the loss.

    ``change = allocated + state_change + residual`` and ``end - start = change + between``; NaN where the
    estimator measures no losses. ``discontinuities`` counts neighbouring steps of which the second does not begin with
    the loss that the first ended with, and ``jumped`` is the part of ``between`` that these are.
    """

    loss: str
    start: float
    end: float
    change: float
    between: float
    allocated: float
    state_change: float
    residual: float
    worst_residual: float
    steps: int
    unconverged: int
    promised: bool
    broken: int
    discontinuities: int
    jumped: float

    @property
    def measured(self) -> bool:
        """Whether there are losses to compare the sum with."""
        return not np.isnan(self.change)

    def verdict(self) -> tuple[Tone, str]:
        """Whether it adds up, in one sentence."""
        if self.broken:
            return "bad", (
                f"The record contradicts itself in {self.broken} of {self.steps} steps: the parts do not sum "
                "to the total, or the total and the residual not to the change of the loss."
            )
        if not self.measured:
            return "warn", "Not checked: this estimator does not measure the loss, so the sum is an estimate."
        if self.unconverged:
            return "warn", (
                f"{self.unconverged} of {self.steps} steps missed their tolerance; the sum misses "
                f"{self._share()} of the change."
            )
        if self.promised:
            return "good", f"Every step met its tolerance; the sum misses {self._share()} of the change."
        return "warn", f"No tolerance was promised; the sum misses {self._share()} of the change."

    def _share(self) -> str:
        if self.change == 0:
            return number(self.residual)
        return f"{100 * abs(self.residual / self.change):.2g} %"


def balance(run: Run, loss: str) -> Balance:
    """The books of one measured loss."""
    start, end, total, state, residual = (
        run.scalar(name, loss) for name in ("loss_start", "loss_end", "total", "state_change", "residual")
    )
    gaps, jumps = start[1:] - end[:-1], _jumps(run, loss)
    return Balance(
        loss=loss,
        start=float(start[0]),
        end=float(end[-1]),
        change=float((end - start).sum()),
        between=float(gaps.sum()),
        allocated=float(total.sum()),
        state_change=float(state.sum()),
        residual=float(residual.sum()),
        worst_residual=float(np.abs(residual).max()),
        steps=len(total),
        unconverged=int(np.count_nonzero(~run.scalar("converged", loss))),
        promised=bool(np.isfinite(run.scalar("tolerance", loss)).all()),
        broken=int(np.count_nonzero(_broken(run, loss))),
        discontinuities=int(np.count_nonzero(jumps)),
        jumped=float(gaps[jumps].sum()),
    )


def _broken(run: Run, loss: str) -> np.ndarray:
    """Steps whose layers do not sum to the total, or whose total and residual miss the loss change; (T,).

    Only rounding may come between them: of float64 sums, and, in the residual, of allocations that were made
    in float32. A record does not say its dtype, so float32 is assumed.
    """
    start, end, total, state, residual, mass = (
        run.scalar(name, loss)
        for name in ("loss_start", "loss_end", "total", "state_change", "residual", "mass")
    )
    rows = run.rows(loss)
    scale = np.fmax(mass, np.abs(rows).sum(axis=1))
    parts = np.abs(rows.sum(axis=1) - total) > summed(scale, EPS32)
    gap = np.abs(end - start - state - total - residual)
    return np.asarray(parts | (gap > summed(scale + np.abs(start) + np.abs(end), EPS32)))


def _jumps(run: Run, loss: str) -> np.ndarray:
    """Whether the loss moved, by more than rounding, between two neighbouring steps; (T - 1,)."""
    start, end, mass = (run.scalar(name, loss) for name in ("loss_start", "loss_end", "mass"))
    gap = np.abs(start[1:] - end[:-1])
    rounding = summed(np.fmax(mass[1:], 0) + np.abs(start[1:]) + np.abs(end[:-1]), EPS32)
    return np.asarray((gap > rounding) & (np.diff(run.steps) == 1))
