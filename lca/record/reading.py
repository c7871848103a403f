"""`open_record`: a record as an `xarray.Dataset`, read when it is used, also while it is being written."""

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.extras import extra
from lca.record.about import plan_of
from lca.record.damage import Guarded, check_files, damage_explained
from lca.record.schema import COMMITTED, FORMAT, SCHEMA_VERSION, RecordError

if TYPE_CHECKING:
    import xarray
    import zarr

_READ_BYTES = 2**24
"""About how much a piece of an array holds that is read at once."""


def open_record(path: str | PathLike[str]) -> "xarray.Dataset":
    """The record at ``path``, as far as it is complete at this moment.

    Nothing but the labels is read here: the variables are dask arrays, so a record larger than memory can be
    reduced, and ``.load()`` reads one that is not. A record that is still being written, or whose writer was
    killed, shows its complete blocks; open it again to see more.

    Parameters
    ----------
    path
        What was given to `Record`.

    Returns
    -------
    xarray.Dataset
        Dimensions, variables and attributes as in the page "The record of a run". Needs the extra ``report``.

    Raises
    ------
    RecordError
        If there is no record, it was written by a newer version, or files of it are missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> layout = Layout(("fc.weight", "fc.bias"), ((1, 2), (1,)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", layout) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     run = open_record(f"{folder}/run.zarr").load()
    >>> run.tensor_total.sel(measured="train", tensor="fc.bias").values
    array([0.5])
    """
    path = Path(path)
    with extra("report"):
        import xarray as xr  # noqa: PLC0415 - half a second, and only for records

    group: Any = open_group(path)
    plan = plan_of(path, group.attrs)
    with damage_explained(path):
        committed = int(group[COMMITTED][()])  # first: what it counts was complete before it was counted
        labels = {name: (dim, _labels(group[name])) for name, (dim, _) in plan.coordinates.items()}
        variables = {
            column.name: (
                ("step", *column.dims),
                _rows(path, group[column.name], committed),
                dict(group[column.name].attrs),
            )
            for column in plan.columns
        }
        step = variables.pop("step")
        return xr.Dataset(variables, {"step": (step[0], step[1].compute()), **labels}, dict(group.attrs))


def open_records(paths: Sequence[str | PathLike[str]]) -> "xarray.Dataset":
    """Several runs to be compared, such as the seeds of one set-up, along the new dimension ``run``.

    The label of a run is its path. What the runs say alike about themselves stays in the attributes.

    Raises
    ------
    RecordError
        If the runs do not have the same tensors, measured losses, variables and steps; the message names the
        first difference.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> layout = Layout(("fc.weight", "fc.bias"), ((1, 2), (1,)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [f"{folder}/{seed}.zarr" for seed in range(3)]
    ...     for seed, path in enumerate(paths):
    ...         with Record(path, layout) as record:
    ...             record.update(StepAllocation(np.full(3, -float(seed)), 2.0, 1.0, residual=0.0, mass=1.0))
    ...     runs = open_records(paths).load()
    >>> runs.tensor_total.sel(measured="train", tensor="fc.bias").std("run").values.round(2)
    array([0.82])
    """
    with extra("report"):
        import xarray as xr  # noqa: PLC0415
    if not paths:
        raise RecordError("there is no record to open; pass the paths of at least one.")
    runs = [open_record(path) for path in paths]
    for path, run in zip(paths[1:], runs[1:], strict=True):
        _check_comparable(runs[0], run, f"{str(paths[0])!r} and {str(path)!r} cannot be compared")
    labels = xr.DataArray([str(path) for path in paths], dims="run", name="run")
    return xr.concat(runs, labels, data_vars="all", coords="minimal", combine_attrs="drop_conflicts")


def _check_comparable(first: "xarray.Dataset", other: "xarray.Dataset", what: str) -> None:
    for held in ("tensor", "measured"):
        for a, b, where in ((first, other, "first"), (other, first, "second")):
            more = [name for name in a[held].values.tolist() if name not in b[held].values]
            if more:
                raise RecordError(f"{what}: only the {where} has the {held} {', '.join(map(repr, more))}.")
    if first.attrs["layout"] != other.attrs["layout"]:
        raise RecordError(f"{what}: tensors differ in order or shape.")
    if set(first.variables) != set(other.variables):
        found = sorted(map(str, set(first.variables) ^ set(other.variables)))
        raise RecordError(f"{what}: only one of them has {', '.join(found)}.")
    for name in ("step", "measured", *(("traced",) if "traced" in first else ())):
        if first[name].values.tolist() != other[name].values.tolist():
            raise RecordError(
                f"{what}: they have different {name}s ({first.sizes[name]} and {other.sizes[name]}, or other "
                f"labels); select those they share with run.sel({name}=...)."
            )


def open_group(path: Path) -> "zarr.Group":
    """The Zarr group of a record of a version that can be read here; read-only."""
    with extra("report"):
        import zarr  # noqa: PLC0415
    if not path.exists():
        raise RecordError(f"there is no record {str(path)!r}.")
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes = dict(group.attrs)
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{str(path)!r} is no record, or its zarr.json is damaged ({type(error).__name__}: {error}); a "
            "record is the folder that was given to lca.Record."
        ) from error
    if attributes.get("format") != FORMAT:
        raise RecordError(f"{str(path)!r} is a Zarr group, but no record of lca.")
    version = attributes.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RecordError(
            f"the record {str(path)!r} has schema version {version}, written by lca "
            f"{attributes.get('lca_version')}; this lca reads up to version {SCHEMA_VERSION}: "
            "pip install --upgrade loss-change-allocation"
        )
    return group


def _labels(array: Any) -> Any:
    labels = array[...]
    return labels if labels.dtype.kind in "fi" else np.array(labels.tolist())


def _rows(path: Path, array: Any, committed: int) -> Any:
    import dask.array as da  # noqa: PLC0415

    check_files(path, array, committed)
    have = array.shape[0]
    if have < committed:
        raise RecordError(
            f"the record {str(path)!r} is damaged: {array.basename} has {have} of {committed} rows. "
            "Was it copied while it was written, or only in part?"
        )
    files = array.shards or array.chunks
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    blocks = max(1, _READ_BYTES // max(1, files[0] * row_bytes))
    chunks = (blocks * files[0], *files[1:])
    whole = da.from_array(Guarded(path, array), chunks=chunks, name=False)  # type: ignore[no-untyped-call]
    return whole[:committed]
