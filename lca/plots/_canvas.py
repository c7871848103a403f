"""What all figures share: new Axes, colours, the step axis, input checks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_finite, check_names
from lca.errors import LCAError

with extra("report"):
    from matplotlib import colors
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

BLUE, GREEN, VERMILION, PURPLE = "#0072B2", "#009E73", "#D55E00", "#9A5FBF"
GREY = "0.55"
HELPING, HURTING = BLUE, VERMILION
"""The two colours of the sign, which no figure uses for anything else."""
CATEGORY_COLORS = (GREEN, PURPLE, "#B8941F", "#C9579B", "#7F9A2D", "#8A6D4F")
"""The colours of losses, layers and runs; legible on white and on black."""
SIGN_COLORMAP = colors.LinearSegmentedColormap.from_list(
    "helping-hurting", [HELPING, "#9ecae1", "white", "#fdbe85", HURTING]
)
"""From helping through white at 0 to hurting."""
_MANY_COLORS = colors.LinearSegmentedColormap.from_list(
    "many", ["#C9579B", PURPLE, "#6b6b75", GREEN, "#7F9A2D", "#B8941F", "#8A6D4F"]
)
LCA_LABEL = "LCA in units of the loss\n(negative = helping)"


def new_axes(ax: Axes | None, *, title: str, size: tuple[float, float] = (6, 4)) -> Axes:
    """Return ``ax``, or the Axes of a new figure, with a title and without the top and right spines.

    The title is matplotlib's own, so the user can replace it with ``ax.set_title(...)``.
    """
    if ax is None:
        ax = Figure(figsize=size, dpi=150, layout="constrained").subplots()
    ax.set_title(title, fontsize="medium")
    return remove_frame(ax)


def remove_frame(ax: Axes) -> Axes:
    """Hide the top and right spines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
    return ax


def set_step_axis(ax: Axes) -> None:
    """Label the x axis "step", with integer ticks."""
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def draw_zero_line(ax: Axes) -> None:
    """A horizontal line at 0, between helping and hurting."""
    ax.axhline(0, color=GREY, linewidth=0.8)


def add_panels_below(ax: Axes, heights: Sequence[float]) -> list[Axes]:
    """Divide the area of ``ax`` into rows with these relative heights, and return the new Axes.

    ``ax`` keeps the first row. All rows share the step axis, which is labelled at the bottom only.
    """
    cell = ax.get_subplotspec()
    if cell is None:
        raise LCAError(
            "this figure has several panels and needs an Axes in a grid; create it with figure.subplots() or "
            "figure.add_subplot()."
        )
    rows = cell.subgridspec(len(heights), 1, height_ratios=heights)
    ax.set_subplotspec(rows[0])
    below = [remove_frame(ax.figure.add_subplot(rows[i], sharex=ax)) for i in range(1, len(heights))]
    for upper in (ax, *below[:-1]):
        upper.tick_params(labelbottom=False)
    set_step_axis(below[-1])
    return below


def line_colors(count: int) -> list[Any]:
    """`CATEGORY_COLORS` for up to six lines, and evenly spaced shades between them for more."""
    if count <= len(CATEGORY_COLORS):
        return list(CATEGORY_COLORS[:count])
    return list(_MANY_COLORS(np.linspace(0, 1, count)))


def symmetric_norm(values: np.ndarray) -> colors.SymLogNorm:
    """A colour scale symmetric about 0, linear up to 1 % of the largest |value| and logarithmic beyond.

    The first steps of a run are so much larger than the others that a linear scale would show little else.
    """
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return colors.SymLogNorm(linthresh=largest / 100, vmin=-largest, vmax=largest)


def add_color_bar(ax: Axes, mesh: Any) -> None:
    """Add a labelled colour bar on the right; on a logarithmic scale, with a few powers of ten as ticks."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(mesh, ax=ax, fraction=0.05, pad=0.02)
    if isinstance(mesh.norm, colors.SymLogNorm):
        largest = float(mesh.norm.vmax or 1.0)
        decades = 10.0 ** np.arange(*np.floor(np.log10([largest / 60, largest])) + 1)
        bar.set_ticks([*-decades[::-1], 0, *decades])
        bar.ax.minorticks_off()
    bar.set_label(LCA_LABEL, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.ax.spines[:].set_visible(False)


def cumulative_sums(allocations: np.ndarray) -> np.ndarray:
    """``Σ_{s<t} A_s`` for t = 0 ... T, one row more than ``allocations``; the first row is 0."""
    return np.concatenate([np.zeros((1, *allocations.shape[1:])), np.cumsum(allocations, axis=0)])


def check_equal_length(what: str, *arrays: Any) -> tuple[np.ndarray, ...]:
    """Return one-dimensional arrays of equal length, after checking this; NaN leaves a gap in a line."""
    found = tuple(np.asarray(array) for array in arrays)
    if found[0].ndim != 1 or any(array.shape != found[0].shape for array in found):
        shapes = " and ".join(str(array.shape) for array in found)
        raise LCAError(f"{what} must be one-dimensional and of equal length, got shapes {shapes}.")
    return found


def check_grouped(allocations: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return allocations of shape (T, groups), T ≥ 1, and one name per group, after checking both."""
    allocations = check_finite(allocations, "the allocations", ndim=2)
    return allocations, check_names(names, allocations.shape[1], "the allocations")
