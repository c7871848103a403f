"""Single parameters: how many help, how large their allocations are, and one of them over time."""

import numpy as np

from lca.analysis.arrays import check_finite
from lca.analysis.oscillation import mean_gradient
from lca.analysis.weibull import WeibullFit
from lca.errors import LCAError
from lca.extras import extra
from lca.plots.canvas import (
    BLUE,
    GREY,
    HELPED,
    HURT,
    LCA_LABEL,
    ORANGE,
    SKY,
    alike,
    new_axes,
    panels_below,
    step_axis,
    zero_line,
)

with extra("report"):
    from matplotlib.axes import Axes


def plot_helping(
    helping: np.ndarray, zero: np.ndarray, *, window: int | None = None, ax: Axes | None = None
) -> Axes:
    """Helping % of every step with its moving average, and the share of exact zeros.

    Parameters
    ----------
    helping, zero
        `lca.views.Signs.helping_percent` and ``zero_percent``, shape (T,); NaN leaves a gap.
    window
        Steps in the moving average; default T / 20.
    """
    helping, zero = alike("helping % and zero %", helping, zero)
    ax = new_axes(ax, title="How many parameters helped at each step")
    steps = np.arange(len(helping))
    window = window or max(1, len(helping) // 20)
    ax.axhline(50, color=GREY, linewidth=0.8, linestyle="--")
    ax.plot(steps, helping, ".", color=SKY, markersize=3, label="helping, % of A ≠ 0")
    mean = _moving_average(helping, window)
    ax.plot(steps, mean, color=BLUE, linewidth=1.8, label=f"moving mean, {window} steps")
    ax.plot(steps, zero, color=ORANGE, linewidth=1.4, label="exactly zero, % of all")
    ax.set_ylim(0, 100)
    step_axis(ax)
    ax.set_ylabel("% of parameters")
    ax.set_title(ax.get_title(), fontsize="medium", pad=22)  # the legend stands between title and data
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="small")
    return ax


def plot_histogram(
    edges: np.ndarray,
    helping: np.ndarray,
    hurting: np.ndarray,
    *,
    fit: WeibullFit | None = None,
    note: str = "",
    ax: Axes | None = None,
) -> Axes:
    """How large single allocations are: counts by |A|, helping and hurting apart, both axes logarithmic.

    Parameters
    ----------
    edges, helping, hurting
        Bin edges (bins + 1,) and counts (bins,): the attributes of `lca.views.LogHistogram`, or what
        `lca.analysis.histogram` reads, summed over the steps.
    fit
        A Weibull distribution fitted to both together (`lca.analysis.fit_weibull_histogram`), drawn as the
        counts it expects.
    note
        Put into the corner, e.g. what lies outside the bins.
    """
    helping, hurting = alike("counts (add them up over the steps: .sum(axis=0))", helping, hurting)
    if len(edges) != len(helping) + 1:
        raise LCAError(f"{len(helping)} bins have {len(helping) + 1} edges, got {len(edges)}.")
    ax = new_axes(ax, title="How large single allocations are")
    filled = np.flatnonzero(helping + hurting)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(None)
    edges = edges[shown.start : None if shown.stop is None else shown.stop + 1]
    for counts, color, label in ((helping, HELPED, "helped (A < 0)"), (hurting, HURT, "hurt (A > 0)")):
        ax.stairs(counts[shown], edges, color=color, linewidth=1.4, label=label)
    if fit is not None:
        expected = fit.count * np.diff(-np.exp(-((edges / fit.scale) ** fit.shape)))
        label = f"Weibull for both, k = {fit.shape:.2f}"
        ax.stairs(expected, edges, color="black", linewidth=1, linestyle="--", label=label)
    ax.set_ylim(0.7, 3 * max(1, *helping, *hurting))  # below 1: one entry still shows as a bar
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("|A| of one parameter in one step, in units of the loss")
    ax.set_ylabel("number in each bin (parameters × steps)")
    ax.legend(frameon=False, title=note, alignment="left", loc="upper left")
    return ax


def plot_parameter(
    theta: np.ndarray, movement: np.ndarray, values: np.ndarray, *, name: str = "", ax: Axes | None = None
) -> Axes:
    """One parameter over time: its weight, the gradient that it met, and what it did for the loss.

    A bar below 0 is a step that helped. The gradient is ``A / Δ``, the mean along the step; it is left out
    where the parameter did not move.

    Parameters
    ----------
    theta, movement, values
        θ_t, Δ_t and A_t, shape (T,): a column each of what `lca.analysis.traced` reads.
    name
        Of the parameter, for the title.

    Returns
    -------
    matplotlib.axes.Axes
        The uppermost of three.
    """
    theta, movement, values = (check_finite(part, "the trace", ndim=1) for part in (theta, movement, values))
    theta, movement, values = alike("weight, movement and allocation", theta, movement, values)
    ax = new_axes(ax, title=f"One parameter during training{name and ': '}{name}", size=(6, 5))
    gradient, allocation = panels_below(ax, (1, 1, 1))
    ax.plot(theta, color="black", linewidth=1.2)
    ax.set_ylabel("weight")
    zero_line(gradient)
    gradient.plot(mean_gradient(values, movement), color=GREY, linewidth=0.9)
    gradient.set_ylabel("mean gradient")
    zero_line(allocation)
    steps = np.arange(len(values))
    for sign, color, label in ((-1, HELPED, "helped"), (1, HURT, "hurt")):
        has = np.sign(values) == sign
        allocation.vlines(steps[has], 0, values[has], color=color, linewidth=1, label=label)
    allocation.set_ylabel(LCA_LABEL, fontsize="small")
    allocation.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95))
    for panel in (gradient, allocation):
        panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return ax


def _moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over ``window`` steps, of what there is at both ends and where there is no value."""
    has = ~np.isnan(values)
    kernel = np.ones(min(window, len(values)))
    count = np.convolve(has, kernel, mode="same")
    total = np.convolve(np.where(has, values, 0.0), kernel, mode="same")
    average = np.full(len(values), np.nan)
    np.divide(total, count, out=average, where=count > 0)
    return average
