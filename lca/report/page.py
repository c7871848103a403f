"""The page: sections and data put into the template, with everything it needs inside."""

import json
import math
from base64 import b64encode
from datetime import UTC, datetime
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lca
from lca.extras import extra
from lca.output import check_writable, write_files
from lca.plots.canvas import HELPING, HURTING, SIGN_COLORMAP
from lca.record.reading import open_record
from lca.report.charts import detail_map, layer_map
from lca.report.moments import LINEAR, MOMENTS, Detail, details, layer_moments
from lca.report.run import Run, columns
from lca.report.sections import SECTIONS, Section

with extra("report"):
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.resources import Resources
    from jinja2 import Environment
    from matplotlib.colors import LinearSegmentedColormap, to_hex

if TYPE_CHECKING:
    from xarray import Dataset

DARK_SIGNS = LinearSegmentedColormap.from_list("dark", ["#8fd0ff", HELPING, "#20242b", HURTING, "#ffb78a"])
"""`lca.plots.canvas.SIGN_COLORMAP` on a dark page: what is near 0 is dark."""


def write_report(
    record: "str | PathLike[str] | Dataset", path: str | PathLike[str], *, title: str = ""
) -> Path:
    """Write the report of a run to ``path``: one file that needs no network.

    Parameters
    ----------
    record
        A folder written by `lca.Record`, or what `lca.open_record` made of it. The run may still be going on.
    path
        Of the page; one that is there is replaced.
    title
        By default the name of the record.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    RecordError
        If there is no record, or it cannot be read.
    LCAError
        If it has no complete step yet.
    OutputError
        If the page cannot be written; one that was there is left as it was.

    Notes
    -----
    About 1.5 MB for a small network, and at most 6 MB where all values were recorded. Memory: the groups of
    the record, and one block of values.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),))) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     write_report(f"{folder}/run.zarr", f"{folder}/report.html").name
    'report.html'
    """
    path = Path(path)
    check_writable(path.parent)
    opened = open_record(record) if isinstance(record, str | PathLike) else record
    named = title or (Path(record).name if isinstance(record, str | PathLike) else "a run")
    write_files(path.parent, {path.name: render_report(opened, title=named).encode()})
    return path


def render_report(record: "Dataset", *, title: str = "a run") -> str:
    """The page as text; as `write_report`."""
    run = Run(record)
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    maps, skipped_steps = details(run)
    charts = _charts(run, sections, with_details=bool(maps))
    # Bokeh's own code is trusted; all else that comes from a record goes through the template's escaping.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.from_string(_text("page.html")).render(
        title=title,
        sections=sections,
        charts=charts,
        data=_data(run, maps),
        notes=_notes(run, maps, skipped_steps),
        bokeh=Resources(mode="inline", components=["bokeh"]).js_raw,
        style=_text("page.css"),
        program=_text("page.js"),
        version=lca.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _charts(run: Run, sections: list[Section], *, with_details: bool) -> list[dict[str, Any]]:
    """All figures as Bokeh reads them, each for the element with its id."""
    moments = len(columns(len(run.steps), MOMENTS))
    placed = {
        f"{section.id}-{i}": chart.figure for section in sections for i, chart in enumerate(section.charts)
    }
    placed["map"] = layer_map(run.layers, moments)
    if with_details:
        placed["detail"] = detail_map()
    return [_plain_numbers(json_item(figure, ID(target))) for target, figure in placed.items()]


def _plain_numbers(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(item, allow_nan=False))
    return found


def _data(run: Run, maps: list[Detail]) -> dict[str, Any]:
    """What page.js draws the maps from."""
    layers = layer_moments(run)
    starts = columns(len(run.steps), MOMENTS)
    last = np.append(starts[1:], len(run.steps)) - 1
    return {
        "losses": run.losses,
        "layers": run.layers,
        "first": run.steps[starts].tolist(),
        "last": run.steps[last].tolist(),
        "totals": _packed(layers.astype("<f4")),
        "linear": LINEAR,
        "details": [_detail(each) for each in maps],
        "palettes": {
            "light": [to_hex(c) for c in SIGN_COLORMAP(np.linspace(0, 1, 255))],
            "dark": [to_hex(c) for c in DARK_SIGNS(np.linspace(0, 1, 255))],
        },
    }


def _detail(detail: Detail) -> dict[str, Any]:
    grid = detail.grid
    return {
        "name": grid.name,
        "layer": grid.layer,
        "axes": grid.axes,
        "edges": grid.edges(detail.side),
        "height": detail.codes.shape[2],
        "width": detail.codes.shape[3],
        "limits": detail.limits,
        "codes": _packed(detail.codes),
    }


def _packed(array: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _notes(run: Run, maps: list[Detail], skipped_steps: int) -> list[str]:
    """What the maps leave out, so that nobody takes them for more than they are."""
    notes = []
    steps = len(run.steps)
    moments = len(columns(steps, MOMENTS))
    if moments < steps:
        notes.append(f"The {steps:,} steps are shown in {moments} moments, each the sum over its steps.")
    merged = [detail.grid.name for detail in maps if _merged(detail)]
    if merged:
        notes.append(f"A cell is the sum over several entries in {', '.join(merged)}.")
    if skipped_steps:
        notes.append(f"{skipped_steps} more, with smaller sums, were left out to keep this page small.")
    if maps:
        notes.append("Single cells are kept to within 2 %.")
    if not run.has("values"):
        notes.append(
            "The weights of a layer are shown if the record keeps every value: lca.Record(..., "
            "values='float32')."
        )
    return notes


def _merged(detail: Detail) -> bool:
    entries = math.prod(edge[-1] for edge in detail.grid.edges(detail.side))
    return detail.grid.count(detail.side) < entries


def _text(name: str) -> str:
    return (files("lca.report") / name).read_text(encoding="utf-8")
