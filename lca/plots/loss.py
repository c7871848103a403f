"""The loss and what it is made of: conservation, cumulative allocations, totals."""

from collections.abc import Sequence

import numpy as np

from lca.analysis.arrays import check_names
from lca.errors import LCAError
from lca.extras import extra
from lca.plots.canvas import (
    BLUE,
    GREY,
    LCA_LABEL,
    ORANGE,
    SKY,
    alike,
    colors,
    cumulative,
    grouped,
    new_axes,
    panels_below,
    step_axis,
    zero_line,
)

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator


def plot_loss(loss: np.ndarray, rebuilt: np.ndarray, *, name: str = "loss", ax: Axes | None = None) -> Axes:
    """The measured loss against the loss rebuilt from its allocation; their difference below.

    Parameters
    ----------
    loss, rebuilt
        L(θ_t) and ``L(θ_0) + Σ_{s<t} Σ_i A_{s,i}`` for t = 0 ... T, shape (T + 1,).
    name
        What the loss is called on the axis.
    """
    loss, rebuilt = alike("the loss and the rebuilt loss", loss, rebuilt)
    ax = new_axes(ax, title=f"The {name}, measured and rebuilt from its allocations")
    ax.plot(loss, color=SKY, linewidth=4, label="measured")
    ax.plot(rebuilt, color="black", linewidth=1, label="rebuilt from LCA")
    ax.set_ylabel(name)
    ax.set_ylim(bottom=min(0.0, float(np.min(loss))))
    ax.legend(frameon=False)
    [below] = panels_below(ax, (3, 1))
    zero_line(below)
    below.plot(loss - rebuilt, color="black", linewidth=1)
    below.set_ylabel("residual\nso far")
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
    rows, names = grouped(rows, names)
    ax = new_axes(ax, title="How much of the loss change each part has made")
    zero_line(ax)
    for name, color, line in zip(names, colors(len(names)), cumulative(rows).T, strict=True):
        ax.plot(line, color=color, linewidth=1.6, label=name)
    step_axis(ax)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    ax.legend(frameon=False, ncols=1 + len(names) // 8)
    return ax


def plot_train_heldout(
    train: np.ndarray, heldout: np.ndarray, names: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Cumulative allocation of each group for the training loss (solid) and the held-out loss (dashed).

    Where the dashed line stays above the solid one, a group learned what does not carry over; where it turns
    up, the group has begun to overfit.

    Parameters
    ----------
    train, heldout
        Allocations of both losses along the same steps, shape (T, groups).
    names
        One a group.
    """
    train, names = grouped(train, names)
    heldout, _ = grouped(heldout, names)
    if heldout.shape != train.shape:
        raise LCAError(f"both losses need the same steps, got shape {train.shape} and {heldout.shape}.")
    ax = new_axes(ax, title="What each part did for the training and for the held-out loss")
    zero_line(ax)
    shades = colors(len(names))
    for rows, line in ((train, "-"), (heldout, "--")):
        for color, sums in zip(shades, cumulative(rows).T, strict=True):
            ax.plot(sums, line, color=color, linewidth=1.5)
    keys = [Line2D([], [], color=color, label=name) for name, color in zip(names, shades, strict=True)]
    keys += [Line2D([], [], color=GREY, linestyle="-", label="training loss")]
    keys += [Line2D([], [], color=GREY, linestyle="--", label="held-out loss")]
    ax.legend(handles=keys, frameon=False, ncols=1 + len(keys) // 8)
    step_axis(ax)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
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
    both = heldout is not None
    train, *_ = alike("the totals", train, *([heldout] if both else []))
    names = check_names(names, len(train), "the totals")
    ax = new_axes(ax, title="Which parts made the loss fall")
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
