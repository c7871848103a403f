"""The interactive charts of a report, drawn with Bokeh; each is a function of plain arrays.

page.js sets the colours of text, axes and grids, because they depend on whether the page is dark. A model
with the tag ``ink`` gets the colour of the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lca._extras import extra
from lca.plots._canvas import HELPING, HURTING
from lca.report._run import block_starts, format_signed, shorten_words

with extra("report"):
    from bokeh.models import (
        BasicTicker,
        ColumnDataSource,
        CustomJS,
        CustomJSHover,
        FixedTicker,
        HoverTool,
        LinearColorMapper,
        Range1d,
    )
    from bokeh.models.annotations import BoxAnnotation, Span, Whisker
    from bokeh.plotting import figure

MAX_POINTS = 1500
"""The limit on the points of a line."""
MAX_POINTS_GREY = 200
"""The same for the grey lines, of which there may be many."""
COLORS = (
    "#2f8fd6",
    "#e0652b",
    "#1fa37a",
    "#d99a1c",
    "#c06ab0",
    "#7a86ff",
    "#b5803f",
    "#5aa9a0",
    "#d64f6a",
    "#8d9a2b",
)
"""Legible on white and on black."""
LCA_LABEL = "LCA (negative = helping)"
MAX_COLORED_LINES = 10
"""The number of lines with different colours; further lines are grey."""

Array = np.ndarray
Figure = Any


def loss_chart(steps: Array, losses: Mapping[str, Array], rebuilt: Array | None) -> Figure:
    """The measured losses, and the first one rebuilt from its allocation; ``steps`` and losses (T + 1,)."""
    chart = _figure("step", "loss", height=300)
    for (name, loss), color in zip(losses.items(), _colors(len(losses)), strict=True):
        _line(chart, steps, loss, color, _escape_tex(name), width=3)
    if rebuilt is not None:
        _line(chart, steps, rebuilt, "black", "rebuilt from LCA", dash="dashed").tags = ["ink"]
    return _legend(chart)


def residual_chart(steps: Array, residuals: Mapping[str, Array]) -> Figure:
    """The residual of each step, (T,) per loss."""
    chart = _figure("step", "residual", height=190)
    chart.yaxis.ticker = BasicTicker(desired_num_ticks=3)
    for (name, residual), color in zip(residuals.items(), _colors(len(residuals)), strict=True):
        _line(chart, steps, residual, color, _escape_tex(name))
    return _legend(_zero_line(chart, "width"))


def cumulative_chart(steps: Array, allocations: Array, names: Sequence[str]) -> Figure:
    """Cumulative sums ``Σ_{s<t} A_s`` from steps (T + 1,) and allocations (T, layers).

    The layers with the largest totals have colours; the others are grey.
    """
    chart = _figure("step", f"cumulative {LCA_LABEL}", height=340)
    sums = np.concatenate([np.zeros((1, allocations.shape[1])), np.cumsum(allocations, axis=0)])
    largest = np.sort(np.argsort(-np.abs(sums[-1]), kind="stable")[:MAX_COLORED_LINES])
    for i in np.setdiff1d(np.arange(len(names)), largest):
        _line(
            chart,
            steps,
            sums[:, i],
            "#8a8a8a",
            "other layers",
            alpha=0.6,
            hover=names[i],
            points=MAX_POINTS_GREY,
        )
    for i, color in zip(largest, _colors(len(largest)), strict=True):
        _line(chart, steps, sums[:, i], color, _escape_tex(names[i]), width=2)
    return _legend(_zero_line(chart, "width"))


def totals_chart(names: Sequence[str], totals: Mapping[str, Array], errors: Mapping[str, Array]) -> Figure:
    """One bar per layer and loss, with error bars for the losses in ``errors``; arrays (layers,)."""
    count, shown = len(names), len(totals)
    chart = _figure(f"{LCA_LABEL}, summed over the run", "", height=80 + max(24, 16 * shown) * count)
    centre, height = np.arange(count) + 0.5, 0.8 / shown
    for k, ((loss, values), color) in enumerate(zip(totals.items(), _colors(shown), strict=True)):
        at = centre + (k - (shown - 1) / 2) * height
        source = ColumnDataSource(
            {
                "y": at,
                "value": values,
                "name": [_escape_tex(n) for n in names],
                "text": [format_signed(v) for v in values],
            }
        )
        bars = chart.hbar(
            y="y",
            right="value",
            height=0.9 * height,
            source=source,
            color=color,
            legend_label=_escape_tex(loss),
        )
        chart.add_tools(_hover(bars, "@name: @text"))
        if loss in errors:
            _whiskers(chart, at, values, errors[loss])
    _name_rows(chart, names)
    return _legend(_zero_line(chart, "height"))


def helping_chart(steps: Array, helping: Array, zero: Array) -> Figure:
    """Percentages of helping and zero parameters in each step, with averages over intervals; each (T,)."""
    chart = _figure("step", "% of parameters", height=280)
    chart.y_range = Range1d(start=0, end=100)
    shown = block_starts(len(steps), MAX_POINTS)
    dots = chart.scatter(steps[shown], helping[shown], size=4, color=COLORS[0], alpha=0.5,
                         legend_label="helping, % of A ≠ 0")  # fmt: skip
    chart.add_tools(_hover(dots, "step @x: @y{0.0} %"))
    starts = block_starts(len(steps), 25)
    if len(starts) < len(steps):
        ends = np.append(starts[1:], len(steps)) - 1
        averages = _interval_averages(helping, starts)
        label = f"average of {-(-len(steps) // len(starts))} steps"
        chart.segment(steps[starts], averages, steps[ends] + 1, averages, color="black", line_width=3,
                      legend_label=label).tags = ["ink"]  # fmt: skip
    _line(chart, steps, zero, COLORS[3], "zero, % of all", width=2)
    chart.add_layout(Span(location=50, dimension="width", line_dash="dashed", tags=["ink"], line_alpha=0.4))
    return _legend(chart)


def histogram_chart(edges: Array, helping: Array, hurting: Array) -> Figure:
    """Histograms of |A| of helping and of hurting entries, on logarithmic axes; edges (bins + 1,)."""
    chart = _figure(
        "|A| of one parameter in one step",
        "parameters × steps",
        280,
        x_axis_type="log",
        y_axis_type="log",
    )
    filled = np.flatnonzero(helping + hurting)
    first, last = (filled[0], filled[-1] + 1) if len(filled) else (0, len(helping))
    for counts, color, label in (
        (helping, HELPING, "helping (A < 0)"),
        (hurting, HURTING, "hurting (A > 0)"),
    ):
        shown = counts[first:last]
        top = np.where(shown > 0, shown, 0.5)  # a logarithmic axis has no 0
        bars = chart.quad(left=edges[first:last], right=edges[first + 1 : last + 1], top=top, bottom=0.5,
                          color=color, fill_alpha=0.35, line_alpha=0.9, legend_label=label)  # fmt: skip
        chart.add_tools(_hover(bars, f"{label}, |A| @left{{0.0e+0}} to @right{{0.0e+0}}: @top{{0,0}}"))
    return _legend(chart)


def layer_map(layers: Sequence[str], intervals: int) -> Figure:
    """Map of layers × intervals. page.js fills in the numbers, and marks the selected interval with a box."""
    chart = _map("map", (len(layers), intervals), height=110 + min(520, 26 * len(layers)))
    chart.add_layout(
        BoxAnnotation(
            left=0,
            right=1,
            visible=False,
            fill_alpha=0,
            line_width=2,
            line_alpha=1,
            name="interval",
            tags=["ink"],
        )
    )
    chart.js_on_event("tap", CustomJS(code="lcaReport.pick(cb_obj.x, cb_obj.y)"))
    chart.xaxis.axis_label = "step"
    chart.xaxis.name, chart.xaxis.ticker = "map-steps", FixedTicker(ticks=[])
    _name_rows(chart, layers)
    return chart


def detail_map() -> Figure:
    """Map of the cells of a tensor. page.js fills in the numbers and the axes."""
    chart = _map("detail", (1, 1), height=330)
    for axis, name in ((chart.xaxis, "detail-x"), (chart.yaxis, "detail-y")):
        axis.ticker, axis.axis_label, axis.name = FixedTicker(ticks=[]), " ", name
    return chart


def _escape_tex(text: str) -> str:
    """Shorten a name, and keep Bokeh from reading it as TeX, for which it would load MathJax.

    >>> _escape_tex("fc.weight"), _escape_tex("$$x$$") == "$$x$$"
    ('fc.weight', False)
    """
    text = shorten_words(text, 60)
    for mark in ("$$", r"\(", r"\["):
        text = text.replace(mark, mark[0] + "\u2060" + mark[1])  # the word joiner has no width
    return text


def _shorten(text: str, length: int = 18) -> str:
    """The last ``length`` characters of a long name; the ends of names differ more than their beginnings.

    >>> _shorten("encoder.layers.11.attention.weight")
    '…1.attention.weight'
    """
    return text if len(text) <= length else "…" + text[-length:]


def _figure(x: str, y: str, height: int, **options: Any) -> Figure:
    """Axes without a frame that leave scrolling and swiping to the page."""
    chart = figure(
        height=height, sizing_mode="stretch_width", tools="box_zoom,xpan,reset,save", active_drag=None,
        toolbar_location="above", x_axis_label=x, y_axis_label=y, background_fill_alpha=0,
        border_fill_alpha=0, outline_line_color=None, **options,
    )  # fmt: skip
    chart.toolbar.logo, chart.toolbar.autohide, chart.toolbar_inner = None, True, True
    chart.min_border_right = 12
    return chart


def _line(
    chart: Figure, x: Array, y: Array, color: str, label: str, *, width: float = 1.5, dash: str = "solid",
    alpha: float = 1.0, hover: str = "", points: int = MAX_POINTS,
) -> Any:  # fmt: skip
    shown = np.unique(np.append(block_starts(len(x), points), len(x) - 1))
    source = ColumnDataSource({"x": x[shown], "y": y[shown]})
    line = chart.line(
        name=_escape_tex(hover or label),
        x="x",
        y="y",
        source=source,
        color=color,
        line_width=width,
        line_dash=dash,
        line_alpha=alpha,
        legend_label=label,
    )
    if len(shown) == 1:  # a line through one point is invisible
        chart.scatter("x", "y", source=source, color=color, size=6, legend_label=label)
    chart.add_tools(_hover(line, "$name, step @x: @y{0.0000e+0}"))
    return line


def _hover(renderer: Any, text: str) -> HoverTool:
    return HoverTool(renderers=[renderer], tooltips=text, visible=False, line_policy="nearest")


def _legend(chart: Figure) -> Figure:
    """Put the legend above the data, so that it covers none; a click on a name hides its line."""
    [legend] = chart.legend
    chart.add_layout(legend, "above")
    legend.orientation, legend.location, legend.spacing = "horizontal", "left", 12
    legend.click_policy = "hide"
    legend.background_fill_alpha, legend.border_line_alpha, legend.label_text_font_size = 0, 0, "9pt"
    legend.padding = legend.margin = 2
    return chart


def _zero_line(chart: Figure, dimension: Literal["width", "height"]) -> Figure:
    chart.add_layout(Span(location=0, dimension=dimension, line_alpha=0.5, tags=["ink"]))
    return chart


def _whiskers(chart: Figure, at: Array, values: Array, errors: Array) -> None:
    source = ColumnDataSource({"base": at, "lower": values - errors, "upper": values + errors})
    chart.add_layout(
        Whisker(base="base", lower="lower", upper="upper", dimension="width", source=source, tags=["ink"])
    )


def _name_rows(chart: Figure, names: Sequence[str]) -> None:
    """Label the rows of the y axis with names, the first one on top; at most 40 of them."""
    chart.y_range = Range1d(start=len(names), end=0)
    shown = block_starts(len(names), 40)
    chart.yaxis.ticker = FixedTicker(ticks=(shown + 0.5).tolist())
    chart.yaxis.major_label_overrides = {i + 0.5: _escape_tex(_shorten(names[i])) for i in shown.tolist()}
    chart.ygrid.visible = False
    chart.yaxis.major_tick_line_color = None


def _map(name: str, shape: tuple[int, int], height: int) -> Figure:
    height_, width = shape
    chart = _figure("", "", height)
    chart.x_range, chart.y_range = Range1d(start=0, end=width), Range1d(start=height_, end=0)
    chart.grid.visible = False
    chart.name = name
    source = ColumnDataSource(
        {"image": [np.zeros(shape, np.float32)], "x": [0], "y": [0], "dw": [width], "dh": [height_]},
        name=f"{name}-cells",
    )
    mapper = LinearColorMapper(
        palette=["white"], low=-127, high=127, nan_color="rgba(0, 0, 0, 0)", name=f"{name}-colors"
    )
    image = chart.image("image", "x", "y", "dw", "dh", source=source, color_mapper=mapper)
    about = CustomJSHover(code=f"return lcaReport.describe('{name}', special_vars.x, special_vars.y)")
    chart.add_tools(HoverTool(renderers=[image], tooltips="@image{custom}", formatters={"@image": about},
                              visible=False))  # fmt: skip
    return chart


def _colors(count: int) -> tuple[str, ...]:
    return tuple(COLORS[i % len(COLORS)] for i in range(count))


def _interval_averages(values: Array, starts: Array) -> Array:
    """The average of each interval over the steps that have a value; NaN if there is no such step."""
    valid = ~np.isnan(values)
    count = np.add.reduceat(valid.astype(float), starts)
    total = np.add.reduceat(np.where(valid, values, 0.0), starts)
    averages: Array = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    return averages
