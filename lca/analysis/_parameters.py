"""Read single parameters from a record: their allocations, movements and gradients."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.analysis._oscillation import mean_gradient
from lca.analysis._variables import labelled, select, steps_of, variable_of
from lca.errors import LCAError
from lca.layout import _layout_from

if TYPE_CHECKING:
    from xarray import DataArray, Dataset


def traced_parameters(record: "Dataset", measured: str = "train") -> "Dataset":
    """The series of the parameters that were recorded with ``trace=`` of `lca.Record`.

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``trace=``.
    measured
        The name of the measured loss.

    Returns
    -------
    xarray.Dataset
        float64, with the dimensions (step, traced): ``theta`` (θ_t) and ``movement`` (Δ_t) in units of the
        parameters, ``allocation`` (A_t) in units of the loss, and ``gradient`` (A_t / Δ_t, the gradient
        averaged along the step; NaN if Δ_t is 0). The coordinate ``traced`` contains the positions in θ,
        and ``parameter`` the names.

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record has no traced parameters, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> theta, movement = [(("step", "traced"), rows) for rows in ([[1.0], [0.5]], [[-0.5], [0.25]])]
    >>> variables = {"trace_theta": theta, "trace_movement": movement}
    >>> variables["trace_values"] = ("step", "measured", "traced"), [[[-0.25]], [[0.125]]]
    >>> names = {"traced": [3], "traced_name": ("traced", ["fc.weight[0, 3]"])}
    >>> found = traced_parameters(xr.Dataset(variables, {"measured": ["train"], **names}))
    >>> found["allocation"].values.ravel(), found["gradient"].values.ravel()
    (array([-0.25 ,  0.125]), array([0.5, 0.5]))
    >>> found["parameter"].values.tolist()
    ['fc.weight[0, 3]']
    """
    series = {name: variable_of(record, f"trace_{name}") for name in ("theta", "movement")}
    series["allocation"] = select(record, "trace_values", measured)
    labels = {"step": steps_of(record), "traced": np.asarray(record["traced"].values)}
    units = {"allocation": "loss"}
    arrays = {
        name: labelled(
            np.asarray(array.transpose("step", "traced").values),
            labels,
            name=name,
            units=units.get(name, "parameter"),
            measured=measured if name in units else "",
        )
        for name, array in series.items()
    }
    arrays["gradient"] = _gradient(arrays["allocation"], arrays["movement"])
    found: Dataset = arrays["theta"].to_dataset().assign(arrays)
    return found.assign_coords(parameter=("traced", np.asarray(record["traced_name"].values)))


def allocations(record: "Dataset", measured: str = "train") -> "DataArray":
    """The allocation of every parameter in every step; dimensions (step, parameter).

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``values=``.
    measured
        The name of the measured loss.

    Returns
    -------
    xarray.DataArray
        In the dtype of the record, loaded lazily (a `dask <https://docs.dask.org>`_ array), with the
        coordinate ``step``, and the coordinates ``tensor`` and ``layer`` along ``parameter``, as in
        ``allocations(run).groupby("layer").sum()``.

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        If the record has no ``values``, or holds several runs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from lca import Layout, Record, StepAllocation, open_record
    >>> layout = Layout(("fc.w", "fc.b"), ((2,), ()))
    >>> with TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", layout, values="float64") as record:
    ...         values = np.array([-1.0, -0.5, 0.25])
    ...         record.update(StepAllocation(values, 2.0, 0.75, residual=0.0, mass=1.75))
    ...     found = allocations(open_record(f"{folder}/run.zarr")).load()
    >>> found.dims, found["tensor"].values.tolist(), found.sel(step=0).values
    (('step', 'parameter'), ['fc.w', 'fc.w', 'fc.b'], array([-1.  , -0.5 ,  0.25]))
    """
    found = select(record, "values", measured).transpose("step", "parameter")
    return _named(record, found, "allocation", units="loss", measured=measured)


def movements(record: "Dataset") -> "DataArray":
    """The movement ``Δ_t = θ_{t+1} - θ_t`` of every parameter; dimensions (step, parameter).

    A record contains θ at the start of each step, so the movement of a step is known only if the next step
    was recorded, too: the last step is omitted, and so is every step before a gap.

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``theta=``.

    Returns
    -------
    xarray.DataArray
        In units of the parameters, in the dtype of the record, loaded lazily, with the coordinates of
        `allocations`. Differences of rounded θ have an error of about ``eps |θ|``: record
        ``theta="float64"`` if small movements matter. The movements of traced parameters are exact
        (`traced_parameters`).

    Raises
    ------
    LCAError
        If the record has no ``theta``, no two successive steps, or holds several runs.

    Examples
    --------
    >>> import xarray as xr
    >>> theta = ("step", "parameter"), [[1.0, 0.0], [0.5, 0.0], [0.75, 0.0]]
    >>> layout = '{"names": ["w"], "shapes": [[2]], "neuron_axes": [0]}'
    >>> record = xr.Dataset({"theta": theta}, {"step": [0, 1, 5]}, {"layout": layout})
    >>> found = movements(record)
    >>> found["step"].values, found.values
    (array([0]), array([[-0.5,  0. ]]))
    """
    theta = variable_of(record, "theta").transpose("step", "parameter")
    ends = np.asarray(record["step_end"].values) if "step_end" in record else steps_of(record) + 1
    known = np.flatnonzero(ends[:-1] == steps_of(record)[1:])
    if not len(known):
        raise LCAError(
            "the record has no two successive steps, so no movement can be computed from θ; record the run "
            "without every=."
        )
    found = theta.isel(step=known).copy(data=theta.data[known + 1] - theta.data[known])
    return _named(record, found, "movement", units="parameter")


def mean_gradients(record: "Dataset", measured: str = "train") -> "DataArray":
    """The gradient averaged along each step, ``A_{t,i} / Δ_{t,i}``; dimensions (step, parameter).

    This is the gradient of the measured loss, not the one that the optimizer received. The steps are those of
    `movements`.

    Parameters
    ----------
    record
        From `lca.open_record`, of a run recorded with ``values=`` and ``theta=``.
    measured
        The name of the measured loss.

    Returns
    -------
    xarray.DataArray
        float64, in memory, in units of the loss per unit of the parameter; NaN where the parameter did not
        change. For rounding errors, see `mean_gradient` and `movements`.

    Raises
    ------
    UnknownNameError
        If ``measured`` is unknown.
    LCAError
        As `allocations` and `movements` do.

    Examples
    --------
    >>> import xarray as xr
    >>> theta = ("step", "parameter"), [[1.0, 0.0], [0.5, 0.0], [0.75, 0.0]]
    >>> values = ("step", "measured", "parameter"), [[[-0.25, 0.0]], [[0.5, 0.0]], [[0.1, 0.0]]]
    >>> layout = '{"names": ["w"], "shapes": [[2]], "neuron_axes": [0]}'
    >>> labels = {"measured": ["train"], "step": [0, 1, 2]}
    >>> mean_gradients(xr.Dataset({"theta": theta, "values": values}, labels, {"layout": layout})).values
    array([[0.5, nan],
           [2. , nan]])
    """
    moved = movements(record).load()
    return _gradient(allocations(record, measured).sel(step=moved["step"]).load(), moved)


def _gradient(allocated: "DataArray", moved: "DataArray") -> "DataArray":
    found = allocated.copy(data=mean_gradient(allocated.values, moved.values)).rename("gradient")
    return found.assign_attrs(units="loss per parameter")


def _named(record: "Dataset", array: "DataArray", name: str, **attributes: Any) -> "DataArray":
    """Add the tensor and the layer of each parameter as coordinates."""
    layout = _layout_from(json.loads(record.attrs["layout"]))
    layers = layout.groups("layer")
    of_tensor = np.array([layers.names[layers.index[at]] for at in layout.offsets])
    labels = {"tensor": np.array(layout.names), "layer": of_tensor}
    found = array.drop_vars("measured", errors="ignore").rename(name)
    found.attrs = attributes
    return found.assign_coords(
        {dim: ("parameter", np.repeat(each, layout.sizes)) for dim, each in labels.items()}
    )
