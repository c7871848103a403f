"""The conservation check: do the allocations add up to the change of the loss?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lca._verdict import LARGE_MISS, SMALL_MISS, has_diverged, missed_part, sampling_limit, wide_interval
from lca.analysis import checked_windows
from lca.analysis._checks import noise_of
from lca.row import CheckedWindow
from lca.runs._format import format_number, format_percent
from lca.runs._run import Run
from lca.tolerances import EPS32, summed

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Conservation:
    """The conservation check of one measured loss; sums over the measured steps, in units of the loss.

    ``change = allocated + state_change + residual`` and ``end - start = change + unmeasured_change``. All
    losses are NaN if the estimator does not measure them.

    Attributes
    ----------
    loss
        The name of the measured loss.
    start, end
        The loss before the first step and at the end of the run.
    change
        The sum of the loss changes of the measured steps.
    unmeasured_change
        The loss change between the end of each measured step and the start of the next one, and from the end
        of the last one to the end of the run.
    allocated, state_change, residual
        The sums of the allocations, of the changes by buffers, and of the residuals.
    max_step_residual
        The largest |residual| of one step.
    steps, unconverged_steps, inconsistent_steps, unmeasured_steps, estimated_steps
        The numbers of steps: all; above their tolerance, by the record or by their residual; with numbers in
        the record that contradict each other; with a loss or an allocation that is not a finite number; and
        those of them that are estimates, which measure no loss.
    has_tolerance, largest_tolerance
        Whether the estimator set a tolerance for every step, and the largest one (NaN: not every step has
        one).
    rounding
        The largest residual that rounding explains.
    checked_steps, checked_change, checked_allocated, checked_margin, checked_limit
        For a sampled estimator: the number of steps in the windows of its self-check, the loss change over
        them, the sum of their allocations, half its 95 % interval (NaN without error bars), and the largest
        difference of the two that sampling explains, of which a tracker does not warn yet (infinite: too
        few steps to tell).
    checked_on
        The examples on which that loss change was measured, in words; empty: all data.
    discontinuities, discontinuity_change
        The number of consecutive steps between which the loss changed, and the sum of these changes, which
        is part of ``unmeasured_change``.
    """

    loss: str
    start: float
    end: float
    change: float
    unmeasured_change: float
    allocated: float
    state_change: float
    residual: float
    max_step_residual: float
    steps: int
    unconverged_steps: int
    has_tolerance: bool
    largest_tolerance: float
    inconsistent_steps: int
    unmeasured_steps: int
    estimated_steps: int
    rounding: float
    discontinuities: int
    discontinuity_change: float
    checked_steps: int
    checked_change: float
    checked_allocated: float
    checked_margin: float
    checked_limit: float
    checked_on: str

    @property
    def has_losses(self) -> bool:
        """Whether the estimator measured losses, so that there is something to check against."""
        return self.unmeasured_steps < self.steps

    @property
    def missed_part(self) -> float:
        """The part of the loss change that the allocations miss by more than rounding (`lca._verdict`)."""
        if self._is_rounding():
            return 0.0
        return missed_part(self.change, self.residual, self.max_step_residual)

    @property
    def diverged(self) -> bool:
        """Whether the loss diverged."""
        return has_diverged(self.start, self.end)

    @property
    def failure(self) -> str:
        """Why the numbers of the run cannot be used; empty if they can."""
        if self.diverged:
            return "the run diverged."
        tone, said = self.verdict()
        return said if tone == "bad" else ""

    def verdict(self) -> tuple[Tone, str]:
        """The result of the check in one sentence, computed from the figures of the record."""
        return self._not_checked() or self._checked()

    def _not_checked(self) -> tuple[Tone, str] | None:
        if self.inconsistent_steps:
            return "bad", (
                f"The record is inconsistent in {self.inconsistent_steps} of {self.steps} steps: the layers "
                "do not sum to the total, or the total, the state change and the residual do not sum to the "
                "change of the loss."
            )
        estimates = self.unmeasured_steps == self.estimated_steps > 0  # some steps, or all
        if self.checked_steps and (estimates or not self.has_losses):
            return self._self_checked()
        if not self.has_losses:
            return "warn", (
                "Not checked: this estimator does not measure the loss, so the sum of the allocations is an "
                "estimate."
            )
        if estimates:
            return "warn", (
                f"Not checked: {self.estimated_steps} of {self.steps} steps are estimates from batches or "
                "samples, which measure no loss."
            )
        if self.unmeasured_steps:
            return "bad", (
                f"Not checked: the loss, the allocation or the residual of {self.unmeasured_steps} of "
                f"{self.steps} steps is not a finite number."
            )
        return None

    def sampling_text(self) -> str:
        """What is known of the error of a sampled estimator, to follow the words that say so."""
        if self.has_losses:
            return ""
        if not self.checked_steps:
            return ", which were not checked against the measured loss"
        miss = abs(self.checked_allocated - self.checked_change)
        part = format_percent(100 * miss / abs(self.checked_change)) if self.checked_change else ""
        of_change = f" ({part} of it)" if part else ""
        return (
            f"; over the {self.checked_steps} checked steps they differ from the measured change by "
            f"{format_number(miss)}{of_change}"
        )

    def _self_checked(self) -> tuple[Tone, str]:
        """For a sampled estimator: its sum against the loss change that was measured beside it."""
        miss, change = abs(self.checked_allocated - self.checked_change), abs(self.checked_change)
        part = miss / change if change else math.inf * miss if miss else 0.0
        barless = math.isnan(self.checked_margin)
        inside, near = miss <= self.checked_margin, part <= SMALL_MISS
        wide = wide_interval(self.checked_margin, self.checked_change)
        wrong = miss > self.checked_limit and part > LARGE_MISS
        tone: Tone = "bad" if wrong else "good" if (inside or near) and not wide else "warn"
        if barless:
            interval = (
                " (no error bars" + ", and too few steps to judge it" * math.isinf(self.checked_limit) + ")"
            )
        else:
            where = "inside the" if inside else "small, though outside the" if near else "outside the"
            interval = f", {where} 95 % interval of ± {format_number(self.checked_margin)}"
        return tone, (
            f"An estimate from samples: over {self.checked_steps} of {self.steps} measured steps the "
            f"allocations sum to {format_number(self.checked_allocated, '+')}, and the measured loss changed "
            f"by {format_number(self.checked_change, '+')}{self.checked_on and f' on {self.checked_on}'}, a "
            f"difference of {format_percent(100 * part)}{interval}.{wide and ' '}{wide}"
        )

    def _checked(self) -> tuple[Tone, str]:
        missed = self.missed_part
        if missed > LARGE_MISS:
            return "bad", f"The allocations do not add up: {self._met_text()}{self._residual_text()}."
        if self.unconverged_steps:
            return "warn", f"{self._met_text()}{self._residual_text()}."
        if missed > SMALL_MISS:
            return "warn", f"The allocations add up only roughly: {self._residual_text()}."
        if self.has_tolerance:
            return (
                "good",
                f"The parts add up: {self._residual_text()}, and every step met its tolerance.",
            )
        return "warn", f"The estimator set no tolerance; {self._residual_text()}."

    def _met_text(self) -> str:
        if not self.unconverged_steps:
            return ""
        return f"{self.unconverged_steps} of {self.steps} steps exceeded their tolerance; "

    def _is_rounding(self) -> bool:
        return max(abs(self.residual), self.max_step_residual) <= self.rounding

    def _residual_text(self) -> str:
        largest = ""
        if self.max_step_residual > max(abs(self.residual), self.rounding):
            largest = f", and that of one step up to {self._in_percent(self.max_step_residual)}"
        return f"the residual (what the allocations miss) is {self._in_percent(self.residual)}{largest}"

    def _in_percent(self, residual: float) -> str:
        if self.change == 0:
            return f"{format_number(residual)}, and the loss did not change"
        return f"{format_percent(100 * abs(residual / self.change))} of the loss change"


def check_conservation(run: Run, loss: str) -> Conservation:
    """Check one measured loss."""
    start, end, total, state_change, residual = (
        run.per_step(name, loss) for name in ("loss_start", "loss_end", "total", "state_change", "residual")
    )
    tolerance, mass = run.per_step("tolerance", loss), run.per_step("mass", loss)
    finite = np.isfinite([start, end, total, state_change, residual]).all(axis=0)
    sampled = run.per_step("sampled", loss) if run.has("sampled") else np.zeros_like(finite)
    exceeded = ~run.per_step("converged", loss) | (np.abs(residual) > tolerance)
    scale = float((np.fmax(mass, 0) + np.abs(start) + np.abs(end)).sum())
    gaps, discontinuous = start[1:] - end[:-1], _discontinuous(run, loss)
    final = run.final_loss(loss)
    windows, margin = checked_windows(run.record, loss) if run.has("checked_change") else ([], math.nan)
    checked_steps = sum(window.last_step - window.first_step + 1 for window in windows)
    largest = max(np.abs(np.cumsum([window.change for window in windows])), default=0.0)
    noise, has_bars = noise_of(run.record, loss, margin), not math.isnan(margin)
    return Conservation(
        loss=loss,
        start=float(start[0]),
        end=final,
        change=float((end - start).sum()),
        unmeasured_change=float(gaps.sum()) + (final - float(end[-1])),
        allocated=float(total.sum()),
        state_change=float(np.where(np.isnan(end - start), np.nan, state_change).sum()),
        residual=float(residual.sum()),
        max_step_residual=float(np.abs(residual).max()),
        steps=len(total),
        unconverged_steps=int(np.count_nonzero(exceeded)),
        unmeasured_steps=int(np.count_nonzero(~finite)),
        estimated_steps=int(np.count_nonzero(~finite & np.isfinite(total) & sampled)),
        has_tolerance=bool(np.isfinite(tolerance).all()),
        largest_tolerance=float(tolerance.max()),
        rounding=summed(scale, EPS32),
        inconsistent_steps=int(np.count_nonzero(_inconsistent(run, loss))),
        discontinuities=int(np.count_nonzero(discontinuous)),
        discontinuity_change=float(gaps[discontinuous].sum()),
        checked_steps=checked_steps,
        checked_change=sum(window.change for window in windows),
        checked_allocated=sum(window.total for window in windows),
        checked_margin=margin,
        checked_limit=sampling_limit(checked_steps, float(largest), noise, has_bars=has_bars),
        checked_on=_examples_of(windows),
    )


def _examples_of(windows: Sequence[CheckedWindow]) -> str:
    """The examples on which the change over windows was measured; a continued run may have several numbers.

    >>> from dataclasses import replace
    >>> window = CheckedWindow(0, 15, change=-1.0, total=-0.75, margin=0.5, examples=20)
    >>> _examples_of([window]), _examples_of([window, replace(window, examples=None)])
    ('20 examples', '20 examples and all data')
    """
    numbers = sorted({window.examples for window in windows if window.examples is not None})
    if not numbers:
        return ""
    rest = " and all data" if any(window.examples is None for window in windows) else ""
    return f"{' and '.join(f'{number:,}' for number in numbers)} examples{rest}"


def _inconsistent(run: Run, loss: str) -> np.ndarray:
    """The steps whose layers do not sum to the total, or whose parts do not sum to the loss change; (T,).

    Differences up to rounding are accepted: that of float64 sums, and for the residual that of allocations
    computed in float32. A record does not state the dtype of the run, so float32 is assumed.
    """
    start, end, total, state_change, residual, mass = (
        run.per_step(name, loss)
        for name in ("loss_start", "loss_end", "total", "state_change", "residual", "mass")
    )
    layers = run.layer_totals(loss)
    scale = np.fmax(mass, np.abs(layers).sum(axis=1))
    layers_miss = np.abs(layers.sum(axis=1) - total) > summed(scale, EPS32)
    gap = np.abs(end - start - state_change - total - residual)
    return np.asarray(layers_miss | (gap > summed(scale + np.abs(start) + np.abs(end), EPS32)))


def _discontinuous(run: Run, loss: str) -> np.ndarray:
    """Where the loss changed by more than rounding between two consecutive steps; (T - 1,)."""
    start, end, mass = (run.per_step(name, loss) for name in ("loss_start", "loss_end", "mass"))
    gap = np.abs(start[1:] - end[:-1])
    rounding = summed(np.fmax(mass[1:], 0) + np.abs(start[1:]) + np.abs(end[:-1]), EPS32)
    return np.asarray((gap > rounding) & (run.ends[:-1] == run.steps[1:]))
