"""`save_all`: every figure that a record has data for, as files; `figure_of`: one of them."""

from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lca._extras import extra
from lca._output import GENERATOR, check_writable, write_files
from lca.errors import LCAError, UnknownNameError
from lca.plots._figures import figures_of
from lca.runs import Runs, open_runs

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from xarray import Dataset

Format = Literal["png", "pdf", "svg"]
_KEYS = {"png": "Software", "pdf": "Creator", "svg": "Creator"}


def save_all(
    record: "str | PathLike[str] | Dataset | Runs",
    folder: str | PathLike[str],
    *,
    by: str | None = None,
    format: Format = "png",  # noqa: A002 - as matplotlib's savefig has it
    overwrite: bool = False,
) -> list[Path]:
    """Write every figure that a record has data for: ``loss``, ``totals``, ``cumulative``, ``helping``, ...

    The first measured loss is drawn, beside it the second one where a figure shows two. Nothing that this
    library did not make is ever replaced, and either all figures are written or none.

    Parameters
    ----------
    record
        A path, a dataset from `lca.open_record`, or several runs from `lca.open_runs`. For several runs, the
        figures are ``conditions``, with intervals, and the means of each condition: ``cumulative-...``, and
        of losses with classes ``classes-...``.
    folder
        Where to write; created if needed.
    by
        Only the figures by this division: ``"layer"``, ``"tensor"``, or groups that the record holds, such as
        ``"head"``. Default: those by layer, and by each division of ``groups=`` and ``heads=`` that all runs
        have; the names of the latter end with that of the division, as in ``totals-head``.
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
        If the format is another one, or the record has no such division.
    LCAError
        If the record has no complete step.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),)), neurons=False) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     [path.name for path in save_all(f"{folder}/run.zarr", f"{folder}/figures", format="svg")]
    ['cumulative.svg', 'helping.svg', 'histogram.svg', 'layer_time.svg', 'loss.svg', 'totals.svg']
    """
    if format not in get_args(Format):
        raise UnknownNameError("format of a figure", format, get_args(Format))
    target, runs = Path(folder), _opened(record)
    check_writable(target)
    figures = {
        _file_name(f"{name}{'' if each == 'layer' else f'-{each}'}"): draw
        for each in (("layer", *runs.divisions) if by is None else (by,))
        for name, draw in figures_of(runs, each).items()
    }
    files = {f"{name}.{format}": _image(draw(), format) for name, draw in sorted(figures.items())}
    write_files(target, files, overwrite=overwrite, option="overwrite=True")
    return [target / name for name in files]


def figure_of(record: "str | PathLike[str] | Dataset | Runs", name: str, *, by: str = "layer") -> Figure:
    """One of the figures that `save_all` writes: ``figure_of("run.zarr", "cumulative")``.

    For options, call the ``plot_*`` function itself.

    Parameters
    ----------
    record
        As for `save_all`.
    name
        The name of the file that `save_all` writes, without its ending and the division.
    by
        ``"layer"``, ``"tensor"``, or groups that the record holds, such as ``"head"``. Heads are drawn
        without what is in none of them, beside which they could not be seen.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it.

    Raises
    ------
    UnknownNameError
        If the record has no data for such a figure, or no such division; the message lists those that it has.
    LCAError
        If the record has no complete step.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 2),)), neurons=False) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     figure_of(f"{folder}/run.zarr", "totals").axes[0].get_title()
    'Total allocation over the run'
    """
    figures = {_file_name(known): draw for known, draw in figures_of(_opened(record), by).items()}
    if name not in figures:
        which = "" if by == "layer" else f" by {by}"
        raise UnknownNameError(f"figure of this record{which}", name, figures)
    figure = figures[name]().get_figure(root=True)
    assert figure is not None
    return figure


def _opened(record: "str | PathLike[str] | Dataset | Runs") -> Runs:
    return record if isinstance(record, Runs) else open_runs(record)


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
        raise LCAError("the Axes belong to no figure; pass Axes that were made by plt.subplots().")
    figure.savefig(buffer, format=format, metadata={_KEYS[format]: GENERATOR})
    image = buffer.getvalue()
    return image + f"% {GENERATOR}\n".encode() if format == "pdf" else image
