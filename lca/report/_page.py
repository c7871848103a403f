"""The page of one run."""

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lca._blocks import block_starts
from lca.errors import LCAError
from lca.record._reading import open_record
from lca.report._charts import count_checkpoints, detail_map, layer_map
from lca.report._html import fill_template, to_base64, write_page
from lca.report._moments import MAX_INTERVALS, DetailMap, detail_maps, layer_intervals
from lca.report._sections import SECTIONS
from lca.runs._format import shorten_words
from lca.runs._run import Run

if TYPE_CHECKING:
    from xarray import Dataset

_LARGEST = float(np.finfo(np.float32).max)


def write_report(
    record: "str | PathLike[str] | Dataset",
    path: str | PathLike[str],
    *,
    title: str = "",
    overwrite: bool = False,
) -> Path:
    """Write the report of a run to one HTML file, which needs no network.

    Parameters
    ----------
    record
        A folder written by `lca.Record`, or the dataset that `lca.open_record` returns. The run may still be
        in progress.
    path
        The HTML file.
    title
        The title of the page; by default the name of the record's folder.
    overwrite
        Whether to replace an existing page. A file that is not a page of this library is never replaced.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    RecordError
        If there is no record, or it cannot be read.
    LCAError
        If the record has no complete step yet.
    OutputError
        If the file cannot be written, or exists and may not be replaced. It is then left unchanged.

    Notes
    -----
    The file has about 1.5 MB for a small network, and at most 6 MB if all values were recorded. Memory: the
    group totals of the record, and one block of values.

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
    named = title or (Path(record).name if isinstance(record, str | PathLike) else "a run")

    def render() -> str:
        opened = open_record(record) if isinstance(record, str | PathLike) else record
        return render_report(opened, title=named)

    return write_page(path, render, overwrite=overwrite)


def render_report(record: "Dataset", *, title: str = "a run") -> str:
    """Return the report of a run as HTML text, which needs no network.

    Parameters
    ----------
    record
        The dataset that `lca.open_record` returns.
    title
        The title of the page.

    Raises
    ------
    LCAError
        If the record has no complete step yet.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),))) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     page = render_report(open_record(f"{folder}/run.zarr"), title="My run")
    >>> page[:15], "<h1>My run</h1>" in page
    ('<!doctype html>', True)
    """
    try:
        with np.errstate(over="raise"):
            return _rendered(Run(record), title)
    except FloatingPointError as error:
        raise LCAError(
            "the numbers of the record are so large that their sums overflow, so there is no page of it: the "
            "run diverged; lower the learning rate."
        ) from error


def _rendered(run: Run, title: str) -> str:
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    maps, skipped = detail_maps(run)
    figures = {"map": layer_map(run.layers, len(block_starts(len(run.steps), MAX_INTERVALS)))}
    if maps:
        figures["detail"] = detail_map()
    if run.is_replay:
        for chart in [*figures.values(), *(each.figure for section in sections for each in section.charts)]:
            count_checkpoints(chart)
    notes = _notes(run, maps, skipped)
    return fill_template(title, sections, figures=figures, data={"run": _data(run, maps)}, notes=notes)


def _data(run: Run, maps: list[DetailMap]) -> dict[str, Any]:
    """The data from which page.js draws the maps."""
    layers = layer_intervals(run)
    starts = block_starts(len(run.steps), MAX_INTERVALS)
    last = np.append(starts[1:], len(run.steps)) - 1
    return {
        "losses": [*map(shorten_words, run.losses)],
        "layers": [*map(shorten_words, run.layers)],
        "first": run.steps[starts].tolist(),
        "last": (run.ends if run.is_replay else run.steps)[last].tolist(),
        "totals": to_base64(np.clip(layers, -_LARGEST, _LARGEST).astype("<f4")),
        "details": [_detail_data(each) for each in maps],
        "steps": len(run.steps),
        "unit": run.unit,
        "scope": "the whole run" if run.is_whole and not run.is_replay else run.scope,
    }


def _detail_data(detail: DetailMap) -> dict[str, Any]:
    grid = detail.grid
    return {
        "name": shorten_words(grid.name),
        "layer": shorten_words(grid.layer),
        "axes": grid.axes,
        "edges": grid.edges(detail.max_side),
        "height": detail.codes.shape[2],
        "width": detail.codes.shape[3],
        "limits": detail.limits,
        "codes": to_base64(detail.codes),
    }


def _notes(run: Run, maps: list[DetailMap], skipped: int) -> list[str]:
    """The limits of the maps: sums, rounding and what is not shown."""
    notes = []
    if np.abs(layer_intervals(run)).max(initial=0.0) > _LARGEST:
        notes.append(f"Sums beyond {_LARGEST:.1e} are shown as that number.")
    steps = len(run.steps)
    intervals = len(block_starts(steps, MAX_INTERVALS))
    if intervals < steps:
        notes.append(
            f"The {steps:,} steps are grouped into {intervals} intervals; each shows the sum over its steps."
        )
    pooled = [detail.grid.name for detail in maps if _has_pooled_cells(detail)]
    if pooled:
        notes.append(f"In these maps a cell is the sum over several entries: {', '.join(pooled)}.")
    if skipped:
        more = "1 more map was skipped" if skipped == 1 else f"{skipped} more maps were skipped"
        notes.append(f"{more} to keep this page small; the largest totals are shown.")
    if maps:
        notes.append("The values of single cells are rounded to about 2 %.")
    if not run.has("values"):
        notes.append(
            "This record has no allocations of single weights. To see them here, record them with "
            "lca.Record(..., values='float32')."
        )
    return notes


def _has_pooled_cells(detail: DetailMap) -> bool:
    entries = math.prod(edge[-1] for edge in detail.grid.edges(detail.max_side))
    return detail.grid.count(detail.max_side) < entries
