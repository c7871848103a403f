"""Whether a run adds up, how closely, and whether it diverged: the rules of the report and of `lca demo`."""

import math
from collections.abc import Iterable

SMALL_MISS = 0.01
"""The largest part of the loss change that allocations may miss and still add up; the paper reports < 1 %."""
LARGE_MISS = 0.1
"""From here on, the layers' shares of the loss change are unreliable."""
FIRST_JUDGED = 16
"""Checked steps before a sampled sum without error bars is judged."""
OUTSIDE = 0.3
"""A whole run that misses a larger part of the loss change is judged by its 95 % interval, not by 99.9 %."""
FAR, SETTLED = 0.05, 128
"""The part of the loss change that a sum without error bars may miss, from this number of steps on."""
DIVERGED = 10.0
"""A run diverged if its loss ended more than this many times |start| above its start."""


def missed_part(change: float, residual: float, max_step_residual: float) -> float:
    """The part of the loss change that the allocations miss, in the sum or in one step, whichever is larger.

    >>> missed_part(-2.0, 0.01, 0.5)
    0.25
    """
    miss = max(abs(residual), abs(max_step_residual))
    if math.isnan(miss) or math.isnan(change):
        return math.nan
    return miss / abs(change) if change else math.inf * miss if miss else 0.0


def largest_margin(margins: Iterable[float]) -> float:
    """The margin of a sum over windows is at most this, as neighbouring windows share a sample.

    >>> largest_margin([3.0, 4.0]) == 5 * math.sqrt(2)
    True
    """
    return math.sqrt(2) * math.hypot(*margins)


def wide_interval(margin: float, change: float) -> str:
    """What a wide interval of a sampled sum means, and what to do, in words; empty if it is not wide.

    Parameters
    ----------
    margin
        Half the 95 % interval of the sum; NaN: none is known.
    change
        The measured change of the loss.

    Examples
    --------
    >>> wide_interval(1.5, -2.0)
    'The 95 % interval is wide, ± 75 % of the change, so the parts of layers are uncertain, too: samples of \
four times the size halve it, and lca.Adaptive has no sampling error.'
    >>> wide_interval(0.2, -2.0), wide_interval(math.nan, -2.0)
    ('', '')
    """
    if not margin > LARGE_MISS * abs(change):
        return ""
    many = margin > 10 * abs(change)
    width = "more than ten times the change" if many else f"{100 * margin / abs(change):.0f} % of the change"
    return (
        f"The 95 % interval is wide, ± {width}, so the parts of layers are uncertain, too: samples of "
        "four times the size halve it, and lca.Adaptive has no sampling error."
    )


def sampling_limit(steps: int, largest: float, noise: float, *, has_bars: bool) -> float:
    """The largest miss of a sampled sum that its sampling explains; a tracker warns of a larger one.

    Parameters
    ----------
    steps
        The number of checked steps.
    largest
        The largest change of the measured loss so far, from the first checked step on.
    noise
        Half the 99.9 % interval of the miss as far as it is known: without error bars that of the loss alone.
    has_bars
        Whether the estimator gives error bars. If not, its noise is not known, except that it falls with the
        number of steps; that of a few steps may be anything.

    Examples
    --------
    >>> sampling_limit(4, 1.0, 0.2, has_bars=True), sampling_limit(4, 1.0, 0.0, has_bars=False)
    (0.2, inf)
    >>> sampling_limit(32, 1.0, 0.0, has_bars=False), sampling_limit(1000, 1.0, 0.0, has_bars=False)
    (0.1, 0.05)
    """
    if has_bars:
        return max(noise, SMALL_MISS * largest)
    if steps < FIRST_JUDGED:
        return math.inf
    return FAR * max(1.0, math.sqrt(SETTLED / steps)) * largest + noise


def noise_at_end(noise: float, margin: float, largest: float) -> float:
    """The ``noise`` that a `sampling_limit` takes once the run is over, when there is one check and not many.

    Error bars know nothing of the error of the rule, which a large miss outside the 95 % interval points to,
    unless the interval is wider than the change itself.

    Parameters
    ----------
    noise, largest
        As in `sampling_limit`.
    margin
        Half the 95 % interval of the sum; NaN without error bars.

    Examples
    --------
    >>> noise_at_end(0.5, 0.4, 1.0), noise_at_end(0.5, 0.1, 1.0), noise_at_end(0.2, math.nan, 1.0)
    (0.4, 0.3, 0.2)
    >>> noise_at_end(0.5, 0.3, 0.2)  # a change within its noise: nothing but the noise is seen
    0.5
    """
    # Also where no margin is known.
    return min(noise, max(margin, OUTSIDE * largest)) if margin < largest else noise


def has_diverged(start: float, end: float) -> bool:
    """Whether a loss that went from ``start`` to ``end`` diverged; a loss that is not measured did not.

    >>> has_diverged(2.3, 1e5), has_diverged(2.3, 2.5), has_diverged(2.3, float("inf"))
    (True, False, True)
    """
    if math.isnan(start) or math.isnan(end):
        return False
    return math.isinf(end) or end - start > DIVERGED * abs(start) > 0
