"""What a section of a page is made of: text, tables, bars and charts. All strings are plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lca.report._charts import Figure
from lca.runs._balance import Tone
from lca.runs._drawn import drawn_places
from lca.runs._format import format_to

Tints = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Table:
    """A table whose cells are all text. A ``folded`` table is shown on request.

    Tables serve readers who cannot see a chart or want to copy the numbers.

    Attributes
    ----------
    caption, head, rows
        Text. The first cell of a row is its label.
    folded
        Whether only the caption is visible at first.
    notes
        An explanation of a row, by its label.
    tints
        The sign and strength of the colour behind each cell after the label, in [-1, 1]; empty without
        colours.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)
    tints: Tints = ()


@dataclass(frozen=True)
class Bar:
    """One row of `Bars`: a value with its text and its share.

    ``note`` explains the name, and ``kind`` decides the colour. ``left`` and ``width`` are percentages.
    """

    name: str
    note: str
    value: float
    text: str
    share: str
    left: float
    width: float
    kind: str


@dataclass(frozen=True)
class Bars:
    """A bar chart without JavaScript.

    ``zero`` is the place of 0, in percent of the width; ``head`` are the names of the columns of numbers.
    """

    caption: str
    rows: Sequence[Bar]
    zero: float
    head: tuple[str, str]
    total: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Chart:
    """A Bokeh figure with its caption.

    Attributes
    ----------
    figure, caption
        The figure, and the text below it.
    cells
        The numbers of a map, which page.js draws; empty for other charts.
    key
        The limit of the colour scale that is shown below the chart, for it and the maps before it; 0: none.
    """

    figure: Figure
    caption: str
    cells: Mapping[str, Any] = field(default_factory=dict)
    key: float = 0.0


@dataclass(frozen=True)
class Section:
    """A part of the page. All its strings are plain text, which the template escapes."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    verdicts: Sequence[tuple[Tone, str]] = ()
    bars: Bars | None = None
    code: str = ""
    explorer: bool = False
    side_by_side: bool = False


def tints_of(values: np.ndarray, largest: float | None = None) -> list[list[float]]:
    """Values over the largest magnitude, or over that of a colour scale, at which they end; NaN is 0.

    >>> tints_of(np.array([[-2.0, 1.0, np.nan]])), tints_of(np.array([[-2.0, 0.5]]), 1.0)
    ([[-1.0, 0.5, 0.0]], [[-1.0, 0.5]])
    """
    known = np.nan_to_num(values)
    largest = (largest or float(np.abs(known).max(initial=0.0))) or 1.0
    tints: list[list[float]] = np.round(np.clip(known / largest, -1.0, 1.0), 3).tolist()
    return tints


MAX_COLUMNS = 10
"""With more classes than this, and fewer layers, the classes are the rows."""


def class_title(divisions: Sequence[str]) -> str:
    """The title of the section that has `class_table` of layers, and of the groups of these divisions."""
    return "Layers and groups by class" if divisions else "Layers by class"


def class_table(
    caption: str,
    groups: tuple[str, Sequence[str]],
    labels: Sequence[str],
    totals: np.ndarray,
    *,
    largest: float | None = None,
) -> Table:
    """Layers or groups by class, (groups, classes), with colours; classes in rows where they are many.

    ``groups`` is the division and its names. Tables of groups are folded. Heads have the colours that they
    have without what is in none of them, unless ``largest`` is the scale.
    """
    (by, names), rows, columns = groups, groups[0], "class"
    largest = largest or largest_drawn(totals, names, by)
    if len(labels) > max(len(names), MAX_COLUMNS):
        totals, labels, names, rows, columns = totals.T, names, labels, columns, rows
    return Table(
        f"{caption}; one {rows} per row, one {columns} per column",
        ("", *labels),
        [
            (name, *(format_to(value, largest) for value in row))
            for name, row in zip(names, totals, strict=True)
        ],
        folded=by != "layer",
        tints=tints_of(totals, largest),
    )


def largest_drawn(totals: np.ndarray, names: Sequence[str], by: str) -> float:
    """The largest magnitude among the groups that are drawn; totals (groups, ...)."""
    return float(np.nanmax(np.abs(totals[drawn_places(names, by)]), initial=0.0))
