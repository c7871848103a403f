"""What all figures share: Axes, colours, titles, the axis of steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lca.analysis.arrays import check_finite, check_names
from lca.errors import LCAError
from lca.extras import extra

with extra("report"):
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7"
GREY = "0.55"
HELPED, HURT = BLUE, VERMILION
SIGNS = LinearSegmentedColormap.from_list("helped-hurt", [HELPED, "#9ecae1", "white", "#fdbe85", HURT])
"""From helped over nothing to hurt."""
LCA_LABEL = "LCA in units of the loss\n(negative = helped)"


def new_axes(ax: Axes | None, *, title: str, size: tuple[float, float] = (6, 4)) -> Axes:
    """``ax``, or one in a new figure; without frame at top and right, and with a title.

    The title is matplotlib's own: ``ax.set_title(...)`` puts another one in its place.
    """
    if ax is None:
        ax = Figure(figsize=size, dpi=150, layout="constrained").subplots()
    ax.set_title(title, fontsize="medium")
    return plain(ax)


def plain(ax: Axes) -> Axes:
    """Only the lines that are axes."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
    return ax


def step_axis(ax: Axes) -> None:
    """X is the step, a whole number."""
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def zero_line(ax: Axes) -> None:
    """Where helping ends and hurting begins."""
    ax.axhline(0, color=GREY, linewidth=0.8)


def panels_below(ax: Axes, heights: Sequence[float]) -> list[Axes]:
    """Divide the place of ``ax`` into rows of these heights: it keeps the first, new Axes get the others.

    All have the same steps; only the last one shows them.
    """
    place = ax.get_subplotspec()
    if place is None:
        raise LCAError("this figure needs an Axes in a grid, from figure.subplots() or add_subplot().")
    rows = place.subgridspec(len(heights), 1, height_ratios=heights)
    ax.set_subplotspec(rows[0])
    below = [plain(ax.figure.add_subplot(rows[i], sharex=ax)) for i in range(1, len(heights))]
    for upper in (ax, *below[:-1]):
        upper.tick_params(labelbottom=False)
    step_axis(below[-1])
    return below


def colors(count: int) -> list[Any]:
    """Okabe and Ito's for a few lines; for many, shades in the order of depth."""
    few = [BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY]
    return few[:count] if count <= len(few) else list(colormaps["viridis"](np.linspace(0, 0.92, count)))


def sign_norm(values: np.ndarray) -> SymLogNorm:
    """Colours symmetric about 0: linear up to a hundredth of the largest size, logarithmic beyond.

    A linear scale would show the first steps of a run and nothing else.
    """
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return SymLogNorm(linthresh=largest / 100, vmin=-largest, vmax=largest)


def color_bar(ax: Axes, mesh: Any) -> None:
    """What the colours of a map mean, to the right of it; a few round numbers if the scale is logarithmic."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(mesh, ax=ax, fraction=0.05, pad=0.02)
    if isinstance(mesh.norm, SymLogNorm):
        largest = float(mesh.norm.vmax or 1.0)
        decades = 10.0 ** np.arange(*np.floor(np.log10([largest / 60, largest])) + 1)
        bar.set_ticks([*-decades[::-1], 0, *decades])
        bar.ax.minorticks_off()
    bar.set_label(LCA_LABEL, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.ax.spines[:].set_visible(False)


def cumulative(rows: np.ndarray) -> np.ndarray:
    """``Σ_{s<t} A_s`` for t = 0 ... T: one row more than ``rows``, the first one 0."""
    return np.concatenate([np.zeros((1, *rows.shape[1:])), np.cumsum(rows, axis=0)])


def alike(what: str, *arrays: Any) -> tuple[np.ndarray, ...]:
    """One-dimensional arrays of one length, as they are; NaN leaves a gap in a line."""
    found = tuple(np.asarray(array) for array in arrays)
    if found[0].ndim != 1 or any(array.shape != found[0].shape for array in found):
        shapes = " and ".join(str(array.shape) for array in found)
        raise LCAError(f"{what} must be one-dimensional and of one length, got shape {shapes}.")
    return found


def grouped(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows (T, groups), T ≥ 1, with one name a group."""
    rows = check_finite(rows, "the allocations", ndim=2)
    return rows, check_names(names, rows.shape[1], "the allocations")
