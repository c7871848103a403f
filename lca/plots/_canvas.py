"""What all figures share: new Axes, colours, the step axis, input checks."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Literal, TypedDict

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_finite, check_names
from lca.errors import LCAError, UnknownNameError

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


class Style(TypedDict, total=False):
    """The options that every ``plot_*`` function takes.

    Attributes
    ----------
    labels
        What the names of lines, rows and columns are shown as: a mapping from names, or a list in their
        order.
    colors
        Colours of the lines, in the same forms. A figure that shows the sign by its colour takes those of
        ``helping`` and ``hurting``.
    limits
        The lowest and the highest value of the axis of values; of a map, of its colour scale.
    steps
        Where on the axis each step begins and the last one ends, increasing, (T + 1,): the indices of
        measured steps, or the numbers of checkpoints. Default: 0 to T.
    unit
        What the steps are counted in, the label of their axis: ``"step"`` or, for a replay, ``"checkpoint"``.
    title
        Replaces the title; ``""`` removes it.
    ax
        Draw into this Axes instead of a new figure. A figure with several panels needs one in a grid.

    Raises
    ------
    UnknownNameError
        If there is no such option, or a mapping has a name that the figure does not.
    LCAError
        If a list has more entries than the figure has names, or ``limits`` or ``steps`` are not increasing or
        ``steps`` are not T + 1.

    Examples
    --------
    >>> from lca import plots
    >>> style: plots.Style = {"labels": {"fc1": "hidden"}, "title": "", "limits": (-2, 1)}
    >>> ax = plots.plot_totals(["fc1", "fc2"], np.array([-1.5, 0.25]), **style)
    >>> [label.get_text() for label in ax.get_yticklabels()], ax.get_xlim()
    (['hidden', 'fc2'], (np.float64(-2.0), np.float64(1.0)))
    """

    labels: Mapping[str, str] | Sequence[str]
    colors: Mapping[str, Any] | Sequence[Any]
    limits: tuple[float, float]
    steps: Sequence[float] | np.ndarray
    unit: str
    title: str
    ax: Axes | None


class _Figure(Figure):
    """A figure that a notebook shows without pyplot, which it does for those of pyplot only."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


Intervals = tuple[Any, Any]
"""Lower and upper ends, each an array of the shape of the values."""
SIGNS = {"helping": HELPING, "hurting": HURTING}


def new_axes(style: Style, *, title: str, size: tuple[float, float] = (6, 4)) -> Axes:
    """The Axes of ``style``, or those of a new figure, with a title and without the top and right spines.

    The title is matplotlib's own, so the user can also replace it with ``ax.set_title(...)``.
    """
    for name in style:
        if name not in Style.__annotations__:
            raise UnknownNameError("option of a figure", name, Style.__annotations__)
    ax = style.get("ax")
    if ax is None:
        ax = _Figure(figsize=size, dpi=150, layout="constrained").subplots()
    ax.set_title(style.get("title", title), fontsize="medium")
    return remove_frame(ax)


def labels_of(style: Style, names: Sequence[str], shown: Sequence[str] = ()) -> list[str]:
    """What the names of a figure are shown as; ``shown`` is the default, and the names are that of it."""
    return _replaced(style.get("labels"), names, shown or names, "labels")


def colors_of(style: Style, colors: Mapping[str, Any]) -> dict[str, Any]:
    """The colours of a figure by name, of which ``style`` may replace some."""
    return dict(
        zip(colors, _replaced(style.get("colors"), [*colors], [*colors.values()], "colors"), strict=True)
    )


def color_map_of(style: Style) -> colors.Colormap:
    """`SIGN_COLORMAP`, or that of the colours in ``style``."""
    if "colors" not in style:
        return SIGN_COLORMAP
    found = colors_of(style, SIGNS)
    return colors.LinearSegmentedColormap.from_list("signs", [found["helping"], "white", found["hurting"]])


def set_limits(ax: Axes, style: Style, axis: Literal["x", "y"] = "y") -> None:
    """Apply the limits of ``style`` to the axis of values."""
    limits = limits_of(style)
    if limits is not None:
        (ax.set_xlim if axis == "x" else ax.set_ylim)(*limits)


def limits_of(style: Style) -> tuple[float, float] | None:
    """The limits in ``style``, after checking them."""
    limits = style.get("limits")
    if limits is None:
        return None
    low, high = limits
    if not low < high:
        raise LCAError(f"limits are the lowest and the highest value, got {limits}.")
    return low, high


def check_intervals(
    intervals: Intervals | None, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper ends as arrays, after checking that both have the shape of the values."""
    if intervals is None:
        return None
    lower, upper = (np.asarray(end, dtype=np.float64) for end in intervals)
    if lower.shape != shape or upper.shape != shape:
        raise LCAError(
            f"intervals are (lower, upper), each of shape {shape} as the values, got {lower.shape} and "
            f"{upper.shape}."
        )
    return lower, upper


def _replaced(given: Any, names: Sequence[str], shown: Sequence[Any], what: str) -> list[Any]:
    """``shown`` with the entries that ``given`` replaces, by name or from the first one on."""
    if given is None:
        return list(shown)
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise UnknownNameError(f"name in {what}", name, names)
        return [given.get(name, default) for name, default in zip(names, shown, strict=True)]
    if isinstance(given, str) or len(given) > len(names):
        raise LCAError(
            f"{what} are a mapping or a list of at most {len(names)} entries for {', '.join(names[:6])}; got "
            f"{given!r}."
        )
    return [*given, *shown[len(given) :]]


def remove_frame(ax: Axes) -> Axes:
    """Hide the top and right spines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
    return ax


def width_of(names: Sequence[str]) -> float:
    """The width of a figure with names at its left side, in inches: long names leave room for the title.

    >>> width_of(["fc1"]), width_of(["encoder.layer.11.attn[head 11]"])
    (6.0, 7.0)
    """
    return max(6.0, round(4.3 + 0.09 * max(map(len, names)), 2))


def steps_of(style: Style, count: int) -> np.ndarray:
    """Where each of ``count`` steps begins and the last one ends, (count + 1,)."""
    if "steps" not in style:
        return np.arange(count + 1)
    steps = np.asarray(style["steps"])
    if steps.shape != (count + 1,) or not (np.diff(steps) > 0).all():
        raise LCAError(
            f"steps are where each of {count} steps begins and the last one ends: {count + 1} increasing "
            f"numbers, got {steps.tolist()!s:.80}."
        )
    return steps


def set_step_axis(ax: Axes, style: Style) -> None:
    """Label the x axis "step", or as ``style`` says, with integer ticks."""
    ax.set_xlabel(style.get("unit", "step"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def draw_zero_line(ax: Axes) -> None:
    """A horizontal line at 0, between helping and hurting."""
    ax.axhline(0, color=GREY, linewidth=0.8)


def add_panels_below(ax: Axes, heights: Sequence[float], style: Style) -> list[Axes]:
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
    set_step_axis(below[-1], style)
    return below


def draw_intervals(ax: Axes, places: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    """A horizontal line from the lower to the upper end at each place; none where an end is NaN."""
    known = np.isfinite(lower) & np.isfinite(upper)
    width = min(1.2, 100 / max(1, len(places)))  # thinner than the bars
    ax.hlines(places[known], lower[known], upper[known], color="black", linewidth=width)


def legend_above(ax: Axes, **options: Any) -> None:
    """A legend in rows between the title and the data, where it covers nothing."""
    count = len(options.get("handles") or ax.get_legend_handles_labels()[1])
    columns = min(count, 4)
    ax.set_title(ax.get_title(), fontsize="medium", pad=6 + 16 * -(-count // columns))
    options |= {"frameon": False, "fontsize": "small", "ncols": columns}
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), **options)


def line_colors(names: Sequence[str], style: Style) -> list[Any]:
    """`CATEGORY_COLORS` for up to six lines, and evenly spaced shades between them for more."""
    count = len(names)
    many = count > len(CATEGORY_COLORS)
    found = list(_MANY_COLORS(np.linspace(0, 1, count))) if many else list(CATEGORY_COLORS[:count])
    return list(colors_of(style, dict(zip(names, found, strict=True))).values())


def symmetric_norm(values: np.ndarray, style: Style) -> colors.SymLogNorm:
    """A colour scale symmetric about 0, linear up to 1 % of the largest |value| and logarithmic beyond.

    The first steps of a run are so much larger than the others that a linear scale would show little else.
    """
    largest = largest_of(values, style)
    return colors.SymLogNorm(linthresh=largest / 100, vmin=-largest, vmax=largest)


def largest_of(values: np.ndarray, style: Style) -> float:
    """The end of a colour scale symmetric about 0: that of the limits, or else the largest |value|."""
    limits = limits_of(style)
    largest = float(np.abs(values).max(initial=0.0)) if limits is None else max(map(abs, limits))
    return largest or 1.0


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
