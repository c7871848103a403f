"""`save_all`: every figure that a record has data for, as files; `figure_of`: one of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from lca import analysis
from lca._extras import extra
from lca._output import GENERATOR, check_writable, write_files
from lca.analysis._reading import is_class
from lca.errors import LCAError, UnknownNameError
from lca.plots._layers import plot_classes, plot_layer_time, plot_neurons
from lca.plots._loss import plot_conditions, plot_cumulative, plot_loss, plot_totals, plot_train_heldout
from lca.plots._noise import plot_helping, plot_histogram, plot_parameter
from lca.plots._synchrony import plot_peaks
from lca.runs import Runs, open_runs
from lca.runs._run import Run
from lca.views._signs import Signs

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from xarray import Dataset

Format = Literal["png", "pdf", "svg"]
Figures: TypeAlias = Iterator[tuple[str, Callable[[], Axes]]]
MAX_TRACED = 10
"""The most traced parameters that are drawn."""
_KEYS = {"png": "Software", "pdf": "Creator", "svg": "Creator"}


def save_all(
    record: "str | PathLike[str] | Dataset | Runs",
    folder: str | PathLike[str],
    *,
    format: Format = "png",  # noqa: A002 - as matplotlib's savefig has it
    overwrite: bool = False,
) -> list[Path]:
    """Write every figure that a record has data for: ``loss``, ``totals``, ``cumulative``, ``helping``, ...

    The first measured loss is drawn, beside it the second one where a figure shows two. Nothing that this
    library did not make is ever replaced, and either all figures are written or none.

    Parameters
    ----------
    record
        A path, a dataset from `lca.open_record`, or several runs from `lca.open_runs`. Of several runs, the
        figures are ``conditions``, with intervals, and ``cumulative-...``, the mean of each condition; both
        also of each division of groups that all runs have.
    folder
        Where to write; created if needed.
    format
        ``"png"``, ``"pdf"`` or ``"svg"``.
    overwrite
        Whether to replace figures of an earlier call.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    OutputError
        If the folder cannot be written, or a file exists and may not be replaced.
    UnknownNameError
        If the format is another one.
    LCAError
        If the record has no complete step.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),)), neurons=False) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     [path.name for path in save_all(f"{folder}/run.zarr", f"{folder}/figures", format="svg")]
    ['cumulative.svg', 'helping.svg', 'histogram.svg', 'layer_time.svg', 'loss.svg', 'totals.svg']
    """
    if format not in get_args(Format):
        raise UnknownNameError("format of a figure", format, get_args(Format))
    target = Path(folder)
    check_writable(target)
    files = {f"{name}.{format}": _image(draw(), format) for name, draw in sorted(_figures(record))}
    write_files(target, files, overwrite=overwrite, option="overwrite=True")
    return [target / name for name in files]


def figure_of(record: "str | PathLike[str] | Dataset | Runs", name: str) -> Figure:
    """One of the figures that `save_all` writes: ``figure_of("run.zarr", "cumulative")``.

    For options, call the ``plot_*`` function itself.

    Parameters
    ----------
    record
        As for `save_all`.
    name
        The name of the file that `save_all` writes, without its ending.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it.

    Raises
    ------
    UnknownNameError
        If the record has no data for such a figure; the message lists those that it has.
    LCAError
        If the record has no complete step.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),)), neurons=False) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     figure_of(f"{folder}/run.zarr", "totals").axes[0].get_title()
    'Total allocation over the run'
    """
    figures = dict(_figures(record))
    if name not in figures:
        raise UnknownNameError("figure of this record", name, figures)
    figure = figures[name]().get_figure(root=True)
    assert figure is not None
    return figure


def _figures(record: "str | PathLike[str] | Dataset | Runs") -> Figures:
    runs = record if isinstance(record, Runs) else open_runs(record)
    return _of_runs(runs) if len(runs.members) > 1 else _of_run(runs.members[0].run)


def _of_run(run: Run) -> Figures:
    first, layers, sampled = run.losses[0], run.layers, run.is_sampled(run.losses[0])
    rows = {name: run.layer_totals(name) for name in run.losses[:2]}
    totals = [each.sum(axis=0) for each in rows.values()]
    losses = dict(zip(("training loss", "held-out loss"), rows, strict=False))
    title = f"Total allocation over {run.scope}"
    along = _along(run)
    yield "totals", lambda: plot_totals(layers, *totals, labels=losses, title=title)
    yield "layer_time", lambda: plot_layer_time(rows[first], layers, **along)
    yield "cumulative", lambda: plot_cumulative(rows[first], layers, **along)
    if len(rows) == 2:
        named = {shown: f"{name} loss" for shown, name in losses.items()}
        train, heldout = rows.values()
        yield "train_heldout", lambda: plot_train_heldout(train, heldout, layers, labels=named, **along)
    if not np.isnan(run.per_step("loss_end", first)).any() and run.consecutive:
        yield "loss", lambda: _loss(run, first)
    if not sampled:
        yield "helping", lambda: _helping(run, first)
        if run.has("histogram_helping"):
            edges, *counts = analysis.histogram_counts(run.record, first)
            yield "histogram", lambda: plot_histogram(edges, *(each.sum(axis=0) for each in counts))
    if run.has("neuron_total"):
        names = analysis.group_names(run.record, "neuron")
        yield (
            "neurons",
            lambda: plot_neurons(analysis.group_totals(run.record, "neuron", first).values, names, **along),
        )
    if len(layers) > 1 and len(run.steps) > 2:
        yield "peaks", lambda: plot_peaks(analysis.learning_peaks(rows[first], top=20), layers, **along)
    for division in analysis.division_names(run.record):
        yield from _groups(run, division, first)
    yield from _classes(run)
    yield from _traced(run, first)


class _Along(TypedDict):
    """The axis of the steps, of `Style`."""

    steps: np.ndarray
    unit: str


def _along(run: Run) -> _Along:
    return {"steps": np.append(run.steps, run.ends[-1]), "unit": run.unit}


def _groups(run: Run, division: str, measured: str) -> Figures:
    """Totals and cumulative allocations of the groups of a division."""
    names = analysis.group_names(run.record, division)
    rows = analysis.group_totals(run.record, division, measured).values
    title = f"Total allocation by {division}, {measured} loss,\nover {run.scope}"
    yield _file_name(f"totals-{division}"), lambda: plot_totals(names, rows.sum(axis=0), title=title)
    shown = f"Cumulative allocation by {division}, {measured} loss"
    yield (
        _file_name(f"cumulative-{division}"),
        lambda: plot_cumulative(rows, names, title=shown, **_along(run)),
    )


def _of_runs(runs: Runs) -> Figures:
    names = [condition.name for condition in runs.conditions]
    common = [
        division
        for division in analysis.division_names(runs.members[0].run.record)
        if all(division in analysis.division_names(member.run.record) for member in runs.members)
    ]
    for by in ("layer", *common):
        ending = "" if by == "layer" else f"-{by}"
        yield _file_name(f"conditions{ending}"), partial(_conditions, runs, by, names)
        series = runs.series(by=by)["total"]
        for condition in runs.conditions:
            of = series.sel(run=[member.label for member in condition.members]).dropna("step")
            if of.sizes["step"]:
                yield (
                    _file_name(f"cumulative{ending}-{condition.name}"),
                    partial(_mean_curves, runs, condition.name, by, of.values),
                )


def _conditions(runs: Runs, by: str, conditions: Sequence[str]) -> Axes:
    found = runs.totals(by=by)
    ends = found["lower"].values, found["upper"].values
    level = f"{100 * found.confidence:g} % intervals"
    title = f"Total allocation by condition and {by},\n{runs.losses[0]} loss, with {level}"
    return plot_conditions(runs.names(by), conditions, found["mean"].values, intervals=ends, title=title)


def _mean_curves(runs: Runs, name: str, by: str, rows: np.ndarray) -> Axes:
    """The curves of the mean over the steps that all runs of a condition have, (runs, steps, groups)."""
    sums = np.concatenate([np.zeros_like(rows[:, :1]), np.cumsum(rows, axis=1)], axis=1)
    pooled = runs.pool(runs.condition(name), sums)
    title = f"{name}: cumulative allocation by {by}, mean over {len(rows)} runs"
    ends = None if np.isnan(pooled.half).all() else (pooled.lower, pooled.upper)
    return plot_cumulative(rows.mean(axis=0), runs.names(by), intervals=ends, title=title)


def _loss(run: Run, name: str) -> Axes:
    start, end, total = (run.per_step(each, name) for each in ("loss_start", "loss_end", "total"))
    rebuilt = start[0] + np.append(0.0, np.cumsum(total))
    return plot_loss(np.append(start[0], end), rebuilt, name=f"{name} loss", **_along(run))


def _helping(run: Run, name: str) -> Axes:
    signs = run.layer_signs(name)
    overall = Signs(*(counts.sum(axis=1) for counts in (signs.helping, signs.hurting, signs.zero)))
    return plot_helping(overall.helping_percent(), overall.zero_percent(), **_along(run))


def _classes(run: Run) -> Figures:
    """One figure for each loss that has classes."""
    parents = dict.fromkeys(name.rpartition("/")[0] for name in run.measured if is_class(name))
    for parent in parents:
        names = [n for n in run.measured if is_class(n) and n.rpartition("/")[0] == parent]
        totals = np.stack([run.layer_totals(name).sum(axis=0) for name in names], axis=1)
        labels = {name: run.class_label(name) for name in names}
        yield (
            _file_name(f"classes-{parent}" if parent else "classes"),
            partial(plot_classes, run.layers, names, totals, labels=labels),
        )


def _traced(run: Run, measured: str) -> Figures:
    if not run.has("trace_theta"):
        return
    series = analysis.traced_parameters(run.record, measured)
    for at, label in enumerate(series["parameter"].values.tolist()[:MAX_TRACED]):
        columns = [series[name].values[:, at] for name in ("theta", "movement", "allocation")]
        yield _file_name(f"parameter-{label}"), partial(plot_parameter, *columns, name=label, **_along(run))


def _file_name(text: str) -> str:
    """Text with only letters, digits, dots and hyphens.

    >>> _file_name("parameter-fc.weight[0, 3]")
    'parameter-fc.weight-0-3'
    """
    kept = "".join(sign if sign.isalnum() or sign in "._-" else " " for sign in text)
    return "-".join(kept.split())[:120]


def _image(ax: Axes, format: Format) -> bytes:  # noqa: A002
    buffer, figure = BytesIO(), ax.get_figure(root=True)
    if figure is None:
        raise LCAError("the Axes belong to no figure.")
    figure.savefig(buffer, format=format, metadata={_KEYS[format]: GENERATOR})
    image = buffer.getvalue()
    return image + f"% {GENERATOR}\n".encode() if format == "pdf" else image
