"""Moments of peak learning, layer by layer."""

from collections.abc import Sequence

import numpy as np

from lca.analysis.arrays import check_names
from lca.errors import LCAError
from lca.extras import extra
from lca.plots.canvas import GREY, HURT, new_axes, step_axis

with extra("report"):
    from matplotlib.axes import Axes


def plot_peaks(peaks: np.ndarray, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """A raster of peak moments: a stroke for each, coloured where other layers peak at the same step.

    Parameters
    ----------
    peaks
        Booleans (T, layers) from `lca.analysis.learning_peaks`; with ``top=20`` or so, or there are too many
        to be seen.
    names
        One a layer.
    """
    peaks = np.asarray(peaks)
    if peaks.dtype != bool or peaks.ndim != 2:
        raise LCAError(
            f"expected booleans of shape (steps, layers), got {peaks.dtype} of shape {peaks.shape}; draw the "
            "classes one at a time."
        )
    names = check_names(names, peaks.shape[1], "the peaks")
    together = peaks & (peaks.sum(axis=1, keepdims=True) > 1)
    ax = new_axes(ax, title="Moments of peak learning", size=(6, max(2.2, 1.4 + 0.25 * len(names))))
    for marked, color, label in ((peaks & ~together, GREY, "alone"), (together, HURT, "with other layers")):
        steps, rows = np.nonzero(marked)
        ax.vlines(steps, rows - 0.4, rows + 0.4, color=color, linewidth=1.2, label=label)
    ax.set_xlim(0, len(peaks))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    step_axis(ax)
    ax.set_title(ax.get_title(), fontsize="medium", pad=22)  # the legend stands between title and data
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize="small")
    return ax
