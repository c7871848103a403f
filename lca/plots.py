"""Figures of a run, one function each, from plain arrays.

Every function draws into ``ax``, or into a new figure of 6 x 4 inches, and returns the Axes
(``ax.figure.savefig(...)`` writes it). Figures are built without pyplot: no global state, no display.
Losses and allocations are in units of the loss; negative allocations helped. Colours are those of Okabe
and Ito, which stay apart for colour-blind readers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lca.errors import LCAError
from lca.extras import extra

with extra("report"):
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7"
GREY = "0.55"
HELPED, HURT = BLUE, VERMILION


def plot_loss(loss: np.ndarray, rebuilt: np.ndarray, *, name: str = "loss", ax: Axes | None = None) -> Axes:
    """The measured loss against the loss rebuilt from its allocation; their difference below.

    Parameters
    ----------
    loss, rebuilt
        L(θ_t) and ``L(θ_0) + Σ_{s<t} Σ_i A_{s,i}`` for t = 0 ... T, shape (T + 1,).
    name
        What the loss is called on the axis.
    """
    ax = _axes(ax)
    ax.plot(loss, color=SKY, linewidth=4, label="measured")
    ax.plot(rebuilt, color="black", linewidth=1, label="rebuilt from LCA")
    ax.set_ylabel(name)
    ax.set_ylim(bottom=min(0.0, float(np.min(loss))))
    ax.legend(frameon=False)
    ax.tick_params(labelbottom=False)
    below = _split_off_below(ax)
    below.axhline(0, color=GREY, linewidth=0.8)
    below.plot(loss - np.asarray(rebuilt), color="black", linewidth=1)
    below.set_ylabel("residual\nso far")
    _step_axis(below)
    below.yaxis.set_major_locator(MaxNLocator(3))
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    return ax


def plot_cumulative(rows: np.ndarray, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Cumulative allocation of each group over time: ``Σ_{s<t} A_{s,g}``.

    Parameters
    ----------
    rows
        Allocation of each step to each group, shape (T, groups): `lca.views.GroupTotals.rows`.
    names
        One a group.
    """
    ax = _axes(ax)
    sums = np.cumsum(np.vstack([np.zeros(len(names)), rows]), axis=0)
    ax.axhline(0, color=GREY, linewidth=0.8)
    for name, color, line in zip(names, _colors(len(names)), sums.T, strict=True):
        ax.plot(line, color=color, linewidth=1.6, label=name)
    _step_axis(ax)
    ax.set_ylabel("cumulative LCA in units of the loss\n(negative = helped)")
    ax.legend(frameon=False, ncols=1 + len(names) // 8)
    return ax


def plot_totals(
    names: Sequence[str], train: np.ndarray, heldout: np.ndarray | None = None, *, ax: Axes | None = None
) -> Axes:
    """Total allocation of each group over the run, for the training and the held-out loss.

    Parameters
    ----------
    names
        One a group.
    train, heldout
        Totals, shape (groups,).
    """
    ax = _axes(ax)
    both = heldout is not None
    place, height = np.arange(len(names)), 0.38 if both else 0.6
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.barh(place - both * height / 2, train, height, color=BLUE, label="training loss")
    if heldout is not None:
        ax.barh(place + height / 2, heldout, height, color=ORANGE, label="held-out loss")
        ax.legend(frameon=False)
    ax.set_yticks(place, names)
    ax.invert_yaxis()  # the first layer on top
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("LCA summed over the run, in units of the loss (negative = helped)")
    return ax


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
    ax = _axes(ax)
    steps = np.arange(len(helping))
    window = window or max(1, len(helping) // 20)
    ax.axhline(50, color=GREY, linewidth=0.8, linestyle="--")
    ax.plot(steps, helping, ".", color=SKY, markersize=3, label="helping, % of A ≠ 0")
    ax.plot(
        steps,
        _moving_average(helping, window),
        color=BLUE,
        linewidth=1.8,
        label=f"moving mean, {window} steps",
    )
    ax.plot(steps, zero, color=ORANGE, linewidth=1.4, label="exactly zero, % of all")
    ax.set_ylim(0, 100)
    _step_axis(ax)
    ax.set_ylabel("% of parameters")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="small")
    return ax


def plot_histogram(
    edges: np.ndarray, helping: np.ndarray, hurting: np.ndarray, *, note: str = "", ax: Axes | None = None
) -> Axes:
    """How large single allocations are: counts by |A|, helping and hurting apart, both axes logarithmic.

    Parameters
    ----------
    edges, helping, hurting
        Bin edges (bins + 1,) and counts (bins,): the attributes of `lca.views.LogHistogram`.
    note
        Put into the corner, e.g. what lies outside the bins.
    """
    ax = _axes(ax)
    filled = np.flatnonzero(helping + hurting)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(None)
    edges = edges[shown.start : None if shown.stop is None else shown.stop + 1]
    for counts, color, label in ((helping, HELPED, "helped (A < 0)"), (hurting, HURT, "hurt (A > 0)")):
        ax.stairs(counts[shown], edges, color=color, linewidth=1.4, label=label)
    ax.set_ylim(0.7, 2 * max(1, *helping, *hurting))  # below 1: one entry still shows as a bar
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("|A| of one parameter in one step, in units of the loss")
    ax.set_ylabel("number in each bin (parameters × steps)")
    ax.legend(frameon=False, title=note, alignment="left")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        ax = Figure(figsize=(6, 4), dpi=150, layout="constrained").subplots()
    return _plain(ax)


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
    return ax


def _step_axis(ax: Axes) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _split_off_below(ax: Axes) -> Axes:
    """Give the lower quarter of the place of ``ax`` to a new Axes with the same steps."""
    place = ax.get_subplotspec()
    if place is None:
        raise LCAError("this figure needs an Axes in a grid, from figure.subplots() or add_subplot().")
    halves = place.subgridspec(2, 1, height_ratios=(3, 1))
    ax.set_subplotspec(halves[0])
    return _plain(ax.figure.add_subplot(halves[1], sharex=ax))


def _colors(count: int) -> list[Any]:
    """Okabe and Ito's for a few lines; for many, shades in the order of depth."""
    few = [BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY]
    return few[:count] if count <= len(few) else list(colormaps["viridis"](np.linspace(0, 0.92, count)))


def _moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over ``window`` steps, of what there is at both ends and where there is no value."""
    has = ~np.isnan(values)
    kernel = np.ones(min(window, len(values)))
    count = np.convolve(has, kernel, mode="same")
    total = np.convolve(np.where(has, values, 0.0), kernel, mode="same")
    average = np.full(len(values), np.nan)
    np.divide(total, count, out=average, where=count > 0)
    return average
