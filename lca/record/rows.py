"""From the allocations of a step to its row in a record."""

from collections.abc import Mapping

import numpy as np

from lca.allocation import StepAllocation
from lca.layout import GroupBy, Layout
from lca.record.schema import BIN_EDGES, Content, RecordError
from lca.views.view import numpy_values

Cells = dict[str, np.ndarray | float | int]
"""What one measured loss has in a row, by variable."""


class Rows:
    """Makes rows for runs with this layout and content; keeps no vector."""

    def __init__(self, layout: Layout, content: Content) -> None:
        self._layout, self._content = layout, content
        names: tuple[GroupBy, ...] = ("tensor", "layer", "neuron") if content.neurons else ("tensor", "layer")
        self._groups = {name: layout.groups(name) for name in names}

    def of_step(self, allocation: StepAllocation) -> Cells:
        """What is the same for every measured loss: the index, and θ where it is asked for."""
        cells: Cells = {"step": allocation.step}
        if not (self._content.theta or self._content.traced):
            return cells
        if allocation.source is None:
            raise RecordError(
                f"the allocation of step {allocation.step} does not know its step (source), so θ cannot be "
                "recorded; leave out theta and trace, or use an estimator that hands the step on."
            )
        start, end = allocation.source.start, allocation.source.end
        if self._content.theta:
            cells["theta"] = _numpy(start)
        if self._content.traced:
            at = list(self._content.traced)
            cells["trace_theta"] = _numpy(start)[at]
            cells["trace_movement"] = _numpy(end - start)[at]
        return cells

    def of_loss(self, allocation: StepAllocation) -> Cells:
        """What one measured loss has."""
        self._layout.check(allocation.values, f"values of step {allocation.step}")
        values = numpy_values(allocation)
        cells = _scalars(allocation, values)
        for name, groups in self._groups.items():
            cells[f"{name}_total"] = groups.total(values)
            cells[f"{name}_stderr"] = np.nan
            if name != "neuron":
                cells[f"{name}_helped"] = groups.count(values < 0)
                cells[f"{name}_hurt"] = groups.count(values > 0)
                cells[f"{name}_zero"] = groups.count(values == 0)
        if self._content.histogram:
            cells |= _histogram(values)
        if self._content.values:
            cells["values"] = values
        if self._content.traced:
            cells["trace_values"] = values[list(self._content.traced)]
        return cells


def with_terms(rows: Mapping[str, StepAllocation]) -> dict[str, StepAllocation]:
    """Measured losses by name, and after each one its terms (``train/penalty``)."""
    found = {}
    for name, allocation in rows.items():
        found[name] = allocation
        for term, part in allocation.terms.items():
            found[f"{name}/{term}"] = part
    return found


def _scalars(a: StepAllocation, values: np.ndarray) -> Cells:
    return {
        "loss_start": a.loss_start,
        "loss_end": a.loss_end,
        "total": float(values.sum(dtype=np.float64)),
        "state_change": a.state_change,
        "residual": a.residual,
        "mass": a.mass,
        "tolerance": np.nan if a.tolerance is None else a.tolerance,
        "full_gradients": a.evaluations.full_gradients,
        "full_losses": a.evaluations.full_losses,
        "batch_gradients": a.evaluations.batch_gradients,
        "converged": a.converged,
    }


def _histogram(values: np.ndarray) -> Cells:
    cells: Cells = {}
    counts = [_count(-values[values < 0]), _count(values[values > 0])]
    for name, count in zip(("helping", "hurting"), counts, strict=True):
        cells[f"histogram_{name}"] = count[1:-1]
    cells["histogram_below"] = int(counts[0][0] + counts[1][0])
    cells["histogram_above"] = int(counts[0][-1] + counts[1][-1])
    return cells


def _count(sizes: np.ndarray) -> np.ndarray:
    bins = np.searchsorted(BIN_EDGES, sizes, side="right")
    return np.bincount(bins, minlength=len(BIN_EDGES) + 1)


def _numpy(vector: object) -> np.ndarray:
    from lca.vectors import vector_ops  # noqa: PLC0415

    return vector_ops(vector).to_numpy(vector)
