"""`Row`: all reductions over K of one step's allocation, shared by summary, record and live views."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from lca.allocation import StepAllocation, with_terms
from lca.arrays import array_ops
from lca.groups import Groups, SignCounts
from lca.layout import GroupBy, Layout

if TYPE_CHECKING:
    from lca.by_example import ExampleAllocation

__all__ = [
    "BINS_PER_DECADE",
    "BIN_EDGES",
    "HIGHEST_DECADE",
    "LOWEST_DECADE",
    "CheckedWindow",
    "Row",
    "rows_of",
    "scalars",
]

_TensorGroups: TypeAlias = Literal["tensor", "layer"]

LOWEST_DECADE, HIGHEST_DECADE, BINS_PER_DECADE = -24, 2, 8
BIN_EDGES = np.logspace(LOWEST_DECADE, HIGHEST_DECADE, (HIGHEST_DECADE - LOWEST_DECADE) * BINS_PER_DECADE + 1)
"""Edges of the bins of |A| in `Row.magnitudes`, in units of the loss, shape (bins + 1,)."""


@dataclass(frozen=True)
class CheckedWindow:
    """Consecutive steps of a sampled estimator over which the loss change was measured: a self-check.

    Attributes
    ----------
    first_step, last_step
        The indices of the first and the last step.
    change
        ``L(θ at the end) - L(θ at the start)``, measured on all data or a fixed part of them.
    total
        ``Σ_t Σ_i A_{t,i}`` over the steps: the estimate of ``change``.
    margin
        ``total - change`` lies within ± margin in 95 % of cases, as far as sampling errors go; NaN if the
        estimator gives no error bars.
    examples
        The number of examples on which ``change`` was measured; ``None``: all data.

    Examples
    --------
    >>> CheckedWindow(0, 15, change=-1.0, total=-0.75, margin=nan).miss
    0.25
    """

    first_step: int
    last_step: int
    change: float
    total: float
    margin: float
    examples: int | None = None

    @classmethod
    def _of(cls, numbers: Iterable[float]) -> "CheckedWindow":
        """The window with these `_numbers`."""
        first, last, change, total, margin, examples = numbers
        return cls(int(first), int(last), change, total, margin, None if isnan(examples) else int(examples))

    @property
    def _numbers(self) -> tuple[float, ...]:
        """All attributes in order, as numbers."""
        examples = nan if self.examples is None else self.examples
        return self.first_step, self.last_step, self.change, self.total, self.margin, examples

    @property
    def miss(self) -> float:
        """``total - change``: what the allocations miss, in units of the loss."""
        return self.total - self.change


class Row:
    """The reductions of one step and measured loss; each is computed when first read, and only once.

    However many readers a row has, the K values are reduced at most three times: sums and sign counts of
    tensors (from which those of layers and the total follow), sums of neurons, and the histogram of |A|.
    On a device, each of the three is one copy to the host, or the first and the last together
    (`reduce_at_once`). Signs of sampled values are counted apart.

    Parameters
    ----------
    allocation
        The step. The row holds its vectors, so keep numbers, not rows.
    layout
        The layout of the parameters.

    Attributes
    ----------
    check
        The self-check that ended with this step or before it, since the last row; ``None`` if none did.
    path_difference
        With ``span=`` of a tracker: how far the layers of the straight line are from those of the updates
        themselves, ``Σ_layers |A_line - A_path| / Σ_layers |A_path|``; NaN where it was not measured.
    examples
        The allocation of the step by group and example, if it was measured.

    Raises
    ------
    LayoutError
        If the values do not fit the layout.

    Examples
    --------
    >>> layout = Layout(("fc.weight", "fc.bias"), ((1, 2), (1,)))
    >>> row = Row(StepAllocation(np.array([-1.0, 0.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5), layout)
    >>> row.total, row.totals("tensor"), row.signs("layer").negative
    (-0.5, array([-1. ,  0.5]), array([1]))
    """

    def __init__(self, allocation: StepAllocation, layout: Layout) -> None:
        layout.check(allocation.values, f"values of step {allocation.step}")
        self.allocation, self.layout = allocation, layout
        self.check: CheckedWindow | None = None
        self.path_difference = nan
        self.examples: ExampleAllocation | None = None

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers that need no group, by the names they have in a record."""
        return scalars(self.allocation, self.total)

    @property
    def total(self) -> float:
        """``Σ_i A_i`` in float64, units of the loss: the sum of the totals of the tensors."""
        return float(np.add.reduce(self._sums))  # .sum() costs a microsecond more

    @property
    def ends(self) -> tuple[int, int]:
        """The indices of both ends: t and t + 1, or in a replay the numbers of the checkpoints."""
        source = self.allocation.source
        if source is not None and source.checkpoints is not None:
            return source.checkpoints
        return self.allocation.step, self.allocation.step + 1

    def totals(self, by: GroupBy | Groups) -> np.ndarray:
        """``Σ_{i in group} A_i`` of each group; float64 (groups,), units of the loss.

        ``by``: ``"tensor"``, ``"layer"``, ``"neuron"``, or groups of the layout. Groups that divide tensors,
        as heads do, cost a pass over the values.
        """
        if by == "neuron":
            return self._neurons
        groups = self._groups(by)
        if self._are_tensors(groups):
            return groups.merged(self._sums)
        if groups not in self._divided:
            self._divided[groups] = groups.total(self.allocation.values)
        return self._divided[groups]

    def signs(self, by: _TensorGroups) -> SignCounts:
        """Numbers of parameters with A < 0, A > 0 and A = 0 in each tensor or layer; integers (groups,)."""
        return self.layout.groups(by).merged_signs(self._tensors[1])

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """Counts of |A| between `BIN_EDGES`, as in `lca.arrays.ArrayOps.magnitudes`; (2, bins + 2)."""
        return array_ops(self.allocation.values).magnitudes(self.allocation.values, BIN_EDGES)

    def reduce_at_once(self) -> None:
        """Compute totals, signs and `magnitudes`, for a reader of all three: one copy from a device."""
        if "_tensors" not in self.__dict__ and "magnitudes" not in self.__dict__:
            values, slices = self.allocation.values, self.layout.groups("tensor").slices
            found = array_ops(values).sums_signs_and_magnitudes(values, slices, BIN_EDGES)
            sums, signs, self.magnitudes = found
            self._tensors = sums, signs

    def stderr(self, by: GroupBy | Groups) -> np.ndarray:
        """Standard error of `totals` from the replicates of the estimator; NaN (groups,) without replicates.

        ``sqrt(Σ_nodes Var_j(R_{node,j}) / m)``, where ``R_{node,j}`` is the group sum of replicate j of m and
        Var the sample variance: the nodes of one step are independent. Neighbouring steps share a node, so
        the errors of successive steps are *not* independent; see `lca.views.ErrorBars`.
        """
        groups, nodes = self._groups(by), self.allocation.replicates.values()
        if not nodes or min(map(len, nodes)) < 2:
            return np.full(len(groups), np.nan)
        if by == "neuron":
            sums = self._neuron_replicates
        else:
            sums = self._tensor_replicates if self._are_tensors(groups) else self._replicate_sums(groups)
        variance = np.zeros(len(groups))
        for replicates in sums:
            variance += np.var([groups.merged(row) for row in replicates], axis=0, ddof=1) / len(replicates)
        return np.sqrt(variance)

    @cached_property
    def replicate_totals(self) -> dict[float, np.ndarray]:
        """The sum of each replicate of each node, (m,) by time; empty without replicates."""
        times = self.allocation.replicates
        sums = self._tensor_replicates if times else []
        return {
            time: np.array([copy.sum() for copy in copies]) for time, copies in zip(times, sums, strict=True)
        }

    @cached_property
    def _tensors(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and sign counts of the tensors: (tensors,) and (2, tensors)."""
        values = self.allocation.values
        return array_ops(values).sums_and_signs(values, self.layout.groups("tensor").slices)

    @cached_property
    def _sums(self) -> np.ndarray:
        """Sums of the tensors; of sampled values alone, as few readers ask for their signs."""
        values = self.allocation.values
        if self.allocation.sampled and "_tensors" not in self.__dict__:
            return array_ops(values).sums(values, self.layout.groups("tensor").slices)
        return self._tensors[0]

    @cached_property
    def _neurons(self) -> np.ndarray:
        return self.layout.groups("neuron").total(self.allocation.values)

    @cached_property
    def _tensor_replicates(self) -> list[list[np.ndarray]]:
        return self._replicate_sums(self.layout.groups("tensor"))

    @cached_property
    def _neuron_replicates(self) -> list[list[np.ndarray]]:
        return self._replicate_sums(self.layout.groups("neuron"))

    @cached_property
    def _divided(self) -> dict[Groups, np.ndarray]:
        """Totals of groups that divide tensors, which summary and record share."""
        return {}

    def _groups(self, by: GroupBy | Groups) -> Groups:
        return by if isinstance(by, Groups) else self.layout.groups(by)

    def _are_tensors(self, groups: Groups) -> bool:
        return groups.whole_tensors == len(self.layout.names)

    def _replicate_sums(self, groups: Groups) -> list[list[np.ndarray]]:
        """For each node and each of its replicates, the sums of the slices of these groups."""
        slices, nodes = groups.slices, self.allocation.replicates.values()
        return [[array_ops(copy).sums(copy, slices) for copy in replicates] for replicates in nodes]


def scalars(allocation: StepAllocation, total: float) -> dict[str, float]:
    """The scalars of one step by name: fields of `StepAllocation` and of its cost, and ``total``.

    Parameters
    ----------
    allocation
        The step.
    total
        ``Σ_i A_i``, units of the loss.

    Examples
    --------
    >>> found = scalars(StepAllocation(np.array([-1.0]), 2.0, 1.0, residual=0.0, mass=1.0), total=-1.0)
    >>> found["loss_end"], found["total"], found["sampled"]
    (1.0, -1.0, False)
    """
    a = allocation
    return {
        "step": a.step,
        "loss_start": a.loss_start,
        "loss_end": a.loss_end,
        "total": total,
        "state_change": a.state_change,
        "residual": a.residual,
        "mass": a.mass,
        "tolerance": np.nan if a.tolerance is None else a.tolerance,
        "full_gradients": a.cost.full_gradients,
        "full_losses": a.cost.full_losses,
        "batch_gradients": a.cost.batch_gradients,
        "examples": a.cost.examples,
        "converged": a.converged,
        "sampled": a.sampled,
    }


def rows_of(allocations: Mapping[str, StepAllocation], layout: Layout) -> dict[str, Row]:
    """The rows of measured losses by name, each followed by the rows of its terms (``train/penalty``).

    Parameters
    ----------
    allocations
        The losses of one step by name, as from `lca.allocate_each`.
    layout
        The layout of the parameters.

    Examples
    --------
    >>> found = {"train": StepAllocation(np.array([-1.0]), 2.0, 1.0, residual=0.0, mass=1.0)}
    >>> rows_of(found, Layout(("w",), ((1,),)))["train"].total
    -1.0
    """
    return {name: Row(allocation, layout) for name, allocation in with_terms(allocations).items()}
