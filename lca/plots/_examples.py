"""How fast groups of parameters learn the examples."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from lca._extras import extra
from lca.errors import LCAError
from lca.plots._canvas import Style, labels_of, new_axes, set_limits, set_step_axis
from lca.plots._many import colors_of_lines, legend_of_lines, width_with_legend

with extra("report"):
    from matplotlib.axes import Axes


def plot_learned(learned: np.ndarray, names: Sequence[str], **style: Unpack[Style]) -> Axes:
    """Draw the percentage of examples that each group has learned by each step.

    If a curve rises late, the group learned its examples late; if it ends below 100 %, the group did not
    lower the loss of the remaining examples over the run. Of many groups, those that learned the most
    examples have a colour and a name.

    Parameters
    ----------
    learned
        The step at which each group learned each example, NaN if it did not, shape (groups, examples); each
        row is a result of `lca.by_example.ExampleHistory.learned`.
    names
        The names of the groups, one per row.
    **style
        Labels, colours, limits, title and Axes: see `Style`. ``steps`` has no effect, because ``learned``
        contains the steps.

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
    >>> ax = plot_learned(np.array([[0.0, 3.0], [2.0, np.nan]]), ["fc1", "fc2"])
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[0.0, 50.0, 100.0, 100.0], [0.0, 50.0, 50.0]]
    """
    rows = np.atleast_2d(np.asarray(learned, np.float64))
    if rows.ndim != 2 or len(rows) != len(names) or not rows.shape[1]:
        raise LCAError(
            f"learned needs one row for each of {len(names)} groups and a column for each example, got shape "
            f"{np.shape(learned)}."
        )
    ax = new_axes(style, title="Examples learned by each group", size=(width_with_legend(names), 4.0))
    last = np.nanmax(rows, initial=0.0) + 1
    colors, named = colors_of_lines(names, np.isfinite(rows).sum(axis=1), style)
    lines = []
    for at, (row, label, color) in enumerate(zip(rows, labels_of(style, names), colors, strict=True)):
        steps, counts = np.unique(row[~np.isnan(row)], return_counts=True)
        share = 100 * np.cumsum(counts) / len(row)
        x = np.concatenate([[0.0], steps + 1, [last]])  # learned at the end of the step
        y = np.concatenate([[0.0], share, [share[-1] if len(share) else 0.0]])
        thick, order = (1.6, 2.0) if at in named else (0.5, 1.5)
        lines += ax.step(x, y, where="post", color=color, linewidth=thick, zorder=order, label=label)
    set_step_axis(ax, style)
    ax.set_ylabel("examples learned (%)")
    ax.set_ylim(0, 105)
    set_limits(ax, style)
    legend_of_lines(ax, [lines[i] for i in named], len(names) - len(named))
    return ax
