"""From the allocations of a step to its row in a record."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.groups import Groups
from lca.layout import GroupBy, Layout
from lca.record.schema import BIN_EDGES, Content
from lca.views.view import step_of

Cells = dict[str, np.ndarray | float | int]
"""What one measured loss has in a row, by variable."""


class Rows:
    """Makes rows for runs with this layout and content; keeps no vector."""

    def __init__(self, layout: Layout, content: Content) -> None:
        self._layout, self._content = layout, content
        names: tuple[GroupBy, ...] = ("tensor", "layer", "neuron") if content.neurons else ("tensor", "layer")
        self._traced = np.array(content.traced, np.int64)
        self._groups = {name: layout.groups(name) for name in names}

    def of_step(self, allocation: StepAllocation) -> Cells:
        """What is the same for every measured loss: the index, and θ where it is asked for."""
        cells: Cells = {"step": allocation.step}
        if not (self._content.theta or self._content.traced):
            return cells
        step, on = step_of(allocation, "theta and trace"), array_ops(allocation.values)
        if self._content.theta:
            cells["theta"] = on.to_numpy(step.start)
        if self._content.traced:
            start, end = (on.take(theta, self._traced) for theta in (step.start, step.end))
            cells["trace_theta"], cells["trace_movement"] = start, end.astype(np.float64) - start
        return cells

    def of_loss(self, allocation: StepAllocation) -> Cells:
        """What one measured loss has."""
        self._layout.check(allocation.values, f"values of step {allocation.step}")
        values, on = allocation.values, array_ops(allocation.values)
        cells = _scalars(allocation)
        of_tensors = on.sums(values, self._groups["tensor"].slices)
        for name, groups in self._groups.items():
            cells[f"{name}_total"] = groups.total(values) if name == "neuron" else groups.merged(of_tensors)
            cells[f"{name}_stderr"] = standard_error(allocation, groups)
            if name != "neuron":
                signs = groups.signs(values)
                cells[f"{name}_helped"], cells[f"{name}_hurt"], cells[f"{name}_zero"] = signs
        if self._content.histogram:
            cells |= _histogram(on.magnitudes(values, BIN_EDGES))
        if self._content.values:
            cells["values"] = on.to_numpy(values)
        if self._content.traced:
            cells["trace_values"] = on.take(values, self._traced)
        return cells


def standard_error(allocation: StepAllocation, groups: Groups) -> np.ndarray | float:
    """Of the group totals of one step, from the estimator's replicates; NaN if it has none.

    At each node there are m independent copies of that node's share, and the share is their mean, so its
    variance is their sample variance over m; the nodes of one step are independent. The same node is part of
    two steps, so errors of neighbouring steps are *not* independent.
    """
    if not allocation.replicates or min(map(len, allocation.replicates.values())) < 2:
        return float("nan")
    variance = np.zeros(len(groups))
    for copies in allocation.replicates.values():
        variance += np.var([groups.total(copy) for copy in copies], axis=0, ddof=1) / len(copies)
    return np.sqrt(variance)


def _scalars(a: StepAllocation) -> Cells:
    return {
        "loss_start": a.loss_start,
        "loss_end": a.loss_end,
        "total": array_ops(a.values).total(a.values),
        "state_change": a.state_change,
        "residual": a.residual,
        "mass": a.mass,
        "tolerance": np.nan if a.tolerance is None else a.tolerance,
        "full_gradients": a.cost.full_gradients,
        "full_losses": a.cost.full_losses,
        "batch_gradients": a.cost.batch_gradients,
        "examples": a.cost.examples,
        "converged": a.converged,
    }


def _histogram(counts: np.ndarray) -> Cells:
    below, above = counts[:, 0].sum(), counts[:, -1].sum()
    return {
        "histogram_helping": counts[0, 1:-1],
        "histogram_hurting": counts[1, 1:-1],
        "histogram_below": below,
        "histogram_above": above,
    }
