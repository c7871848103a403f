"""Read plain arrays from a record. No other module of this package depends on the layout of a record.

A record is the `xarray.Dataset` that `lca.open_record` returns. Only the requested variables are read from
disk. Allocations are in units of the loss, negative = helping.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lca.errors import LCAError, UnknownNameError
from lca.views._signs import Signs

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

By = Literal["tensor", "layer", "neuron"]
CLASS_PREFIX = "class "
"""The prefix of the names of per-class losses: ``class 0``, ``class 1``, ..."""
_SIGN_VARIABLES = ("helping", "hurting", "zero")


def group_names(record: "Dataset", by: By | str = "layer") -> tuple[str, ...]:
    """The names of the tensors, layers or neurons of a record, in the order of the columns of `group_totals`.

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor", "layer", "neuron", or a division of the record: ``"group"`` or the name that ``groups=`` of
        the tracker gave it.

    Raises
    ------
    UnknownNameError
        If ``by`` is not one of these.
    LCAError
        If the record has no such groups.

    Examples
    --------
    >>> import xarray as xr
    >>> record = xr.Dataset(coords={"layer": ["fc1", "fc2"]})
    >>> group_names(record)
    ('fc1', 'fc2')
    """
    parts = divisions_of(record)
    if by in parts:
        return tuple(dict.fromkeys(parts[by][name] for name in group_names(record, "tensor")))
    _check_by(by, parts)
    if by not in record.coords:
        raise LCAError(f"the record has no totals per {by}; record the run with {by}s=True.")
    return tuple(map(str, record[by].values))


def group_totals(record: "Dataset", by: By | str = "layer", measured: str = "train") -> np.ndarray:
    """The allocation of each step to each group, ``Σ_{i in group} A_{t,i}``; shape (T, groups).

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor", "layer", "neuron", or a division of the record: ``"group"`` or the name that ``groups=`` of
        the tracker gave it.
    measured
        The name of the measured loss.

    Raises
    ------
    UnknownNameError
        If ``by`` or ``measured`` is unknown.
    LCAError
        If the record does not have these totals, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> totals = ("step", "measured", "layer"), [[[-1.0, 0.5]], [[-0.5, 0.25]]]
    >>> record = xr.Dataset({"layer_total": totals}, {"measured": ["train"], "layer": ["fc1", "fc2"]})
    >>> group_totals(record)
    array([[-1.  ,  0.5 ],
           [-0.5 ,  0.25]])
    """
    parts = divisions_of(record)
    if by in parts:
        tensors, groups = group_totals(record, "tensor", measured), group_names(record, by)
        labels = np.array([groups.index(parts[by][name]) for name in group_names(record, "tensor")])
        return np.stack([tensors[:, labels == i].sum(axis=1) for i in range(len(groups))], axis=1)
    _check_by(by, parts)
    return np.asarray(_select(record, f"{by}_total", measured).transpose("step", by).values)


def is_class(name: str) -> bool:
    """Whether a measured loss is that of a class: ``class 0``, or the term ``class 0`` of another loss.

    >>> is_class("class 0"), is_class("train/class 0"), is_class("by class")
    (True, True, False)
    """
    return name.rpartition("/")[2].startswith(CLASS_PREFIX)


def class_of(name: str) -> str:
    """The class of a per-class loss, as its name has it.

    >>> class_of("class 0"), class_of("train/class upper class")
    ('0', 'upper class')
    """
    return name.rpartition("/")[2].removeprefix(CLASS_PREFIX)


def class_totals(record: "Dataset", by: By = "layer") -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the per-class losses, and their group totals of shape (T, groups, classes).

    Per-class losses are measured losses named ``class 0``, ``class 1``, ..., or terms with these names in a
    `lca.Sum`, which a record lists as ``train/class 0`` and so on.

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor", "layer" or "neuron".

    Raises
    ------
    UnknownNameError
        If ``by`` is unknown.
    LCAError
        If the record has no per-class losses or not these totals, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> totals = ("step", "measured", "layer"), [[[-1.0], [-2.0], [0.5]]]
    >>> coordinates = {"measured": ["train", "class 0", "class 1"], "layer": ["fc"]}
    >>> class_totals(xr.Dataset({"layer_total": totals}, coordinates))
    (('class 0', 'class 1'), array([[[-2. ,  0.5]]]))
    """
    _check_by(by)
    measured = (str(name) for name in record["measured"].values)
    names = tuple(name for name in measured if is_class(name))
    if not names:
        raise LCAError(
            "the record has no per-class losses; measure losses named 'class 0', 'class 1', ... beside "
            "'train'."
        )
    totals = _variable(record, f"{by}_total").sel(measured=list(names))
    return names, np.asarray(totals.transpose("step", by, "measured").values)


def group_signs(
    record: "Dataset", by: Literal["tensor", "layer"] = "layer", measured: str = "train"
) -> Signs:
    """The numbers of helping, hurting and zero parameters in each group and step; shape (T, groups).

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor" or "layer".
    measured
        The name of the measured loss.

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record does not have these counts, or holds several runs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from lca import Layout, Record, StepAllocation, open_record
    >>> with TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 3),))) as record:
    ...         values = np.array([-1.0, -0.5, 0.0])
    ...         record.update(StepAllocation(values, 2.0, 0.5, residual=0.0, mass=1.5))
    ...     signs = group_signs(open_record(f"{folder}/run.zarr"))
    >>> signs.helping, signs.hurting, signs.zero
    (array([[2]]), array([[0]]), array([[1]]))
    """
    counts = [
        _select(record, f"{by}_{kind}", measured).transpose("step", by).values.astype(np.int64)
        for kind in _SIGN_VARIABLES
    ]
    return Signs(*counts)


def histogram_counts(record: "Dataset", measured: str = "train") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The histogram of |A| of each step: bin edges, counts of helping entries, counts of hurting entries.

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``histogram=True``.
    measured
        The name of the measured loss.

    Returns
    -------
    edges, helping, hurting
        Bin edges in units of the loss, shape (bins + 1,), and counts of shape (T, bins).

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record has no histogram, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> counts = ("step", "measured", "bin"), [[[3, 1]]]
    >>> low, high = ("bin", [0.1, 1.0]), ("bin", [1.0, 10.0])
    >>> record = xr.Dataset(
    ...     {"histogram_helping": counts, "histogram_hurting": counts},
    ...     {"measured": ["train"], "bin_edge_low": low, "bin_edge_high": high},
    ... )
    >>> edges, helping, hurting = histogram_counts(record)
    >>> edges, helping
    (array([ 0.1,  1. , 10. ]), array([[3, 1]]))
    """
    low, high = (np.asarray(_variable(record, f"bin_edge_{end}").values) for end in ("low", "high"))
    edges = np.append(low, high[-1])
    helping, hurting = (
        _select(record, f"histogram_{kind}", measured).transpose("step", "bin").values
        for kind in ("helping", "hurting")
    )
    return edges, np.asarray(helping), np.asarray(hurting)


def traced_parameters(record: "Dataset", measured: str = "train") -> dict[str, np.ndarray]:
    """The series of the parameters that `lca.Record` was told to trace.

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``trace=``.
    measured
        The name of the measured loss.

    Returns
    -------
    dict
        ``theta`` (θ_t) and ``movement`` (Δ_t) in units of the parameters, and ``values`` (A_t) in units of
        the loss; each of shape (T, traced).

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record has no traced parameters, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> trace = ("step", "traced"), [[1.0], [0.5]]
    >>> values = ("step", "measured", "traced"), [[[-0.25]], [[0.125]]]
    >>> record = xr.Dataset(
    ...     {"trace_theta": trace, "trace_movement": trace, "trace_values": values}, {"measured": ["train"]}
    ... )
    >>> traced_parameters(record)["values"]
    array([[-0.25 ],
           [ 0.125]])
    """
    series = {name: _variable(record, f"trace_{name}") for name in ("theta", "movement")}
    series["values"] = _select(record, "trace_values", measured)
    return {name: np.asarray(array.transpose("step", "traced").values) for name, array in series.items()}


def _select(record: "Dataset", name: str, measured: str) -> "DataArray":
    """One variable of one measured loss."""
    variable = _variable(record, name)
    known = [str(each) for each in record["measured"].values]
    if measured not in known:
        raise UnknownNameError("measured loss", measured, known)
    return variable.sel(measured=measured)


def divisions_of(record: "Dataset") -> Mapping[str, Mapping[str, str]]:
    """The group of every tensor by division, as ``groups=`` of a tracker wrote them; empty without.

    What else a setting of this name holds is no division.
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


def _check_by(by: str, divisions: Iterable[str] = ()) -> None:
    if by not in get_args(By):
        raise UnknownNameError("grouping", by, (*get_args(By), *divisions))


def _variable(record: "Dataset", name: str) -> "DataArray":
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
