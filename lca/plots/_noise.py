"""Single parameters: how many are helping, how large their allocations are, and one of them over time."""

from typing import Unpack

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_finite
from lca.analysis._oscillation import mean_gradient
from lca.analysis._weibull import WeibullFit
from lca.errors import LCAError
from lca.plots._canvas import (
    GREY,
    HELPING,
    LCA_LABEL,
    SIGNS,
    Style,
    add_panels_below,
    check_equal_length,
    colors_of,
    draw_zero_line,
    labels_of,
    legend_above,
    new_axes,
    set_limits,
    set_step_axis,
    steps_of,
)

with extra("report"):
    from matplotlib.axes import Axes


def plot_helping(
    helping: np.ndarray, zero: np.ndarray, *, window: int | None = None, **style: Unpack[Style]
) -> Axes:
    """Draw the percentage of helping parameters in each step with its moving average, and that of zeros.

    Parameters
    ----------
    helping
        ``100 · #(A < 0) / #(A ≠ 0)`` of each step, shape (T,), from `lca.views.Signs.helping_percent`. NaN
        leaves a gap.
    zero
        ``100 · #(A = 0) / #A`` of each step, shape (T,), from `lca.views.Signs.zero_percent`.
    window
        The number of steps in the moving average; T / 20 by default.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        That of ``style``, or of the new figure.

    Raises
    ------
    LCAError
        If the arrays are not one-dimensional and of equal length.

    Examples
    --------
    >>> ax = plot_helping(np.array([60.0, 55.0, 58.0]), np.array([5.0, 6.0, 4.0]), window=3)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['helping, % of A ≠ 0', 'moving average of 3 steps', 'zero, % of all']
    """
    helping, zero = check_equal_length("helping % and zero %", helping, zero)
    ax = new_axes(style, title="Helping parameters in each step")
    steps = steps_of(style, len(helping))[:-1]
    window = window or max(1, len(helping) // 20)
    ax.axhline(50, color=GREY, linewidth=0.8, linestyle="--")
    unit = "step" if window == 1 else "steps"
    shown = ["helping, % of A ≠ 0", f"moving average of {window} {unit}", "zero, % of all"]
    colors = colors_of(style, {"helping": HELPING, "average": HELPING, "zero": GREY})
    dots, line, zeros = labels_of(style, [*colors], shown)
    ax.plot(steps, helping, ".", color=colors["helping"], alpha=0.4, markersize=3, label=dots)
    average = _moving_average(helping, window)
    ax.plot(steps, average, color=colors["average"], linewidth=1.8, label=line)
    ax.plot(steps, zero, color=colors["zero"], linewidth=1.4, label=zeros)
    ax.set_ylim(0, 100)
    set_limits(ax, style)
    set_step_axis(ax, style)
    ax.set_ylabel("% of parameters")
    legend_above(ax)
    return ax


def plot_histogram(
    edges: np.ndarray,
    helping: np.ndarray,
    hurting: np.ndarray,
    *,
    fit: WeibullFit | None = None,
    note: str = "",
    **style: Unpack[Style],
) -> Axes:
    """Draw the histograms of |A| of helping and of hurting entries, on logarithmic axes.

    Parameters
    ----------
    edges
        Bin edges of |A| in units of the loss, shape (bins + 1,).
    helping, hurting
        Counts of the entries with A < 0 and A > 0 over the run, shape (bins,): attributes of
        `lca.views.LogHistogram`, or the counts from `lca.analysis.histogram_counts` summed over the steps.
    fit
        A Weibull distribution fitted to all entries (`lca.analysis.fit_weibull_histogram`), drawn as expected
        counts.
    note
        A title for the legend, e.g. the number of entries outside the bins.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        That of ``style``, or of the new figure.

    Raises
    ------
    LCAError
        If the shapes do not match.

    Examples
    --------
    >>> edges = np.array([1e-3, 1e-2, 1e-1, 1.0])
    >>> ax = plot_histogram(edges, np.array([5, 9, 2]), np.array([4, 6, 1]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['helping (A < 0)', 'hurting (A > 0)']
    """
    what = "the counts (sum them over the steps with .sum(axis=0))"
    helping, hurting = check_equal_length(what, helping, hurting)
    if len(edges) != len(helping) + 1:
        raise LCAError(f"{len(helping)} bins need {len(helping) + 1} edges, got {len(edges)}.")
    ax = new_axes(style, title="Distribution of single allocations")
    filled = np.flatnonzero(helping + hurting)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(None)
    within, edges = edges[[0, -1]], edges[shown.start : None if shown.stop is None else shown.stop + 1]
    colors = colors_of(style, {**SIGNS, "fit": "black"})
    fitted = "" if fit is None else f"Weibull fit to both, k = {fit.shape:.2f}"
    *labels, fitted = labels_of(style, [*colors], ["helping (A < 0)", "hurting (A > 0)", fitted])
    for counts, color, label in zip((helping, hurting), colors.values(), labels, strict=False):
        ax.stairs(counts[shown], edges, color=color, linewidth=1.4, label=label)
    if fit is not None:
        drawn, all_bins = (np.diff(-np.exp(-((at / fit.scale) ** fit.shape))) for at in (edges, within))
        expected = fit.count * drawn / all_bins  # given that an entry lies within the bins, as fitted
        ax.stairs(expected, edges, color=colors["fit"], linewidth=1, linestyle="--", label=fitted)
    ax.set_ylim(0.7, 3 * max(1, *helping, *hurting))  # below 1, so that a single entry is visible
    ax.set_xscale("log")
    ax.set_yscale("log")
    set_limits(ax, style)
    ax.set_xlabel("|A| of one parameter in one step, in units of the loss")
    ax.set_ylabel("count per bin (parameters × steps)")
    ax.legend(frameon=False, title=note, alignment="left", loc="upper left")
    return ax


def plot_parameter(
    theta: np.ndarray,
    movement: np.ndarray,
    values: np.ndarray,
    *,
    name: str = "",
    **style: Unpack[Style],
) -> Axes:
    """Draw one parameter over time: its weight, its mean gradient along each step, and its allocation.

    A bar below 0 is a helping step. The mean gradient is ``A / Δ``, and has a gap where the parameter did not
    move.

    Parameters
    ----------
    theta, movement, values
        θ_t, Δ_t and A_t, shape (T,): one column of each variable of `lca.analysis.traced_parameters`.
    name
        The name of the parameter, for the title.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        The top one of three panels.

    Raises
    ------
    LCAError
        If the arrays are not one-dimensional and of equal length, or ``ax`` does not lie in a grid.
    NonFiniteError
        If an entry is not finite.

    Examples
    --------
    >>> theta, movement = np.array([1.0, 1.5, 1.25]), np.array([0.5, -0.25, 0.5])
    >>> ax = plot_parameter(theta, movement, np.array([-0.25, 0.125, -0.25]), name="fc.weight[0, 0]")
    >>> ax.get_title()
    'One parameter during training: fc.weight[0, 0]'
    """
    what = "theta, movement and values"
    theta, movement, values = (check_finite(part, what, ndim=1) for part in (theta, movement, values))
    theta, movement, values = check_equal_length(what, theta, movement, values)
    ax = new_axes(style, title=f"One parameter during training{name and ': '}{name}", size=(6, 5))
    gradient, allocation = add_panels_below(ax, (1, 1, 1), style)
    colors = colors_of(style, SIGNS)
    weight, slope, *signs = labels_of(style, ["weight", "mean gradient", *colors])
    steps = steps_of(style, len(values))[:-1]
    ax.plot(steps, theta, color="black", linewidth=1.2)
    ax.set_ylabel(weight)
    draw_zero_line(gradient)
    gradient.plot(steps, mean_gradient(values, movement), color=GREY, linewidth=0.9)
    gradient.set_ylabel(slope)
    draw_zero_line(allocation)
    for sign, color, label in zip((-1, 1), colors.values(), signs, strict=True):
        chosen = np.sign(values) == sign
        allocation.vlines(steps[chosen], 0, values[chosen], color=color, linewidth=1, label=label)
    allocation.set_ylabel(LCA_LABEL, fontsize="small")
    set_limits(allocation, style)
    allocation.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95))
    for panel in (gradient, allocation):
        panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return ax


def _moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred average over ``window`` steps, ignoring NaN and the steps beyond both ends."""
    valid = ~np.isnan(values)
    kernel = np.ones(min(window, len(values)))
    count = np.convolve(valid, kernel, mode="same")
    total = np.convolve(np.where(valid, values, 0.0), kernel, mode="same")
    average = np.full(len(values), np.nan)
    np.divide(total, count, out=average, where=count > 0)
    return average
