"""Filling the template of a page: sections, charts and data in, self-contained HTML out."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import lca
from lca._extras import extra
from lca._output import GENERATOR, check_free, check_writable, write_files
from lca._paths import local_path
from lca.errors import LCAError
from lca.plots._canvas import HELPING, HURTING, SIGN_COLORMAP
from lca.report._charts import Figure
from lca.report._moments import LINEAR_FRACTION
from lca.report._parts import Section
from lca.runs._format import shorten_words

with extra("report"):
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.resources import Resources
    from jinja2 import Environment
    from matplotlib.colors import LinearSegmentedColormap, to_hex

DARK_COLORMAP = LinearSegmentedColormap.from_list("dark", ["#8fd0ff", HELPING, "#20242b", HURTING, "#ffb78a"])
"""`lca.plots._canvas.SIGN_COLORMAP` for a dark page, where values near 0 are dark."""


def write_page(
    path: str | PathLike[str], render: Callable[[], str], *, overwrite: bool, option: str = "overwrite=True"
) -> Path:
    """Write the page that ``render`` makes, unless something is in its place; return the path."""
    path = local_path(path)
    check_writable(path.parent)
    check_free(path, overwrite=overwrite, option=option)
    page = render().encode(errors="replace")
    write_files(path.parent, {path.name: page}, overwrite=overwrite, option=option)
    return path


def fill_template(
    title: str,
    sections: Sequence[Section],
    *,
    figures: Mapping[str, Figure],
    data: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """The page.

    Parameters
    ----------
    title, sections
        What to show; all their text is escaped.
    figures
        The figures that page.js fills, by the id of their element; those of the sections are added.
    data
        What page.js needs besides.
    notes
        Remarks below the explorer.
    """
    placed = {
        f"{section.id}-{i}": chart.figure for section in sections for i, chart in enumerate(section.charts)
    }
    charts = [_to_json(json_item(figure, ID(target))) for target, figure in {**placed, **figures}.items()]
    # Bokeh's own code is trusted; everything from the record is escaped by the template.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = _typeset
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    palettes = {"light": SIGN_COLORMAP, "dark": DARK_COLORMAP}
    return environment.from_string(_read("page.html")).render(
        title=title,
        sections=sections,
        charts=charts,
        data={
            "linear": LINEAR_FRACTION,
            "palettes": {
                name: [to_hex(color) for color in colors(np.linspace(0, 1, 255))]
                for name, colors in palettes.items()
            },
            **data,
        },
        notes=notes,
        bokeh=Resources(mode="inline", components=["bokeh"]).js_raw,
        style=_read("page.css"),
        program=_read("page.js"),
        generator=GENERATOR,
        version=lca.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _typeset(text: str) -> str:
    """The text without endless words, and without a line break before a percent sign or at a ±."""
    text = re.sub(r"(?<=\d) %", "\u00a0%", shorten_words(text))
    return re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", text)


def to_base64(array: np.ndarray) -> str:
    """The bytes of an array as text."""
    return b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _to_json(item: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(json.dumps(item, allow_nan=False))
    except ValueError as error:
        raise LCAError(f"the record holds numbers that cannot be drawn ({error}).") from error
    return found


def _read(name: str) -> str:
    return (files("lca.report") / name).read_text(encoding="utf-8")
