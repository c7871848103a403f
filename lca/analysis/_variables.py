"""Find variables of a record and label them; only the modules that read records depend on their layout."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lca._extras import extra
from lca.divisions import OTHER
from lca.errors import LCAError, UnknownNameError

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

By = Literal["tensor", "layer", "neuron"]


def select(record: "Dataset", name: str, measured: str) -> "DataArray":
    """Select a variable of a record for one measured loss."""
    variable = variable_of(record, name)
    known = [str(each) for each in record["measured"].values]
    if measured not in known:
        raise UnknownNameError("measured loss", measured, known)
    return variable.sel(measured=measured)


def refuse_sampled(record: "Dataset", measured: str, what: str) -> None:
    """Raise `LCAError` if the allocations of a record are estimates."""
    if "sampled" in record and bool(select(record, "sampled", measured).any()):
        raise LCAError(
            f"the allocations of {measured!r} are estimated from batches or samples: the {what} of single "
            "entries are those of the noise in these estimates. Sums over groups are meaningful "
            "(group_totals); for single entries record a run with an estimator on the full data, as "
            "lca.Adaptive()."
        )


def stored_groups(record: "Dataset", division: str) -> np.ndarray | None:
    """The places of the groups of a division, "other" as the last; ``None`` if there are no such groups."""
    if "group_total" not in record.variables:
        return None
    places = np.flatnonzero(record["division"].values.astype(str) == division)
    rest = record["group"].values[places].astype(str) == OTHER
    return np.append(places[~rest], places[rest]) if len(places) else None


def divisions_of(record: "Dataset") -> Mapping[str, Mapping[str, str]]:
    """The group of every tensor for each division that a tracker recorded with ``groups=``; may be empty.

    Other contents of a setting of this name are ignored.
    """
    found = record.attrs.get("settings", {})
    parts = found.get("groups", {}) if isinstance(found, Mapping) else {}
    if not isinstance(parts, Mapping) or "tensor" not in record.coords:
        return {}
    tensors = [str(name) for name in record["tensor"].values]
    return {
        str(division): groups
        for division, groups in parts.items()
        if isinstance(groups, Mapping) and all(isinstance(groups.get(name), str) for name in tensors)
    }


def check_by(by: str, divisions: Iterable[str] = ()) -> None:
    if by not in get_args(By):
        raise UnknownNameError("grouping", by, (*get_args(By), *divisions))


def variable_of(record: "Dataset", name: str) -> "DataArray":
    if "run" in record.dims:
        raise LCAError(
            "expected the record of one run, got several; select one with runs.isel(run=0), or compute over "
            "all of them with xarray, as in runs.layer_total.sum('step')."
        )
    if name not in record.variables:
        raise LCAError(
            f"the record has no variable {name!r}, which this analysis needs; it has "
            f"{', '.join(map(str, record.data_vars))}."
        )
    return record[name]


def labelled(
    values: np.ndarray, labels: Mapping[str, object], *, name: str, units: str, measured: str = ""
) -> "DataArray":
    """An array in memory whose axes have the dimensions and coordinates in ``labels``, in this order."""
    with extra("report"):
        import xarray as xr  # noqa: PLC0415 - half a second
    attributes = {"units": units, **({"measured": measured} if measured else {})}
    coordinates = {dim: np.asarray(found) for dim, found in labels.items()}
    return xr.DataArray(values, coordinates, tuple(labels), name=name, attrs=attributes)


def steps_of(record: "Dataset") -> np.ndarray:
    """The steps of the rows; 0, 1, 2, ... if the record has no such coordinate."""
    return np.asarray(record["step"].values)
