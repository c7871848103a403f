"""`open_record`: a record as an `xarray.Dataset` that is read lazily, even while it is being written."""

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lca._extras import extra
from lca._paths import local_path
from lca.record._about import plan_of
from lca.record._damage import Guarded, check_files, damage_explained
from lca.record._schema import (
    COMMITTED,
    FIRST_WITH_MANIFEST,
    FORMAT,
    MISSING_IN,
    OF_CHECKS,
    RENAMED_SINCE,
    SCHEMA_VERSION,
    Plan,
    RecordError,
)
from lca.record._writers import close_if_over

if TYPE_CHECKING:
    import xarray
    import zarr

    from lca.record._files import RecordFiles

_READ_BYTES = 2**24
"""Approximate size of the pieces in which an array is read."""


def open_record(path: str | PathLike[str]) -> "xarray.Dataset":
    """Open the record at ``path`` with the rows that are complete at this moment.

    Only the labels are read now. The variables are dask arrays, so a record larger than memory can be
    reduced; ``.load()`` reads a smaller one completely. From a record that is still being written, or whose
    writer was killed, the complete blocks are shown; open it again to see more.

    Parameters
    ----------
    path
        The path that was passed to `Record`.

    Returns
    -------
    xarray.Dataset
        Dimensions, variables and attributes as described on the page "The record of a run". A record of an
        older version has the present names of the variables; its attributes are as they were written.

    Raises
    ------
    RecordError
        If there is no record, it was written by a newer version, or files are missing or damaged.

    Notes
    -----
    Needs the extra ``report``.

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
    path = local_path(path, RecordError)
    with extra("report"):
        import xarray as xr  # noqa: PLC0415 - half a second, and only for records
    from lca.record._files import RecordFiles  # noqa: PLC0415 - needs zarr

    close_if_over(path)
    group: Any = open_group(path)
    attributes = dict(group.attrs)
    plan = plan_of(path, attributes)
    with damage_explained(path):
        committed = int(group[COMMITTED][()])
        if isinstance(group.store, RecordFiles):
            committed = _checked(group.store, committed, attributes)
        _check_labels(path, group, plan)
        labels = {name: (dim, _labels(path, group[name])) for name, (dim, _) in plan.coordinates.items()}
        version = attributes["schema_version"]
        renamed, missing = RENAMED_SINCE.get(version, {}), MISSING_IN.get(version, ())
        arrays = {
            column: group[renamed.get(column.name, column.name)]
            for column in plan.columns
            if column.name not in missing
        }
        variables = {
            column.name: (("step", *column.dims), _rows(path, array, committed), dict(array.attrs))
            for column, array in arrays.items()
        }
        step = variables.pop("step")
        run = xr.Dataset(variables, {"step": (step[0], step[1].compute()), **labels}, attributes)
    if "sampled" in missing:  # until then, an estimate was recognised by a loss that is not measured
        run["sampled"] = np.isnan(run.loss_end)
    for name in set(missing) & set(OF_CHECKS):
        run[name] = np.nan * run.loss_end
    if "restarted" in missing:
        run["restarted"] = ("step", np.zeros(run.sizes["step"], bool))
    return run


def attributes_of(path: Path) -> dict[str, Any]:
    """The attributes of a record, once they have the right types.

    Raises
    ------
    RecordError
        If there is no record, or its attributes were edited or damaged.
    """
    attributes = dict(open_group(path).attrs)
    plan_of(path, attributes)
    return attributes


def open_group(path: Path) -> "zarr.Group":
    """The Zarr group of a record, read-only.

    Raises
    ------
    RecordError
        If there is no record, or this version of lca cannot read it.
    """
    with extra("report"):
        import zarr  # noqa: PLC0415
    if not local_path(path, RecordError).exists():
        raise RecordError(f"there is no record {str(path)!r}.")
    from lca.record._files import RecordFiles  # noqa: PLC0415 - needs zarr
    from lca.record._manifest import Manifest  # noqa: PLC0415 - the same

    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes = dict(group.attrs)
    except PermissionError as error:
        raise RecordError(f"the record {str(path)!r} cannot be read ({error.strerror}).") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"{str(path)!r} is not a record, or its zarr.json is damaged ({type(error).__name__}: {error}); "
            "a record is the folder that was passed to lca.Record."
        ) from error
    if attributes.get("format") != FORMAT:
        raise RecordError(f"{str(path)!r} is a Zarr group, but not a record of lca.")
    version = attributes.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RecordError(
            f"the record {str(path)!r} has schema version {version}, written by lca "
            f"{attributes.get('lca_version')}; this lca reads versions up to {SCHEMA_VERSION}; "
            "install the version that wrote it, or a later one"
        )
    if version < FIRST_WITH_MANIFEST:
        return group
    return zarr.open_group(RecordFiles(path, Manifest.read(path)), mode="r", zarr_format=3)


def _checked(files: "RecordFiles", counted: int, attributes: dict[str, Any]) -> int:
    """The number of complete rows, once everything that can be checked without reading them is right."""
    manifest = files.refresh()  # rows may have been added between both readings
    manifest.check_descriptions(files.record, manifest.descriptions)
    if counted not in manifest.counts:
        raise RecordError(
            f"the record {str(files.record)!r} is damaged: {COMMITTED!r} counts {counted} rows, its manifest "
            f"{manifest.rows}. Was it copied while it was written, or only in part?"
        )
    said = {name: attributes.get(name) for name in manifest.outcome}
    if said["complete"] and said != manifest.outcome:
        raise RecordError(
            f"the record {str(files.record)!r} is damaged: 'zarr.json' says that the run ended with {said}, "
            f"but its manifest {manifest.outcome}. Was it copied while it was written, or only in part?"
        )
    attributes |= {**manifest.outcome, "metrics": manifest.metrics.by_name()}
    return manifest.rows


def _check_labels(path: Path, group: Any, plan: Plan) -> None:
    """Raise `RecordError` unless the description fits the labels: it may claim a layout of any size."""
    sizes = _labels(path, group["tensor_size"]).tolist()
    if sizes != list(plan.layout.sizes) or group["measured"].shape != (len(plan.measured),):
        raise RecordError(
            f"the record {str(path)!r} is damaged: the layout or the measured losses in its zarr.json do "
            "not match its labels."
        )


def _labels(path: Path, array: Any) -> Any:
    check_files(path, array, array.shape[0])
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
