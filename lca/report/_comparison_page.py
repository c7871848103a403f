"""The page that compares several runs."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from lca.errors import LCAError
from lca.report._charts import count_checkpoints
from lca.report._comparison import SECTIONS
from lca.report._html import fill_template, write_page
from lca.runs import Runs, open_runs
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
    except FloatingPointError as error:
        raise LCAError(
            "the numbers of the records are so large that their sums overflow, so there is no page of them: "
            "a run diverged; leave it out, or lower its learning rate."
        ) from error
    drawn = [chart for section in sections for chart in section.charts]
    units = {member.run.unit for member in data.members}
    if units == {"checkpoint"}:
        for chart in drawn:
            count_checkpoints(chart.figure)
    maps = {str(chart.figure.name): chart.cells for chart in drawn if chart.cells}
    named = title or " and ".join(condition.name for condition in data.conditions)
    shown = {"maps": maps, "unit": units.pop() if len(units) == 1 else "step"}
    return fill_template(named, sections, figures={}, data=shown)


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
