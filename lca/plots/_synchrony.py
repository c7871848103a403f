"""Learning peaks, layer by layer."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_names
from lca.errors import LCAError
from lca.plots._canvas import (
    GREY,
    PURPLE,
    Style,
    colors_of,
    labels_of,
    legend_above,
    new_axes,
    set_limits,
    set_step_axis,
    steps_of,
    width_of,
)
from lca.plots._many import height_of, name_rows

with extra("report"):
    from matplotlib.axes import Axes


def plot_peaks(peaks: np.ndarray, names: Sequence[str], **style: Unpack[Style]) -> Axes:
    """Draw a raster of learning peaks, coloured where several layers peak at the same step.

    Parameters
    ----------
    peaks
        Booleans of shape (T, layers) from `lca.analysis.learning_peaks`. Keep only the lowest peaks (about
        ``top=20``), because all of them are too many to tell apart.
    names
        The names of the layers, one per column.
    **style
        Labels, colours, limits, title and Axes: see `Style`.

    Returns
    -------
    matplotlib.axes.Axes
        That of ``style``, or of the new figure.

    Raises
    ------
    LCAError
        If ``peaks`` is not boolean with two axes, or there is not one name per column.

    Examples
    --------
    >>> peaks = np.array([[False, False], [True, True], [False, False], [True, False], [False, False]])
    >>> ax = plot_peaks(peaks, ["fc1", "fc2"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['one layer', 'several layers']
    """
    peaks = np.asarray(peaks)
    if peaks.dtype != bool or peaks.ndim != 2:
        raise LCAError(
            f"expected booleans of shape (steps, layers), got {peaks.dtype} of shape {peaks.shape}; draw one "
            "class at a time."
        )
    names = check_names(names, peaks.shape[1], "the peaks")
    together = peaks & (peaks.sum(axis=1, keepdims=True) > 1)
    size = (width_of(names), height_of(len(names), base=1.4, per_row=0.25, least=2.2))
    ax = new_axes(style, title="Learning peaks", size=size)
    at = steps_of(style, len(peaks))
    colors = colors_of(style, {"one layer": GREY, "several layers": PURPLE})
    *rows_shown, one, several = labels_of(style, [*names, *colors])
    for marked, color, label in zip(
        (peaks & ~together, together), colors.values(), (one, several), strict=True
    ):
        steps, rows = np.nonzero(marked)
        ax.vlines(at[steps], rows - 0.4, rows + 0.4, color=color, linewidth=1.2, label=label)
    ax.set_xlim(at[0], at[-1])
    ax.set_ylim(-1, len(names))
    set_limits(ax, style, "x")
    name_rows(ax, np.arange(len(names)), rows_shown)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    set_step_axis(ax, style)
    legend_above(ax)
    return ax
