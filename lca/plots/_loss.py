"""The loss and its allocation: conservation, cumulative curves and totals."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_names
from lca.errors import LCAError
from lca.plots._canvas import (
    GREEN,
    GREY,
    LCA_LABEL,
    SIGNS,
    Intervals,
    Style,
    add_panels_below,
    check_equal_length,
    check_grouped,
    check_intervals,
    colors_of,
    cumulative_sums,
    draw_intervals,
    draw_zero_line,
    labels_of,
    legend_above,
    line_colors,
    new_axes,
    set_limits,
    set_step_axis,
    steps_of,
    width_of,
)
from lca.plots._many import (
    colors_of_lines,
    height_of,
    legend_of_lines,
    name_rows,
    width_with_legend,
)

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator


def plot_loss(
    loss: np.ndarray,
    rebuilt: np.ndarray,
    *,
    name: str = "loss",
    intervals: Intervals | None = None,
    **style: Unpack[Style],
) -> Axes:
    """Draw the measured loss and the loss rebuilt from its allocation, with their difference below.

    Parameters
    ----------
    loss
        L(θ_t) for t = 0 ... T, shape (T + 1,).
    rebuilt
        ``L(θ_0) + Σ_{s<t} Σ_i A_{s,i}`` for the same t, shape (T + 1,).
    name
        The name of the loss in the title and on the axis.
    intervals
        Lower and upper ends of the measured loss over runs, each of shape (T + 1,), for a band.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        The upper panel.

    Raises
    ------
    LCAError
        If the arrays are not one-dimensional and of equal length, or ``ax`` does not lie in a grid.

    Examples
    --------
    >>> loss, allocated = np.array([2.0, 1.5, 1.25]), np.array([-0.5, -0.24])
    >>> ax = plot_loss(loss, loss[0] + np.append(0.0, np.cumsum(allocated)))
    >>> [line.get_label() for line in ax.lines]
    ['measured', 'rebuilt from LCA']
    """
    loss, rebuilt = check_equal_length("the loss and the rebuilt loss", loss, rebuilt)
    ax = new_axes(style, title=f"The {name}, measured and rebuilt from its allocation")
    colors = colors_of(style, {"measured": GREEN, "rebuilt from LCA": "black"})
    measured, again = labels_of(style, [*colors])
    at = steps_of(style, len(loss) - 1)
    ax.plot(at, loss, color=colors["measured"], linewidth=4, alpha=0.6, label=measured)
    ax.plot(at, rebuilt, color=colors["rebuilt from LCA"], linewidth=1, label=again)
    if (ends := check_intervals(intervals, loss.shape)) is not None:
        ax.fill_between(at, *ends, color=colors["measured"], alpha=0.2, linewidth=0)
    ax.set_ylabel(name)
    ax.set_ylim(bottom=min(0.0, float(np.min(loss))))
    set_limits(ax, style)
    ax.legend(frameon=False)
    [below] = add_panels_below(ax, (3, 1), style)
    draw_zero_line(below)
    below.plot(at, loss - rebuilt, color="black", linewidth=1)
    below.set_ylabel("cumulative\nresidual")
    below.yaxis.set_major_locator(MaxNLocator(3))
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    return ax


def plot_cumulative(
    allocations: np.ndarray,
    names: Sequence[str],
    *,
    intervals: Intervals | None = None,
    **style: Unpack[Style],
) -> Axes:
    """Draw the cumulative allocation of each group over time, ``Σ_{s<t} A_{s,g}``.

    Parameters
    ----------
    allocations
        The allocation of each step to each group in units of the loss, shape (T, groups): from
        `lca.analysis.group_totals`, or `lca.views.GroupTotals.rows`.
    names
        The names of the groups, one per column.
    intervals
        Lower and upper ends of the cumulative sums over runs, each of shape (T + 1, groups), for bands.
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
    NonFiniteError
        If an allocation is not finite.

    Examples
    --------
    >>> ax = plot_cumulative(np.array([[-1.0, 0.5], [-0.5, -0.25]]), ["fc1", "fc2"])
    >>> ax.lines[1].get_ydata()
    array([ 0. , -1. , -1.5])
    """
    allocations, names = check_grouped(allocations, names)
    size = (width_with_legend(names), 4.0)
    ax = new_axes(style, title="Cumulative allocation of the loss change", size=size)
    draw_zero_line(ax)
    sums, steps = cumulative_sums(allocations), steps_of(style, len(allocations))
    ends = check_intervals(intervals, sums.shape)
    colors, named = colors_of_lines(names, sums[-1], style)
    lines = []
    for at, (label, color) in enumerate(zip(labels_of(style, names), colors, strict=True)):
        thick, order = (1.6, 2.0) if at in named else (0.5, 1.5)
        lines += ax.plot(steps, sums[:, at], color=color, linewidth=thick, zorder=order, label=label)
        if ends is not None and at in named:
            lower, upper = (end[:, at] for end in ends)
            ax.fill_between(steps, lower, upper, color=color, alpha=0.2, linewidth=0)
    set_step_axis(ax, style)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    set_limits(ax, style)
    legend_of_lines(ax, [lines[i] for i in named], len(names) - len(named))
    return ax


def plot_train_heldout(
    train: np.ndarray, heldout: np.ndarray, names: Sequence[str], **style: Unpack[Style]
) -> Axes:
    """Draw the cumulative allocations of the training loss (solid) and the held-out loss (dashed).

    A dashed line above the solid one shows that what the group learned does not generalize fully. A dashed
    line that turns upwards shows that the group has begun to overfit.

    Parameters
    ----------
    train, heldout
        The allocations of both losses along the same steps in units of the loss, shape (T, groups).
    names
        The names of the groups, one per column.
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
    NonFiniteError
        If an allocation is not finite.

    Examples
    --------
    >>> train = np.array([[-1.0, -0.5], [-0.5, -0.25]])
    >>> ax = plot_train_heldout(train, 0.8 * train, ["fc1", "fc2"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['fc1', 'fc2', 'training loss', 'held-out loss']
    """
    train, names = check_grouped(train, names)
    heldout, _ = check_grouped(heldout, names)
    if heldout.shape != train.shape:
        raise LCAError(
            f"train and heldout must hold the same steps and groups, got shapes {train.shape} and "
            f"{heldout.shape}."
        )
    size = (width_with_legend([*names, "training loss", "held-out loss"]), 4.0)
    ax = new_axes(style, title="Cumulative allocation of the training and the held-out loss", size=size)
    draw_zero_line(ax)
    colors, named = colors_of_lines(names, train.sum(axis=0), style)
    losses = ("training loss", "held-out loss")
    *shown, solid, dashed = labels_of(style, [*names, *losses])
    for allocations, dashes in ((train, "-"), (heldout, "--")):
        for at, (color, sums) in enumerate(zip(colors, cumulative_sums(allocations).T, strict=True)):
            thick, order = (1.5, 2.0) if at in named else (0.5, 1.5)
            ax.plot(steps_of(style, len(train)), sums, dashes, color=color, linewidth=thick, zorder=order)
    keys = [Line2D([], [], color=colors[i], label=shown[i]) for i in named]
    keys += [Line2D([], [], color=GREY, linestyle="-", label=solid)]
    keys += [Line2D([], [], color=GREY, linestyle="--", label=dashed)]
    legend_of_lines(ax, keys, len(names) - len(named))
    set_step_axis(ax, style)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    set_limits(ax, style)
    return ax


def plot_totals(
    names: Sequence[str],
    train: np.ndarray,
    heldout: np.ndarray | None = None,
    *,
    intervals: Intervals | None = None,
    **style: Unpack[Style],
) -> Axes:
    """Draw the total allocation of each group over the run as bars, for one or two losses.

    The colour of a bar is its sign; bars of the held-out loss are hatched.

    Parameters
    ----------
    names
        The names of the groups.
    train, heldout
        Allocations of the training loss and, optionally, the held-out loss, summed over the run; in units of
        the loss, shape (groups,).
    intervals
        Lower and upper ends, over runs or from sampling, each of shape (groups,); with both losses,
        (2, groups).
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
    >>> ax = plot_totals(["fc1", "fc2"], np.array([-1.5, 0.25]), np.array([-1.0, 0.5]))
    >>> [bar.get_width() for bar in ax.patches]
    [np.float64(-1.5), np.float64(0.25), np.float64(-1.0), np.float64(0.5)]
    """
    both = heldout is not None
    train, *_ = check_equal_length("the totals", train, *([heldout] if both else []))
    names = check_names(names, len(train), "the totals")
    size = (width_of(names), height_of(len(names), base=1.4, per_row=0.32))
    ax = new_axes(style, title="Total allocation over the run", size=size)
    position, height = np.arange(len(names)), 0.38 if both else 0.6
    colors, places = colors_of(style, SIGNS), position[None]
    *shown, solid, hatched = labels_of(style, [*names, "training loss", "held-out loss"])
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.barh(position - both * height / 2, train, height, color=_sign_colors(train, colors))
    if heldout is not None:
        bars = ax.barh(position + height / 2, heldout, height, facecolor="none", hatch="/////")
        for bar, color in zip(bars, _sign_colors(heldout, colors), strict=True):
            bar.set_edgecolor(color)
        keys = [Patch(color=GREY, label=solid)]
        keys += [Patch(facecolor="none", edgecolor=GREY, hatch="/////", label=hatched)]
        legend_above(ax, handles=keys)
        places = np.array([position - height / 2, position + height / 2])
    if (ends := check_intervals(intervals, (2, len(names)) if both else (len(names),))) is not None:
        draw_intervals(ax, places.ravel(), *(end.ravel() for end in ends))
    name_rows(ax, position, shown, train)
    _set_bar_axes(ax, style)
    return ax


def plot_conditions(
    names: Sequence[str],
    conditions: Sequence[str],
    totals: np.ndarray,
    *,
    intervals: Intervals | None = None,
    **style: Unpack[Style],
) -> Axes:
    """Draw the total allocation of each group in several conditions as bars side by side.

    The colour of a bar is its condition.

    Parameters
    ----------
    names
        The names of the groups.
    conditions
        The names of the conditions, such as optimizers; ``labels`` and ``colors`` are theirs and, of labels,
        after them those of the groups.
    totals
        In units of the loss, shape (conditions, groups): ``mean`` of `lca.Runs.totals`.
    intervals
        Lower and upper ends over runs, each of that shape: ``lower`` and ``upper`` of `lca.Runs.totals`.
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
    >>> totals = np.array([[-1.5, 0.25], [-1.0, -0.5]])
    >>> ax = plot_conditions(["fc1", "fc2"], ["adam", "sgd"], totals, intervals=(totals - 0.1, totals + 0.1))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['adam', 'sgd']
    """
    names, totals = tuple(map(str, names)), np.asarray(totals, dtype=np.float64)
    conditions = check_names(map(str, conditions), len(np.atleast_1d(totals)), "the conditions")
    if totals.shape != (len(conditions), len(names)):
        raise LCAError(
            f"the totals must have the shape (conditions, groups) = ({len(conditions)}, {len(names)}), got "
            f"{totals.shape}."
        )
    height = 0.8 / len(conditions)
    size = (width_of(names), height_of(len(names) * (1 + len(conditions)), base=1.4, per_row=0.2))
    ax = new_axes(style, title="Total allocation by condition", size=size)
    labels, position = labels_of(style, [*conditions, *names]), np.arange(len(names))
    colors = colors_of(style, dict(zip(conditions, line_colors(conditions, {}), strict=True)))
    ends = check_intervals(intervals, totals.shape)
    ax.axvline(0, color=GREY, linewidth=0.8)
    all_places = []
    for at, condition in enumerate(conditions):
        places = position + (at - (len(conditions) - 1) / 2) * height
        ax.barh(places, totals[at], 0.9 * height, color=colors[condition], label=labels[at])
        all_places.append(places)
    if ends is not None:
        draw_intervals(ax, np.concatenate(all_places), *(end.ravel() for end in ends))
    name_rows(ax, position, labels[len(conditions) :], np.abs(np.nan_to_num(totals)).max(axis=0))
    _set_bar_axes(ax, style)
    legend_above(ax)
    return ax


def _set_bar_axes(ax: Axes, style: Style) -> None:
    """The axes of one bar per row: the first row on top, and ticks whose labels do not touch."""
    ax.margins(y=0.02)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlabel("LCA summed over the run, in units of the loss\n(negative = helping)")
    set_limits(ax, style, "x")


def _sign_colors(values: np.ndarray, colors: Mapping[str, Any]) -> list[Any]:
    return [colors["helping"] if value < 0 else colors["hurting"] for value in values]
