"""Read the sums, signs and sizes of a record as labelled arrays.

A record is the `xarray.Dataset` that `lca.open_record` returns. Only the requested variables are read from
disk. Allocations are in units of the loss, negative = helping.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lca.analysis._variables import (
    By,
    check_by,
    divisions_of,
    labelled,
    refuse_sampled,
    select,
    steps_of,
    stored_groups,
    variable_of,
)
from lca.divisions import _in_order
from lca.errors import LCAError, UnknownNameError
from lca.views._signs import Signs

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

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
        the tracker gave it; ``"head"``, with ``heads=``.

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
    if (stored := stored_groups(record, by)) is not None:
        return tuple(map(str, record["group"].values[stored]))
    parts = divisions_of(record)
    if by in parts:
        return _in_order(parts[by][name] for name in group_names(record, "tensor"))
    check_by(by, division_names(record))
    if by not in record.coords:
        raise LCAError(f"the record has no totals per {by}; record the run with {by}s=True.")
    return tuple(map(str, record[by].values))


def group_totals(record: "Dataset", by: By | str = "layer", measured: str = "train") -> "DataArray":
    """The allocation of each step to each group, ``Σ_{i in group} A_{t,i}``; dimensions (step, group).

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor", "layer", "neuron", or a division of the record: ``"group"`` or the name that ``groups=`` of
        the tracker gave it; ``"head"``, with ``heads=``.
    measured
        The name of the measured loss.

    Returns
    -------
    xarray.DataArray
        float64, in memory, with the coordinates ``step`` (the steps that were measured) and ``by`` (the names
        of the groups). ``.to_dataframe()`` and ``.to_pandas()`` convert it to tables; the functions of
        `lca.analysis` accept it as an array, and use its steps.

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
    >>> found = group_totals(record)
    >>> found.sel(layer="fc1").values, found.sum("step").to_series().to_dict()
    (array([-1. , -0.5]), {'fc1': -1.5, 'fc2': 0.75})
    """
    return _labelled_groups(record, _total_values(record, by, measured), by, "total", measured)


def _total_values(record: "Dataset", by: str, measured: str) -> np.ndarray:
    if (stored := stored_groups(record, by)) is not None:
        found = select(record, "group_total", measured).transpose("step", "group").values
        return np.asarray(found[:, stored])
    parts = divisions_of(record)
    if by in parts:
        tensors, groups = _total_values(record, "tensor", measured), group_names(record, by)
        labels = np.array([groups.index(parts[by][name]) for name in group_names(record, "tensor")])
        return np.stack([tensors[:, labels == i].sum(axis=1) for i in range(len(groups))], axis=1)
    check_by(by, division_names(record))
    return np.asarray(select(record, f"{by}_total", measured).transpose("step", by).values)


def group_stderr(record: "Dataset", by: By | str = "layer", measured: str = "train") -> "DataArray":
    """The standard error of `group_totals` in each step; dimensions (step, group).

    NaN where the estimator gives none. Neighbouring steps may share samples, so the errors of successive
    steps are not independent.

    Parameters
    ----------
    record, by, measured
        As for `group_totals`.

    Returns
    -------
    xarray.DataArray
        With the coordinates of `group_totals`.

    Raises
    ------
    UnknownNameError
        If ``by`` or ``measured`` is unknown.
    LCAError
        If the record does not have these errors, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> errors = ("step", "measured", "layer"), [[[0.1, 0.2]]]
    >>> record = xr.Dataset({"layer_stderr": errors}, {"measured": ["train"], "layer": ["fc1", "fc2"]})
    >>> group_stderr(record).sel(layer="fc2").values
    array([0.2])
    """
    if (stored := stored_groups(record, by)) is not None:
        found = select(record, "group_stderr", measured).transpose("step", "group").values[:, stored]
    else:
        check_by(by, division_names(record))
        found = select(record, f"{by}_stderr", measured).transpose("step", by).values
    return _labelled_groups(record, np.asarray(found), by, "stderr", measured)


def _labelled_groups(record: "Dataset", values: np.ndarray, by: str, what: str, measured: str) -> "DataArray":
    labels = {"step": steps_of(record), by: group_names(record, by)}
    return labelled(values, labels, name=f"{by}_{what}", units="loss", measured=measured)


def division_names(record: "Dataset") -> tuple[str, ...]:
    """The divisions of a record, as ``by`` of `group_totals`: those of ``groups=``, and ``"head"``.

    Parameters
    ----------
    record
        From `lca.open_record`.

    Examples
    --------
    >>> import xarray as xr
    >>> division_names(xr.Dataset())
    ()
    """
    stored = record["division"].values.astype(str).tolist() if "division" in record.variables else ()
    return tuple(dict.fromkeys((*stored, *divisions_of(record))))


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


def class_totals(record: "Dataset", by: By = "layer", *, measured: str | None = None) -> "DataArray":
    """The group totals of the losses of single classes; dimensions (step, group, class).

    The losses of classes are either the terms ``class 0``, ``class 1``, ... of another loss, recorded as
    ``train/class 0`` and so on (they add up to that loss), or measured losses with these names (each is the
    mean over the examples of its class). Only the classes of one loss are read: those of training and
    held-out data are never mixed.

    Parameters
    ----------
    record
        From `lca.open_record`.
    by
        "tensor", "layer" or "neuron".
    measured
        The loss of which the classes are terms, such as ``"heldout"``; ``""`` for measured losses that are
        named ``class 0`` and so on. Not needed if the record has the classes of only one loss.

    Returns
    -------
    xarray.DataArray
        float64, with the coordinates ``step``, ``by``, ``class`` (such as ``"0"``), and ``class_loss`` along
        ``class``: the name of the loss of each class in the record.

    Raises
    ------
    UnknownNameError
        If ``by`` is unknown, or ``measured`` has no classes.
    LCAError
        If the record has no losses of classes; if it has those of several losses and ``measured`` is not
        given; if it lacks these totals; or if it contains several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> totals = ("step", "measured", "layer"), [[[-1.0], [-2.0], [0.5], [-0.9]]]
    >>> losses = ["train", "train/class 0", "train/class 1", "heldout/class 0"]
    >>> record = xr.Dataset({"layer_total": totals}, {"measured": losses, "layer": ["fc"]})
    >>> class_totals(record, measured="train").sel(layer="fc", step=0).to_series().to_dict()
    {'0': -2.0, '1': 0.5}
    """
    check_by(by)
    names = _class_losses(record, measured)
    totals = variable_of(record, f"{by}_total").sel(measured=list(names)).transpose("step", by, "measured")
    labels = {"step": steps_of(record), by: group_names(record, by), "class": [*map(class_of, names)]}
    parent = names[0].rpartition("/")[0]
    found = labelled(np.asarray(totals.values), labels, name=f"{by}_total", units="loss", measured=parent)
    return found.assign_coords(class_loss=("class", np.asarray(names)))


def _class_losses(record: "Dataset", measured: str | None) -> tuple[str, ...]:
    """The losses of the classes of one loss."""
    found: dict[str, list[str]] = {}
    for name in map(str, record["measured"].values):
        if is_class(name):
            found.setdefault(name.rpartition("/")[0], []).append(name)
    if not found:
        raise LCAError(
            "the record has no per-class losses; measure losses named 'class 0', 'class 1', ... beside "
            "'train', or objective.by_class()."
        )
    if measured is None and len(found) > 1:
        raise LCAError(
            f"the record has the classes of {len(found)} losses ({', '.join(map(repr, found))}); choose one, "
            f"as measured={next(iter(found))!r}."
        )
    chosen = next(iter(found)) if measured is None else measured
    if chosen not in found:
        raise UnknownNameError("loss with classes", chosen, found)
    return tuple(found[chosen])


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
        If the record does not have these counts or holds several runs, or the allocations are estimated from
        samples, whose noise draws the signs to one half.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from lca import Layout, Record, StepAllocation, open_record
    >>> with TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("fc.weight",), ((1, 3),))) as record:
    ...         values = np.array([-1.0, -0.5, 0.0])
    ...         record.update(StepAllocation(values, 2.0, 0.5, residual=0.0, mass=1.5))
    ...     signs = group_signs(open_record(f"{folder}/run.zarr"))
    >>> signs.helping.values, signs.zero_percent().to_series().round(1).to_dict()
    (array([[2]]), {(0, 'fc'): 33.3})
    """
    refuse_sampled(record, measured, "signs")
    labels = {"step": steps_of(record), by: group_names(record, by)}

    def counted(kind: str) -> Any:
        values = select(record, f"{by}_{kind}", measured).transpose("step", by).values.astype(np.int64)
        return labelled(values, labels, name=kind, units="parameters", measured=measured)

    return Signs(*map(counted, _SIGN_VARIABLES))


def histogram_counts(
    record: "Dataset", measured: str = "train"
) -> tuple[np.ndarray, "DataArray", "DataArray"]:
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
        Bin edges in units of the loss, shape (bins + 1,), and counts (step, bin_edge_low).

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record has no histogram or holds several runs, or the allocations are estimated from samples,
        whose noise adds to their sizes.

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
    >>> edges, helping.values
    (array([ 0.1,  1. , 10. ]), array([[3, 1]]))
    """
    refuse_sampled(record, measured, "sizes")
    low, high = (np.asarray(variable_of(record, f"bin_edge_{end}").values) for end in ("low", "high"))
    labels = {"step": steps_of(record), "bin_edge_low": low}

    def counted(kind: str) -> "DataArray":
        values = select(record, f"histogram_{kind}", measured).transpose("step", "bin").values
        return labelled(values, labels, name=kind, units="parameters", measured=measured)

    return np.append(low, high[-1]), counted("helping"), counted("hurting")
