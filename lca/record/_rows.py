"""The cells of a record that one step fills, made from its `Row` s."""

from collections.abc import Collection, Mapping
from dataclasses import fields

import numpy as np

from lca.arrays import array_ops
from lca.groups import Groups
from lca.record._place import Place
from lca.record._schema import Content, RecordError, group_names
from lca.row import CheckedWindow, Row
from lca.step import _moves_state
from lca.views._view import step_of

Cells = dict[str, np.ndarray | float | int]
"""The values of one step, or of one measured loss in it, by variable; what is left out stays NaN."""
_CHECKED = tuple(f"checked_{field.name}" for field in fields(CheckedWindow))


def step_cells(row: Row, content: Content) -> Cells:
    """The cells that all measured losses share: index, learning rates, where the step ends, θ if recorded.

    Raises
    ------
    LCAError
        If θ is to be recorded and the allocation has no source.
    """
    allocation = row.allocation
    cells: Cells = {"step": row.ends[0]}
    if content.checkpoints:
        cells["step_end"] = row.ends[1]
    if content.learning_rates:
        known = learning_rates_of(row)
        cells["learning_rate"] = np.array([known.get(name, np.nan) for name in content.learning_rates])
    if content.places and allocation.source is not None:
        cells["theta_mass"] = Place.of(allocation.source.end).mass
        cells["state_moved"] = _moves_state(allocation.source)
    if not (content.theta or content.traced):
        return cells
    step, ops = step_of(allocation, "theta and trace"), array_ops(allocation.values)
    if content.theta:
        cells["theta"] = _cast(ops.to_numpy(step.start), content.theta, "theta")
    if content.traced:
        start, end = (ops.take(theta, np.array(content.traced)) for theta in (step.start, step.end))
        cells["trace_theta"], cells["trace_movement"] = start, end.astype(np.float64) - start
    return cells


def learning_rates_of(row: Row) -> Mapping[str, float]:
    """The learning rates of the update, by the group of the optimizer; empty if they are not known."""
    source = row.allocation.source
    return {} if source is None or source.learning_rates is None else source.learning_rates


def loss_cells(row: Row, content: Content, groups: Collection[Groups] = ()) -> Cells:
    """The cells of one measured loss; ``groups`` are those of each division in ``content.groups``."""
    values, ops = row.allocation.values, array_ops(row.allocation.values)
    cells: Cells = {name: value for name, value in row.scalars.items() if name != "step"}
    cells["path_difference"] = row.path_difference
    if row.check is not None:
        cells |= zip(_CHECKED, row.check._numbers, strict=True)
    sampled = bool(row.allocation.replicates)
    for by in group_names(content):
        cells[f"{by}_total"] = row.totals(by)
        if sampled:
            cells[f"{by}_stderr"] = row.stderr(by)
        if by != "neuron":
            cells[f"{by}_helping"], cells[f"{by}_hurting"], cells[f"{by}_zero"] = row.signs(by)
    if groups:
        cells["group_total"] = np.concatenate([row.totals(each) for each in groups])
        if sampled:
            cells["group_stderr"] = np.concatenate([row.stderr(each) for each in groups])
    if content.histogram:
        counts = row.magnitudes
        cells["histogram_helping"], cells["histogram_hurting"] = counts[:, 1:-1]
        cells["histogram_below"], cells["histogram_above"] = counts[:, 0].sum(), counts[:, -1].sum()
    if content.memory:
        cells["memory"] = np.array([row.allocation.memory.get(name, np.nan) for name in content.memory])
    if content.values:
        cells["values"] = _cast(ops.to_numpy(values), content.values, "values")
    if content.traced:
        cells["trace_values"] = ops.take(values, np.array(content.traced))
    return cells


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Raise `RecordError` if a finite value becomes infinite in this dtype."""
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, copy=False)
    except FloatingPointError as error:
        raise RecordError(
            f"{name} up to {np.abs(array).max():.2g} do not fit in {dtype}; lower the learning rate if the "
            f"run diverges, or record {name}='float64'."
        ) from error
