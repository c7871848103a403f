"""From a record to the plain arrays that the analyses take; nothing else here knows how a record is laid out.

A record is an `xarray.Dataset` as `lca.open_record` gives it. Only what is asked for is read from disk.
"""

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lca.errors import LCAError, UnknownNameError
from lca.views.signs import Signs

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

By = Literal["tensor", "layer", "neuron"]
CLASS = "class "
"""How the names of per-class losses begin: ``class 0``, ``class 1``, ..."""


def group_names(record: "Dataset", by: By = "layer") -> tuple[str, ...]:
    """The names of the groups along ``by``, in the order of the columns of `group_rows`."""
    _check_by(by)
    if by not in record.coords:
        raise LCAError(f"the record has no totals by {by}; record with {by}s=True.")
    return tuple(map(str, record[by].values))


def group_rows(record: "Dataset", by: By = "layer", measured: str = "train") -> np.ndarray:
    """``Σ_{i in group} A_{t,i}`` of one measured loss, shape (T, groups).

    Raises
    ------
    LCAError
        If the record does not have such totals; `UnknownNameError` if it has no such loss.
    """
    _check_by(by)
    return np.asarray(_of(record, f"{by}_total", measured).transpose("step", by).values)


def is_class(name: str) -> bool:
    """Whether this is the loss of a class, measured beside others or a term of one.

    >>> is_class("class 0"), is_class("train/class 0"), is_class("by class")
    (True, True, False)
    """
    return name.rpartition("/")[2].startswith(CLASS)


def class_rows(record: "Dataset", by: By = "layer") -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the per-class losses, and their group totals: shape (T, groups, classes).

    They are measured losses ``class 0``, ``class 1``, ..., or terms of these names in a `lca.Sum`, which a
    record calls ``train/class 0`` and so on.
    """
    _check_by(by)
    measured = (str(name) for name in record["measured"].values)
    names = tuple(name for name in measured if is_class(name))
    if not names:
        raise LCAError("the record has no losses by class; measure 'class 0', 'class 1', ... beside 'train'.")
    totals = _variable(record, f"{by}_total").sel(measured=list(names))
    return names, np.asarray(totals.transpose("step", by, "measured").values)


def group_signs(
    record: "Dataset", by: Literal["tensor", "layer"] = "layer", measured: str = "train"
) -> Signs:
    """How many parameters of each group helped, hurt or did neither: counts of shape (T, groups)."""
    counts = [
        _of(record, f"{by}_{kind}", measured).transpose("step", by).values.astype(np.int64)
        for kind in ("helped", "hurt", "zero")
    ]
    return Signs(*counts)


def histogram(record: "Dataset", measured: str = "train") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin edges (bins + 1,), and the counts of helping and of hurting entries, each (T, bins)."""
    low, high = (np.asarray(_variable(record, f"bin_edge_{end}").values) for end in ("low", "high"))
    edges = np.append(low, high[-1])
    helping, hurting = (
        _of(record, f"histogram_{kind}", measured).transpose("step", "bin").values
        for kind in ("helping", "hurting")
    )
    return edges, np.asarray(helping), np.asarray(hurting)


def traced(record: "Dataset", measured: str = "train") -> dict[str, np.ndarray]:
    """What was kept of single parameters: ``theta``, ``movement`` and ``values``, each (T, traced)."""
    rows = {name: _variable(record, f"trace_{name}") for name in ("theta", "movement")}
    rows["values"] = _of(record, "trace_values", measured)
    return {name: np.asarray(row.transpose("step", "traced").values) for name, row in rows.items()}


def _of(record: "Dataset", name: str, measured: str) -> "DataArray":
    variable = _variable(record, name)
    known = [str(each) for each in record["measured"].values]
    if measured not in known:
        raise UnknownNameError("measured loss", measured, known)
    return variable.sel(measured=measured)


def _check_by(by: str) -> None:
    if by not in get_args(By):
        raise UnknownNameError("grouping", by, get_args(By))


def _variable(record: "Dataset", name: str) -> "DataArray":
    if "run" in record.dims:
        raise LCAError(
            "these are the records of several runs, and this reads one; choose it with runs.isel(run=0), "
            "say, or compute over all of them with xarray, as in runs.layer_total.sum('step')."
        )
    if name not in record.variables:
        raise LCAError(
            f"the record has no {name!r}, which this analysis reads; it has "
            f"{', '.join(map(str, record.data_vars))}."
        )
    return record[name]
