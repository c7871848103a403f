"""Layers, neurons and classes: who helped when, as maps and trajectories."""

from collections.abc import Sequence

import numpy as np

from lca.analysis.arrays import check_finite, check_names
from lca.errors import LCAError
from lca.extras import extra
from lca.plots.canvas import (
    GREY,
    HELPED,
    HURT,
    LCA_LABEL,
    SIGNS,
    color_bar,
    cumulative,
    grouped,
    new_axes,
    sign_norm,
    step_axis,
    zero_line,
)

with extra("report"):
    from matplotlib.axes import Axes


def plot_layer_time(
    rows: np.ndarray, names: Sequence[str], *, columns: int = 200, ax: Axes | None = None
) -> Axes:
    """A map of layers × time: blue where a layer helped, orange where it hurt.

    Colours are linear up to a hundredth of the largest value and logarithmic beyond, so that late training
    is seen beside the first steps.

    Parameters
    ----------
    rows
        Allocation of each step to each group, shape (T, groups).
    names
        One a group.
    columns
        A run with more steps is drawn in this many columns, each the *sum* over its steps: nothing is left
        out.
    """
    rows, names = grouped(rows, names)
    if columns < 1:
        raise LCAError(f"columns must be at least 1, got {columns}.")
    steps = len(rows)
    starts = np.unique(np.linspace(0, steps, min(columns, steps), endpoint=False).astype(int))
    sums = np.add.reduceat(rows, starts, axis=0)
    ax = new_axes(ax, title="When each layer helped and hurt", size=(6, max(2.5, 1.6 + 0.22 * len(names))))
    mesh = ax.pcolormesh(
        np.append(starts, steps), np.arange(len(names) + 1), sums.T, cmap=SIGNS, norm=sign_norm(sums)
    )
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0)
    step_axis(ax)
    color_bar(ax, mesh)
    return ax


def plot_neurons(rows: np.ndarray, names: Sequence[str], *, top: int = 5, ax: Axes | None = None) -> Axes:
    """Cumulative allocation of every neuron, with the most helpful and the most hurtful ones by name.

    Parameters
    ----------
    rows
        Allocation of each step to each neuron, shape (T, neurons).
    names
        One a neuron.
    top
        How many helpers (and hurters, if there are any) to name; fewer where there are not as many.
    """
    rows, names = grouped(rows, names)
    sums = cumulative(rows)
    order = np.argsort(sums[-1])
    helpers = [i for i in order[:top] if sums[-1, i] < 0]
    hurters = [i for i in order[::-1][:top] if sums[-1, i] > 0]
    ax = new_axes(ax, title=f"What each of {len(names)} neurons did for the loss")
    ax.plot(sums, color=GREY, linewidth=0.5, alpha=0.5)
    for color, chosen in ((HELPED, helpers), (HURT, hurters)):
        for i in chosen:
            ax.plot(sums[:, i], color=color, linewidth=1.3)
    zero_line(ax)
    _name_ends(ax, [(sums[-1, i], names[i], HELPED if sums[-1, i] < 0 else HURT) for i in helpers + hurters])
    step_axis(ax)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    return ax


def plot_classes(
    names: Sequence[str], classes: Sequence[str], totals: np.ndarray, *, ax: Axes | None = None
) -> Axes:
    """What each layer did for the loss of each class over the run, with the numbers.

    Parameters
    ----------
    names, classes
        Of the rows and columns.
    totals
        Shape (layers, classes): `lca.analysis.class_totals`, summed over the steps.
    """
    totals = check_finite(totals, "the totals by class", ndim=2)
    names = check_names(names, len(totals), "the layers")
    classes = check_names(classes, totals.shape[1], "the classes")
    size = (max(4.0, 1.6 + 0.55 * len(classes)), max(2.5, 1.6 + 0.32 * len(names)))
    ax = new_axes(ax, title="What each layer did for the loss of each class", size=size)
    largest = float(np.abs(totals).max()) or 1.0
    mesh = ax.pcolormesh(totals, cmap=SIGNS, vmin=-largest, vmax=largest)
    for (row, column), value in np.ndenumerate(totals):
        ink = "white" if abs(value) > 0.8 * largest else "black"
        place = (column + 0.5, row + 0.5)
        text = f"{value:.2g}".replace("-", "−")
        ax.annotate(text, place, ha="center", va="center", color=ink, fontsize="xx-small")
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.set_xticks(np.arange(len(classes)) + 0.5, [name.rpartition("class ")[2] for name in classes])
    ax.set_xlabel("class")
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.margins(0)
    color_bar(ax, mesh)
    return ax


def _name_ends(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    least, places = 0.04 * (high - low), [-np.inf]
    ends = sorted(ends)
    for value, _, _ in ends:
        places.append(max(value, places[-1] + least))
    moved = np.mean([place - end[0] for place, end in zip(places[1:], ends, strict=True)]) if ends else 0.0
    for place, (_, name, color) in zip(places[1:], ends, strict=True):
        beside = ("axes fraction", "data")
        ax.annotate(
            name, (1.01, place - moved), xycoords=beside, color=color, fontsize="x-small", va="center"
        )
