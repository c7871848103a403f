"""Figures of many layers: how tall they are, which rows are named, and which lines a legend lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lca._extras import extra
from lca.plots._canvas import GREY, Style, colors_of, line_colors

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

TALLEST = 12.0
"""The height in inches at which a figure stops growing with its rows."""
MAX_LINES = 20
"""The most lines that have a colour and a name of their own."""
INSIDE = 6
"""The most entries of a legend inside the Axes; a longer one is at the right."""
_FULL, _SMALL = 0.17, 0.11
"""The height in inches of a name in the usual and in the smallest size."""


def height_of(rows: int, *, base: float, per_row: float, least: float = 2.5) -> float:
    """The height of a figure with ``rows`` rows, in inches.

    >>> height_of(2, base=1.4, per_row=0.32), height_of(200, base=1.4, per_row=0.32)
    (2.5, 12.0)
    """
    return float(np.clip(base + per_row * rows, least, TALLEST))


def name_rows(ax: Axes, places: np.ndarray, names: Sequence[str], sizes: np.ndarray | None = None) -> None:
    """Write the names at the rows; of too many, those of the largest ``sizes`` that do not overlap.

    Without sizes, every n-th is named. The label of the axis says how many are.
    """
    pitch = _inches_of(ax) / max(1, len(names))
    gap = int(np.ceil(_SMALL / pitch))
    kept = np.arange(len(names)) if gap <= 1 else _apart(len(names), gap, sizes)
    ax.set_yticks(np.asarray(places)[kept], [names[i] for i in kept.tolist()])
    if pitch < _FULL:
        ax.tick_params(axis="y", labelsize=6.5)
    if len(kept) < len(names):
        which = "" if sizes is None else ", the largest"
        ax.set_ylabel(f"{len(kept)} of {len(names)} named{which}", fontsize="x-small", color=GREY)


def _inches_of(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(figure.get_size_inches()[1]) * ax.get_position().height


def _apart(count: int, gap: int, sizes: np.ndarray | None) -> np.ndarray:
    """Rows that are ``gap`` apart, the largest first.

    >>> _apart(6, 2, np.array([1.0, 5.0, 4.0, 3.0, 0.0, 2.0])).tolist(), _apart(5, 2, None).tolist()
    ([1, 3, 5], [0, 2, 4])
    """
    if sizes is None:
        return np.arange(0, count, gap)
    free, kept = np.ones(count, dtype=bool), []
    for i in np.argsort(-np.abs(sizes), kind="stable"):
        if free[i]:
            kept.append(i)
            free[max(0, i - gap + 1) : i + gap] = False
    return np.sort(kept)


def colors_of_lines(names: Sequence[str], ends: np.ndarray, style: Style) -> tuple[list[Any], np.ndarray]:
    """The colour of each line, and which of them are named: all, or those with the largest |end|."""
    named = np.sort(np.argsort(-np.abs(ends), kind="stable")[:MAX_LINES])
    found = dict.fromkeys(names, GREY)
    found |= zip([names[i] for i in named], line_colors([names[i] for i in named], {}), strict=True)
    return list(colors_of(style, found).values()), named


def legend_of_lines(ax: Axes, keys: list[Line2D], others: int) -> None:
    """A legend of lines and of the number of others: inside the Axes if it is short, else at the right."""
    if others:
        keys = [*keys, Line2D([], [], color=GREY, linewidth=0.5, label=f"{others} others")]
    if len(keys) <= INSIDE:
        ax.legend(handles=keys, frameon=False)
        return
    ax.legend(handles=keys, frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))


def width_with_legend(names: Sequence[str]) -> float:
    """The width of a figure of lines, in inches: more lines than fit inside leave room at the right.

    >>> width_with_legend(["fc1", "fc2"]), width_with_legend([f"encoder.layer.{i}" for i in range(12)])
    (6.0, 7.62)
    """
    return 6.0 if len(names) <= INSIDE else round(6.5 + 0.07 * max(map(len, names)), 2)
