"""The page that compares several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca.errors import LCAError
from lca.report import _charts as charts
from lca.report._comparison import SECTIONS
from lca.report._html import fill_template, to_base64, write_page
from lca.report._moments import MAX_INTERVALS, encode
from lca.report._parts import Chart, Section
from lca.runs import Condition, Runs, open_runs
from lca.runs._format import shorten_words
from lca.runs._open import RecordLike


def write_comparison(
    groups: Runs | Mapping[str, Sequence[RecordLike]] | Sequence[RecordLike],
    path: str | PathLike[str],
    *,
    title: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a page that compares several runs to one HTML file, which needs no network.

    Parameters
    ----------
    groups
        The runs, from `lca.open_runs`; or what `lca.open_runs` takes, such as the records of each condition
        by its name.
    path
        The HTML file.
    title
        The title of the page; by default the names of the conditions.
    overwrite
        Whether to replace an existing page. A file that is not a page of this library is never replaced.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    RecordError
        If a record does not exist or cannot be read.
    LCAError
        If there are fewer than two runs, one is given twice, they have no measured loss in common, or one
        has no complete step yet.
    OutputError
        If the file cannot be written, or exists and may not be replaced. It is then left unchanged.

    Notes
    -----
    Sums are over the measured steps of each run. ± is a 95 % t-interval of the mean over runs. Differences
    between conditions are tested with a paired t-test where both have the same seeds, and with Welch's
    t-test elsewhere.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed in range(2):
    ...         with Record(f"{folder}/{seed}.zarr", Layout(("fc.weight",), ((1, 2),))) as record:
    ...             values = np.array([-1.0, 0.5 + seed])
    ...             record.update(StepAllocation(values, 2.0, 1.5 + seed, residual=0.0, mass=1.5))
    ...     groups = {"first": [f"{folder}/0.zarr"], "second": [f"{folder}/1.zarr"]}
    ...     write_comparison(groups, f"{folder}/comparison.html").name
    'comparison.html'
    """
    return write_page(path, lambda: render_comparison(groups, title=title), overwrite=overwrite)


def render_comparison(
    groups: Runs | Mapping[str, Sequence[RecordLike]] | Sequence[RecordLike], *, title: str = ""
) -> str:
    """Return the page of `write_comparison` as HTML text, which needs no network.

    Parameters
    ----------
    groups, title
        As for `write_comparison`.

    Raises
    ------
    LCAError
        As for `write_comparison`.

    Examples
    --------
    >>> from lca import LCAError
    >>> try:
    ...     render_comparison([])
    ... except LCAError as error:
    ...     print(error)
    this list has no runs; pass a list of records, or a pattern of their paths.
    """
    data = opened(groups)
    try:
        with np.errstate(over="raise"):
            sections = [section for make in SECTIONS if (section := make(data)) is not None]
            maps, limit = _maps(data)
    except FloatingPointError as error:
        raise LCAError(
            "the numbers of the records are so large that their sums overflow, so there is no page of them: "
            "a run diverged; leave it out, or lower its learning rate."
        ) from error
    sections = [_with_maps(section, data, limit) if section.id == "maps" else section for section in sections]
    named = title or " and ".join(condition.name for condition in data.conditions)
    return fill_template(named, sections, figures={}, data={"maps": maps})


def opened(groups: Runs | Mapping[str, Sequence[RecordLike]] | Sequence[RecordLike]) -> Runs:
    """The runs of a page.

    Raises
    ------
    LCAError
        If there are fewer than two, or they cannot be opened as runs.
    """
    runs = groups if isinstance(groups, Runs) else open_runs(groups)
    if len(runs.members) < 2:
        raise LCAError("a comparison needs at least two runs; for one run, use lca.report.write_report.")
    return runs


def _with_maps(section: Section, data: Runs, limit: float) -> Section:
    """The section with one empty map per condition, which page.js fills."""
    drawn = [
        Chart(charts.compared_map(k, data.layers), f"{condition.name}, mean over its runs")
        for k, condition in enumerate(data.conditions)
    ]
    return replace(section, charts=drawn, key=limit)


def _maps(data: Runs) -> tuple[list[dict[str, Any]], float]:
    """For page.js: the codes of each condition's map, with one limit for all."""
    first = min(int(member.run.steps[0]) for member in data.members)
    last = max(int(member.run.steps[-1]) for member in data.members)
    width = -(-(last + 1 - first) // MAX_INTERVALS)
    edges = np.arange(first, last + 1, width)
    means = [_interval_means(data, condition, edges) for condition in data.conditions]
    limit = max(float(np.nanmax(np.abs(mean), initial=0.0)) for mean in means)
    shared = {
        "layers": [*map(shorten_words, data.layers)],
        "first": edges.tolist(),
        "last": [*(edges[1:] - 1).tolist(), last],
        "limit": limit,
        "height": len(data.layers),
        "width": len(edges),
    }
    return [{**shared, "codes": to_base64(encode(mean.T, limit))} for mean in means], limit


def _interval_means(data: Runs, condition: Condition, edges: np.ndarray) -> np.ndarray:
    """Sums over the measured steps of each interval, averaged over the runs, (intervals, layers).

    NaN where no run has a measured step.
    """
    sums = np.full((len(condition.members), len(edges), len(data.layers)), np.nan)
    for member, found in zip(condition.members, sums, strict=True):
        place = np.searchsorted(edges, member.run.steps, side="right") - 1
        values = data.place(member, member.run.layer_totals(data.losses[0]))
        measured = np.unique(place)
        found[measured] = 0.0
        np.add.at(found, place, values)
    known = ~np.isnan(sums)
    count = known.sum(axis=0)
    total = np.where(known, sums, 0.0).sum(axis=0)
    means: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means
