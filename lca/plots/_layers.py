"""Allocations of layers, neurons and classes: maps and cumulative curves."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from lca._blocks import block_starts
from lca._extras import extra
from lca.analysis._arrays import check_finite, check_names
from lca.analysis._reading import class_of
from lca.errors import LCAError
from lca.plots._canvas import (
    GREY,
    LCA_LABEL,
    SIGNS,
    Style,
    add_color_bar,
    check_grouped,
    color_map_of,
    colors_of,
    cumulative_sums,
    draw_zero_line,
    labels_of,
    largest_of,
    new_axes,
    set_limits,
    set_step_axis,
    steps_of,
    symmetric_norm,
    width_of,
)
from lca.plots._many import height_of, name_rows

with extra("report"):
    from matplotlib.axes import Axes

WIDEST = 16.0
"""The width in inches at which a map of classes stops growing."""


def plot_layer_time(
    allocations: np.ndarray, names: Sequence[str], *, columns: int = 200, **style: Unpack[Style]
) -> Axes:
    """Map the allocation by layer and step: helping in blue, hurting in orange-red.

    The colour scale is linear up to 1 % of the largest |value| and logarithmic beyond, so that late training
    remains visible next to the first steps.

    Parameters
    ----------
    allocations
        The allocation of each step to each layer (or other group) in units of the loss, shape (T, groups).
    names
        The names of the groups, one per column.
    columns
        The largest number of columns of the map. In a longer run each column is the *sum* over equally many
        steps, so that no step is skipped; only the last one may have fewer.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        That of ``style``, or of the new figure.

    Raises
    ------
    LCAError
        If the shapes do not match, or ``columns`` is less than 1.
    NonFiniteError
        If an allocation is not finite.

    Examples
    --------
    >>> ax = plot_layer_time(np.array([[-1.0, 0.5], [-0.5, -0.25]]), ["fc1", "fc2"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['fc1', 'fc2']
    """
    allocations, names = check_grouped(allocations, names)
    if columns < 1:
        raise LCAError(f"columns must be at least 1, got {columns}.")
    steps = len(allocations)
    starts = block_starts(steps, columns)
    sums = np.add.reduceat(allocations, starts, axis=0)
    size = (width_of(names), height_of(len(names), base=1.6, per_row=0.22))
    ax = new_axes(style, title="Allocation over time", size=size)
    mesh = ax.pcolormesh(
        steps_of(style, steps)[np.append(starts, steps)],
        np.arange(len(names) + 1),
        sums.T,
        cmap=color_map_of(style),
        norm=symmetric_norm(sums, style),
    )
    name_rows(ax, np.arange(len(names)) + 0.5, labels_of(style, names), np.abs(sums).sum(axis=0))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0)
    set_step_axis(ax, style)
    add_color_bar(ax, mesh)
    return ax


def plot_neurons(
    allocations: np.ndarray, names: Sequence[str], *, top: int = 5, **style: Unpack[Style]
) -> Axes:
    """Draw the cumulative allocation of every neuron, and label the most helping and most hurting ones.

    Parameters
    ----------
    allocations
        The allocation of each step to each neuron in units of the loss, shape (T, neurons).
    names
        The names of the neurons, one per column.
    top
        How many helping and how many hurting neurons to label at most.
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
    >>> ax = plot_neurons(np.array([[-1.0, 0.5, 0.0], [-0.5, 0.25, 0.0]]), ["fc[0]", "fc[1]", "fc[2]"])
    >>> sorted(text.get_text() for text in ax.texts)
    ['fc[0]', 'fc[1]']
    """
    allocations, names = check_grouped(allocations, names)
    sums = cumulative_sums(allocations)
    order = np.argsort(sums[-1])
    helping = [i for i in order[:top] if sums[-1, i] < 0]
    hurting = [i for i in order[::-1][:top] if sums[-1, i] > 0]
    ax = new_axes(style, title=f"Cumulative allocation of {len(names)} neurons")
    at = steps_of(style, len(allocations))
    ax.plot(at, sums, color=GREY, linewidth=0.5, alpha=0.5)
    colors, labels, ends = colors_of(style, SIGNS), labels_of(style, names), []
    for color, chosen in ((colors["helping"], helping), (colors["hurting"], hurting)):
        for i in chosen:
            ax.plot(at, sums[:, i], color=color, linewidth=1.3)
            ends.append((float(sums[-1, i]), labels[i], color))
    draw_zero_line(ax)
    set_step_axis(ax, style)
    ax.set_ylabel(f"cumulative {LCA_LABEL}")
    set_limits(ax, style)
    _label_ends(ax, ends)
    return ax


def plot_classes(
    names: Sequence[str],
    classes: Sequence[str],
    totals: np.ndarray,
    *,
    measured: str = "",
    **style: Unpack[Style],
) -> Axes:
    """Map the total allocation of each per-class loss to each layer, with numbers in cells that have room.

    Parameters
    ----------
    names
        The names of the layers, one per row of ``totals``.
    classes
        The names of the classes, one per column: "class_loss" of `lca.analysis.class_totals`. A
        leading "class " is dropped from what is shown.
    totals
        Allocations summed over the run in units of the loss, shape (layers, classes):
        `lca.analysis.class_totals`, summed over the steps.
    measured
        Which loss the classes are of, for the title; default: the part of their names before ``/class``.
        Terms of another loss, named like ``train/class 0``, are shares that add up to it; a loss of its own
        is the mean over the examples of the class.
    **style
        Labels (of layers and classes), colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        That of ``style``, or of the new figure.

    Raises
    ------
    LCAError
        If the shapes do not match.
    NonFiniteError
        If a total is not finite.

    Examples
    --------
    >>> classes, totals = ["train/class 0", "train/class 1"], np.array([[-1.0, -0.5], [0.25, -0.75]])
    >>> ax = plot_classes(["fc1", "fc2"], classes, totals, labels={"train/class 1": "cat"})
    >>> [label.get_text() for label in ax.get_xticklabels()], ax.get_title()
    (['0', 'cat'], 'Allocation by layer and class, train loss (shares that add up)')
    """
    totals = check_finite(totals, "the totals by class", ndim=2)
    names = check_names(names, len(totals), "the rows of totals")
    classes = check_names(classes, totals.shape[1], "the totals by class")
    left = 1.6 + 0.09 * max(map(len, names))
    width = min(WIDEST, max(4.0, left + 0.6 * len(classes)))
    size = (width, height_of(len(names), base=1.8, per_row=0.32))
    ax = new_axes(style, title=_classes_title(classes, measured), size=size)
    largest = largest_of(totals, style)
    mesh = ax.pcolormesh(totals, cmap=color_map_of(style), vmin=-largest, vmax=largest)
    cell = ((width - left) / len(classes), (size[1] - 1.8) / len(names))
    for (row, column), value in np.ndenumerate(totals) if cell[0] >= 0.4 and cell[1] >= 0.15 else ():
        color = "white" if abs(value) > 0.8 * largest else "black"
        centre = (column + 0.5, row + 0.5)
        text = f"{value:.2g}".replace("-", "−")
        ax.annotate(text, centre, ha="center", va="center", color=color, fontsize="xx-small")
    plain = [class_of(name) for name in classes]
    labels = labels_of(style, [*names, *classes], [*names, *plain])
    name_rows(ax, np.arange(len(names)) + 0.5, labels[: len(names)], np.abs(totals).sum(axis=1))
    every = int(np.ceil(0.16 / cell[0]))
    ax.set_xticks(np.arange(len(classes))[::every] + 0.5, labels[len(names) :: every])
    if max(map(len, labels[len(names) :])) > 5:  # wider than a cell
        ax.tick_params(axis="x", labelrotation=45)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.set_xlabel("class" if every == 1 else f"class (one of {every} named)")
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.margins(0)
    add_color_bar(ax, mesh)
    return ax


def _classes_title(classes: Sequence[str], measured: str) -> str:
    """Which loss the classes are of, and whether they are its shares."""
    parents = {name.rpartition("/")[0] for name in classes}
    parent = parents.pop() if len(parents) == 1 else ""
    named = f", {measured or parent} loss" if measured or parent else ""
    kind = "shares that add up" if parent else "each a loss of its own"
    return f"Allocation by layer and class{named} ({kind})"


def _label_ends(ax: Axes, ends: list[tuple[float, str, Any]]) -> None:
    """Write each name beside the end of its line, shifted where the names would overlap."""
    low, high = ax.get_ylim()
    spacing, heights = 0.04 * (high - low), [-np.inf]
    ends = sorted(ends, key=lambda end: end[0])
    for value, _, _ in ends:
        heights.append(max(value, heights[-1] + spacing))
    shift = np.mean([height - end[0] for height, end in zip(heights[1:], ends, strict=True)]) if ends else 0.0
    for height, (_, name, color) in zip(heights[1:], ends, strict=True):
        coordinates = ("axes fraction", "data")
        ax.annotate(
            name,
            (1.01, height - shift),
            xycoords=coordinates,
            color=color,
            fontsize="x-small",
            va="center",
        )
