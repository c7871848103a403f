"""The loss and its allocation: conservation, cumulative curves and totals."""

from collections.abc import Sequence

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_names
from lca.errors import LCAError
from lca.plots._canvas import (
    GREEN,
    GREY,
    HELPING,
    HURTING,
    LCA_LABEL,
    add_panels_below,
    check_equal_length,
    check_grouped,
    cumulative_sums,
    draw_zero_line,
    line_colors,
    new_axes,
    set_step_axis,
)

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator


def plot_loss(loss: np.ndarray, rebuilt: np.ndarray, *, name: str = "loss", ax: Axes | None = None) -> Axes:
    """Draw the measured loss and the loss rebuilt from its allocation, with their difference below.

    Parameters
    ----------
    loss
        L(θ_t) for t = 0 ... T, shape (T + 1,).
    rebuilt
        ``L(θ_0) + Σ_{s<t} Σ_i A_{s,i}`` for the same t, shape (T + 1,).
    name
        The name of the loss in the title and on the axis.
    ax
        Draw into this Axes, which must lie in a grid, instead of a new figure.

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
    ax = new_axes(ax, title=f"The {name}, measured and rebuilt from its allocation")
    ax.plot(loss, color=GREEN, linewidth=4, alpha=0.6, label="measured")
    ax.plot(rebuilt, color="black", linewidth=1, label="rebuilt from LCA")
    ax.set_ylabel(name)
    ax.set_ylim(bottom=min(0.0, float(np.min(loss))))
    ax.legend(frameon=False)
    [below] = add_panels_below(ax, (3, 1))
    draw_zero_line(below)
    below.plot(loss - rebuilt, color="black", linewidth=1)
    below.set_ylabel("cumulative\nresidual")
    below.yaxis.set_major_locator(MaxNLocator(3))
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    return ax


def plot_cumulative(allocations: np.ndarray, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw the cumulative allocation of each group over time, ``Σ_{s<t} A_{s,g}``.

    Parameters
    ----------
    allocations
        The allocation of each step to each group in units of the loss, shape (T, groups): from
        `lca.analysis.group_totals`, or `lca.views.GroupTotals.rows`.
    names
        The names of the groups, one per column.
    ax
        Draw into this Axes instead of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        ``ax``, or the Axes of the new figure.

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
    ax = new_axes(ax, title="Cumulative allocation of the loss change")
    draw_zero_line(ax)
    for name, color, line in zip(names, line_colors(len(names)), cumulative_sums(allocations).T, strict=True):
        ax.plot(line, color=color, linewidth=1.6, label=name)
    set_step_axis(ax)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    ax.legend(frameon=False, ncols=1 + len(names) // 8)
    return ax


def plot_train_heldout(
    train: np.ndarray, heldout: np.ndarray, names: Sequence[str], *, ax: Axes | None = None
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
    ax
        Draw into this Axes instead of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        ``ax``, or the Axes of the new figure.

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
    ax = new_axes(ax, title="Cumulative allocation of the training and the held-out loss")
    draw_zero_line(ax)
    colors = line_colors(len(names))
    for allocations, style in ((train, "-"), (heldout, "--")):
        for color, sums in zip(colors, cumulative_sums(allocations).T, strict=True):
            ax.plot(sums, style, color=color, linewidth=1.5)
    keys = [Line2D([], [], color=color, label=name) for name, color in zip(names, colors, strict=True)]
    keys += [Line2D([], [], color=GREY, linestyle="-", label="training loss")]
    keys += [Line2D([], [], color=GREY, linestyle="--", label="held-out loss")]
    ax.legend(handles=keys, frameon=False, ncols=1 + len(keys) // 8)
    set_step_axis(ax)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    return ax


def plot_totals(
    names: Sequence[str], train: np.ndarray, heldout: np.ndarray | None = None, *, ax: Axes | None = None
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
    ax
        Draw into this Axes instead of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        ``ax``, or the Axes of the new figure.

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
    ax = new_axes(ax, title="Total allocation over the run")
    position, height = np.arange(len(names)), 0.38 if both else 0.6
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.barh(position - both * height / 2, train, height, color=_sign_colors(train))
    if heldout is not None:
        bars = ax.barh(position + height / 2, heldout, height, facecolor="none", hatch="/////")
        for bar, color in zip(bars, _sign_colors(heldout), strict=True):
            bar.set_edgecolor(color)
        keys = [Patch(color=GREY, label="training loss")]
        keys += [Patch(facecolor="none", edgecolor=GREY, hatch="/////", label="held-out loss")]
        ax.legend(handles=keys, frameon=False)
    ax.set_yticks(position, names)
    ax.invert_yaxis()  # the first layer on top
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("LCA summed over the run, in units of the loss (negative = helping)")
    return ax


def _sign_colors(values: np.ndarray) -> list[str]:
    return [HELPING if value < 0 else HURTING for value in values]
