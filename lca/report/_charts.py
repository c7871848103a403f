"""The interactive charts of a report, drawn with Bokeh; each is a function of plain arrays.

Blue and orange-red stand for helping and hurting, and for nothing else: losses, layers and runs have the
colours of `lca.plots._canvas.CATEGORY_COLORS`. page.js sets the colours of text, axes and grids, because they
depend on whether the page is dark. A model with the tag ``ink`` gets the colour of the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lca._blocks import block_starts
from lca._extras import extra
from lca.plots._canvas import CATEGORY_COLORS, HELPING, HURTING
from lca.runs._format import format_signed, short_labels, shorten_words

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
    from bokeh.models.annotations import BoxAnnotation, Span, TeeHead, Whisker
    from bokeh.plotting import figure

MAX_POINTS = 1500
"""The limit on the points of a line."""
MAX_POINTS_GREY = 200
"""The same for the grey lines, of which there may be many."""
LCA_LABEL = "LCA (negative = helping)"
MAX_COLORED_LINES = 2 * len(CATEGORY_COLORS)
"""The number of lines with different colours or dashes; further lines are grey."""
MAX_CIRCLES = 25
"""The most circles by which a second curve is shown on top of a first."""
GREY = "#8a8a8a"
_FILLS: Sequence[tuple[float, str | None]] = ((0.9, None), (0.2, "/"), (0.5, None), (0.2, "x"))
"""The opacity and pattern by which the bars of several losses differ: their colours give the sign."""

Array = np.ndarray
Figure = Any


def count_checkpoints(chart: Figure) -> None:
    """Change "step" to "checkpoint" on the axis of a chart and in what it shows under the pointer."""
    for axis in chart.xaxis:
        if axis.axis_label == "step":
            axis.axis_label = "checkpoint"
    for tool in chart.select({"type": HoverTool}):
        tool.tooltips = tool.tooltips.replace("step @x", "checkpoint @x")


def loss_chart(steps: Array, losses: Mapping[str, Array], rebuilt: Array | None) -> Figure:
    """The measured losses, and the first one rebuilt from its allocation; ``steps`` and losses (T + 1,)."""
    chart = _figure("step", "loss", height=300)
    for (name, loss), style in zip(losses.items(), _loss_styles(len(losses)), strict=True):
        _line(chart, steps, loss, label=_escape_tex(name), width=3, **style)
    if rebuilt is not None:
        shown = np.unique(np.linspace(0, len(steps) - 1, MAX_CIRCLES).astype(int))
        chart.scatter(steps[shown], rebuilt[shown], size=7, line_color="black", line_width=1.5, fill_alpha=0,
                      legend_label="rebuilt from LCA").tags = ["ink"]  # fmt: skip
    return _legend(chart)


def rates_chart(steps: Array, rates: Mapping[str, Array]) -> Figure:
    """The learning rates, (T,) by name."""
    return _in_powers("learning rate", steps, rates, _styles(len(rates)))


def residual_chart(steps: Array, residuals: Mapping[str, Array]) -> Figure:
    """The residual of each step, (T,) per loss."""
    return _zero_line(_in_powers("residual", steps, residuals, _loss_styles(len(residuals))), "width")


def _in_powers(
    what: str, steps: Array, series: Mapping[str, Array], styles: Sequence[Mapping[str, Any]]
) -> Figure:
    """A low chart of small or large numbers, whose axis is in units of a power of ten."""
    power = _power_of(max(float(np.abs(values).max(initial=0)) for values in series.values()))
    unit = f" × 10{str(power).translate(_RAISED)}" if power else ""
    chart = _figure("step", f"{what}{unit}", height=190)
    chart.yaxis.ticker = BasicTicker(desired_num_ticks=3)
    for (name, values), style in zip(series.items(), styles, strict=True):
        _line(chart, steps, values / 10.0**power, label=_escape_tex(name), unit=unit, **style)
    return _legend(chart)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power_of(largest: float) -> int:
    """The power of ten that an axis up to this number is labelled with; 0 for numbers that are read easily.

    >>> _power_of(2.5e-4), _power_of(0.3), _power_of(4e29), _power_of(0.0)
    (-4, 0, 29, 0)
    """
    power = int(np.floor(np.log10(largest))) if np.isfinite(largest) and largest > 1e-300 else 0
    return power if abs(power) > 2 else 0


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
            GREY,
            "other layers",
            alpha=0.6,
            hover=names[i],
            points=MAX_POINTS_GREY,
        )
    labels = short_labels(names, 32)
    for i, style in zip(largest, _styles(len(largest)), strict=True):
        label = _escape_tex(labels[i])
        _line(chart, steps, sums[:, i], label=label, hover=names[i], width=2, **style)
    return _legend(_zero_line(chart, "width"))


def learned_chart(steps: Array, shares: Mapping[str, Array]) -> Figure:
    """The percentage of examples that each group has learned, (T + 1,), at steps (T + 1,).

    The first groups have colours; the others are grey.
    """
    chart = _figure("step", "examples learned (%)", height=300, y_range=(0, 105))
    styles = _styles(min(len(shares), MAX_COLORED_LINES))
    labels = short_labels([*shares], 32)
    for i, (name, share) in enumerate(shares.items()):
        if i < len(styles):
            label = _escape_tex(labels[i])
            _line(chart, steps, share, label=label, hover=name, width=2, unit=" %", **styles[i])
        else:
            points = MAX_POINTS_GREY
            _line(chart, steps, share, GREY, "other groups", alpha=0.6, hover=name, points=points, unit=" %")
    return _legend(chart)


def totals_chart(names: Sequence[str], totals: Mapping[str, Array], margins: Mapping[str, Array]) -> Figure:
    """One bar per layer and loss, with intervals for the losses in ``margins``; arrays (layers,).

    The colour of a bar is its sign, and its fill the loss.
    """
    count, shown = len(names), len(totals)
    chart = _bars_figure(80 + _rows_height(count, max(24, 16 * shown)))
    centre, height = np.arange(count) + 0.5, 0.8 / shown
    for k, (loss, values) in enumerate(totals.items()):
        at = centre + (k - (shown - 1) / 2) * height
        alpha, pattern = _FILLS[k % len(_FILLS)]
        source = ColumnDataSource(
            {
                "y": at,
                "value": values,
                "name": [_escape_tex(n) for n in names],
                "text": [format_signed(v) for v in values],
                "color": [HELPING if v < 0 else HURTING for v in values],
            }
        )
        look: dict[str, Any] = {"fill_alpha": alpha, "hatch_pattern": pattern, "hatch_weight": 1.5}
        bars = chart.hbar(y="y", right="value", height=0.9 * height, source=source, fill_color="color",
                          line_color="color", hatch_color="color", **look)  # fmt: skip
        chart.add_tools(_hover(bars, f"@name, {_escape_tex(loss)}: @text"))
        if loss in margins:
            _whiskers(chart, at, values, margins[loss])
        if shown > 1:  # the legend shows the fill of each loss without a sign
            chart.hbar(y=[np.nan], right=[np.nan], fill_color=GREY, line_color=GREY, hatch_color=GREY,
                       legend_label=_escape_tex(loss), **look)  # fmt: skip
    _name_rows(chart, names)
    if margins:
        chart.x_range = _range_of([totals[k] + s * margins.get(k, 0) for k in totals for s in (-1, 1)])
    _zero_line(chart, "height")
    if shown > 1:
        _legend(chart).legend.click_policy = "none"
    return chart


def conditions_chart(names: Sequence[str], means: Mapping[str, Array], halves: Mapping[str, Array]) -> Figure:
    """One bar per group and condition, with intervals ``mean ± half``; arrays (groups,), NaN: none."""
    count, shown = len(names), len(means)
    chart = _bars_figure(90 + _rows_height(count, max(26, 15 * shown + 6)))
    centre, height = np.arange(count) + 0.5, 0.84 / shown
    for k, ((condition, values), style) in enumerate(zip(means.items(), _styles(shown), strict=True)):
        at = centre + (k - (shown - 1) / 2) * height
        source = ColumnDataSource(
            {
                "y": at,
                "value": values,
                "name": [_escape_tex(n) for n in names],
                "text": [_with_half(v, h) for v, h in zip(values, halves[condition], strict=True)],
            }
        )
        label = _escape_tex(condition)
        bars = chart.hbar(y="y", right="value", height=0.9 * height, source=source, color=style["color"],
                          fill_alpha=0.75, legend_label=label)  # fmt: skip
        chart.add_tools(_hover(bars, f"@name, {label}: @text"))
        if np.isfinite(halves[condition]).any():
            _whiskers(chart, at, values, halves[condition])
    _name_rows(chart, names)
    chart.x_range = _range_of([m + s * np.nan_to_num(halves[k]) for k, m in means.items() for s in (-1, 1)])
    return _legend(_zero_line(chart, "height"))


def bands_chart(
    curves: Mapping[str, tuple[Array, Array]],
    *,
    y: str = "loss",
    height: int = 320,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """The mean of each condition's curves, in a band from the lowest to the highest; (T,), (runs, T)."""
    chart = _figure("step", y, height=height)
    if limits is not None:
        chart.y_range = Range1d(start=limits[0], end=limits[1])
        _zero_line(chart, "width")
    for (name, (steps, values)), style in zip(curves.items(), _styles(len(curves)), strict=True):
        label = _escape_tex(name)
        if len(values) > 1:
            shown = np.unique(np.append(block_starts(len(steps), MAX_POINTS), len(steps) - 1))
            chart.varea(steps[shown], values.min(axis=0)[shown], values.max(axis=0)[shown],
                        color=style["color"], fill_alpha=0.2, legend_label=label)  # fmt: skip
        _line(chart, steps, values.mean(axis=0), label=label, width=2, **style)
    return _legend(chart)


def _rows_height(count: int, height: int) -> int:
    """The height of ``count`` rows, which become thinner where there are many."""
    return min(count * height, max(1000, 6 * count))


def _range_of(values: Sequence[Array]) -> Range1d:
    """A range that shows all values and 0; by itself, Bokeh would cut error bars."""
    low, high = limits_of(values)
    return Range1d(start=low, end=high)


def limits_of(values: Sequence[Array]) -> tuple[float, float]:
    """The ends of an axis on which all values and 0 are seen.

    >>> limits_of([np.array([-1.0, np.nan]), np.array([-2.0])])
    (-2.1, 0.1)
    """
    known = np.concatenate([np.ravel(each)[~np.isnan(np.ravel(each))] for each in values])
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    margin = 0.05 * (high - low) or 1.0
    return low - margin * (low < 0), high + margin


def _with_half(value: float, half: float) -> str:
    return format_signed(value) if np.isnan(half) else f"{format_signed(value)} ± {half:.2g}"


def helping_chart(steps: Array, helping: Array, zero: Array) -> Figure:
    """Percentages of helping and zero parameters in each step, with averages over intervals; each (T,)."""
    chart = _figure("step", "% of parameters", height=280)
    chart.y_range = Range1d(start=0, end=100)
    shown = block_starts(len(steps), MAX_POINTS)
    chart.yaxis.ticker = FixedTicker(ticks=[0, 25, 50, 75, 100])
    dots = chart.scatter(steps[shown], helping[shown], size=4, color=HELPING, alpha=0.5,
                         legend_label="helping, % of A ≠ 0")  # fmt: skip
    chart.add_tools(_hover(dots, "step @x: @y{0.0} %"))
    starts = block_starts(len(steps), 25)
    if len(starts) < len(steps):
        ends = np.append(starts[1:], len(steps)) - 1
        averages = _interval_averages(helping, starts)
        label = f"average of {-(-len(steps) // len(starts))} steps"
        chart.segment(steps[starts], averages, steps[ends] + 1, averages, color="black", line_width=3,
                      legend_label=label).tags = ["ink"]  # fmt: skip
    _line(chart, steps, zero, GREY, "zero, % of all", width=2)
    chart.add_layout(Span(location=50, dimension="width", line_dash="dashed", tags=["ink"], line_alpha=0.4))
    return _legend(chart)


def histogram_chart(edges: Array, helping: Array, hurting: Array) -> Figure:
    """Histograms of |A| of helping and of hurting entries, on logarithmic axes; edges (bins + 1,)."""
    chart = _figure(
        "|A| of one parameter in one step",
        "number of parameters × steps",
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


def compared_map(name: str, rows: Sequence[str]) -> Figure:
    """Map of layers or groups × intervals of one condition; page.js fills in the numbers."""
    chart = _map(name, (len(rows), 1), height=110 + min(520, 24 * len(rows)))
    chart.xaxis.axis_label = "step"
    chart.xaxis.name, chart.xaxis.ticker = f"{name}-steps", FixedTicker(ticks=[])
    _name_rows(chart, rows)
    return chart


def detail_map() -> Figure:
    """Map of the cells of a tensor. page.js fills in the colours, the numbers and the axes."""
    chart = _map("detail", (1, 1), height=330)
    numbers = ColumnDataSource({"x": [], "y": [], "text": [], "color": []}, name="detail-numbers")
    chart.text("x", "y", "text", source=numbers, text_color="color", text_font_size="10px",
               text_align="center", text_baseline="middle", level="overlay")  # fmt: skip
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


def _figure(x: str, y: str, height: int, **options: Any) -> Figure:
    """Axes without a frame that leave scrolling and swiping to the page."""
    chart = figure(
        height=height, sizing_mode="stretch_width", tools="box_zoom,xpan,reset,save", active_drag=None,
        toolbar_location="above", x_axis_label=x, y_axis_label=y, background_fill_alpha=0,
        border_fill_alpha=0, outline_line_color=None, **options,
    )  # fmt: skip
    if x == "step":
        chart.xaxis.ticker = BasicTicker(min_interval=1, mantissas=[1, 2, 5])
    chart.toolbar.logo, chart.toolbar.autohide, chart.toolbar_inner = None, True, True
    chart.min_border_right = 12
    return chart


def _bars_figure(height: int) -> Figure:
    """Axes for one bar per row; few ticks, whose labels have room on a phone."""
    chart = _figure(LCA_LABEL, "", height)
    chart.xaxis.ticker = BasicTicker(desired_num_ticks=4)
    return chart


def _line(
    chart: Figure, x: Array, y: Array, color: str, label: str, *, width: float = 1.5, dash: str = "solid",
    alpha: float = 1.0, hover: str = "", points: int = MAX_POINTS, unit: str = "",
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
    number = "@y{0.0000}" if unit else "@y{0.0000e+0}"
    chart.add_tools(_hover(line, f"$name, step @x: {number}{unit}"))
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


def _whiskers(chart: Figure, at: Array, values: Array, margins: Array) -> None:
    source = ColumnDataSource({"base": at, "lower": values - margins, "upper": values + margins})
    lines = Whisker(base="base", lower="lower", upper="upper", dimension="width", source=source, tags=["ink"])
    # Their ends keep the colour with which they are made: one that is seen on a dark page, too.
    lines.lower_head, lines.upper_head = (TeeHead(size=10, line_color=GREY) for _ in range(2))
    chart.add_layout(lines)


def _name_rows(chart: Figure, names: Sequence[str]) -> None:
    """Label the rows of the y axis with names, the first one on top; at most 40 of them."""
    chart.y_range = Range1d(start=len(names), end=0)
    shown = block_starts(len(names), 40)
    chart.yaxis.ticker = FixedTicker(ticks=(shown + 0.5).tolist())
    labels = short_labels(names)
    chart.yaxis.major_label_overrides = {i + 0.5: _escape_tex(labels[i]) for i in shown.tolist()}
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


def _loss_styles(count: int) -> list[dict[str, Any]]:
    """As `_styles`, but only the first loss is solid, as in the figures of `lca.plots`."""
    return [{**style, "dash": "dashed" if i else "solid"} for i, style in enumerate(_styles(count))]


def _styles(count: int) -> list[dict[str, Any]]:
    """The colour and dash of each line: solid lines first, then dashed ones in the same colours."""
    colors = len(CATEGORY_COLORS)
    return [
        {
            "color": CATEGORY_COLORS[i % colors],
            "dash": "dashed" if i // colors % 2 else "solid",
        }
        for i in range(count)
    ]


def _interval_averages(values: Array, starts: Array) -> Array:
    """The average of each interval over the steps that have a value; NaN if there is no such step."""
    valid = ~np.isnan(values)
    count = np.add.reduceat(valid.astype(float), starts)
    total = np.add.reduceat(np.where(valid, values, 0.0), starts)
    averages: Array = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    return averages
