"""`ExampleAllocation`: the loss change of one step, split over groups of parameters and examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lca._extras import extra
from lca.by_example._chosen import require_label
from lca.errors import LCAError, UnknownNameError
from lca.tables import Column, HasTable, Table

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset


Array = np.ndarray
MOST_COLUMNS = 12
"""The most examples that a table shows."""


@dataclass(frozen=True, eq=False)
class ExampleAllocation(HasTable):
    """The loss change of one step, split over groups of parameters and over examples.

    ``values[g, n] = ω_n Σ_{i ∈ g} Δ_i ∫₀¹ ∂_i ℓ_n(θ_t + s Δ_t) ds``, in units of the measured loss
    ``L = Σ_n ω_n ℓ_n``; negative: the movement of the group lowered the loss of the example. Both marginal
    sums are also computed separately: the sum over examples is the allocation of the group, and the sum over
    groups is the change of ``ω_n ℓ_n``. The differences are the residuals.

    Attributes
    ----------
    values
        A, float64 (groups, examples).
    groups
        The names of the groups.
    examples
        The indices of the examples in the measured data, integers (n,); after `over`, the labels.
    loss_start, loss_end
        ``ω_n ℓ_n`` at θ_t and at θ_{t+1}, float64 (n,).
    weight
        ω (n,); 1 divided by the number of examples, unless they have weights.
    by_gradient
        The allocation of each group, (groups,), computed from the gradients of ``Σ_n ω_n ℓ_n`` over these
        examples at the same nodes.
    state_change
        The part of each loss change that is due to state other than parameters, (n,).
    mass
        ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|`` of those gradients g_k at the nodes k with weights w_k.
    step
        The index t of the step, or of the last step if several were added up.
    steps
        The number of steps.
    labels
        The label of each example, (n,), for each labelling, such as ``"class"``.
    nodes
        The number of points at which slopes (derivatives along the movement of each group) were evaluated.
        The end of a step and the start of the next one count as two, because the movements differ.
    tolerance
        The largest ``Σ_n |residual_n|`` allowed; ``None``: no limit.
    population
        The number of examples from which these were drawn at random (``sample=`` of
        `lca.by_example.ByExample`); their weights are larger accordingly. 0: they were not drawn.
    summed_over
        The labelling whose sums these are, after `over`; empty for single examples.
    converged, reason
        Whether both marginal sums are within their tolerances, and why the estimator stopped.

    Examples
    --------
    >>> a = ExampleAllocation(
    ...     np.array([[-2.0, 0.5], [0.0, -0.5]]), ("fc1", "fc2"), np.array([3, 7]),
    ...     loss_start=np.array([3.0, 1.0]), loss_end=np.array([1.0, 1.0]), weight=np.full(2, 0.5),
    ...     by_gradient=np.array([-1.5, -0.5]), state_change=np.zeros(2), mass=2.5)
    >>> a.residual, a.group_residual
    (array([0., 0.]), array([0., 0.]))
    >>> print(a)
    LCA of step 0 by group and example, in units of the loss; negative: helping
    group   3     7
    fc1    −2  +0.5
    fc2     0  −0.5
    """

    values: Array
    groups: tuple[str, ...]
    examples: Array
    loss_start: Array
    loss_end: Array
    weight: Array
    by_gradient: Array
    state_change: Array
    mass: float
    step: int = 0
    steps: int = 1
    labels: Mapping[str, Array] = field(default_factory=dict)
    nodes: int = 0
    tolerance: float | None = None
    converged: bool = True
    reason: str = ""
    population: int = 0
    summed_over: str = ""

    @property
    def loss_change(self) -> Array:
        """``ω_n (ℓ_n(θ_{t+1}) - ℓ_n(θ_t))``, (n,)."""
        change: Array = self.loss_end - self.loss_start
        return change

    @property
    def residual(self) -> Array:
        """The loss change minus the sum over groups and the state change, (n,): the quadrature error."""
        missing: Array = self.loss_change - self.state_change - self.values.sum(axis=0)
        return missing

    @property
    def group_residual(self) -> Array:
        """The allocation of each group minus the sum over examples, (groups,): a rounding error."""
        missing: Array = self.by_gradient - self.values.sum(axis=1)
        return missing

    def of(self, group: str) -> Array:
        """The values of one group, (n,).

        Raises
        ------
        UnknownNameError
            If there is no group of this name.
        """
        if group not in self.groups:
            raise UnknownNameError("group", group, self.groups)
        row: Array = self.values[self.groups.index(group)]
        return row

    def over(self, labelling: str) -> "ExampleAllocation":
        """Sum over the examples of each label of a labelling, such as ``"class"``.

        Returns an allocation by group and label, whose losses and residuals are summed, too. The values are
        the same as those of the class-wise allocation of ``by_class()``.

        Raises
        ------
        UnknownNameError
            If the examples have no labelling of this name.

        Examples
        --------
        >>> a = ExampleAllocation(
        ...     np.array([[-2.0, 0.5, 1.0]]), ("fc",), np.arange(3), loss_start=np.ones(3),
        ...     loss_end=np.array([-1.0, 1.5, 2.0]), weight=np.full(3, 1 / 3), by_gradient=np.array([-0.5]),
        ...     state_change=np.zeros(3), mass=3.5, labels={"domain": np.array(["code", "prose", "code"])})
        >>> a.over("domain").examples.tolist(), a.over("domain").values
        (['code', 'prose'], array([[-1. ,  0.5]]))
        """
        names, members = np.unique(require_label(self.labels, labelling), return_inverse=True)

        def summed(values: Array) -> Array:
            return np.bincount(members, values, minlength=len(names))

        return replace(
            self,
            values=np.stack([summed(row) for row in self.values]),
            examples=names,
            loss_start=summed(self.loss_start),
            loss_end=summed(self.loss_end),
            weight=summed(self.weight),
            state_change=summed(self.state_change),
            labels={},
            summed_over=labelling,
        )

    def stderr(self, labelling: str | None = None) -> Array:
        """The standard error of sums over examples, (groups,), or for each label (groups, labels).

        For a sample of n of N examples, ``sqrt(n (1 - n/N) s²)``, with s² the variance of the values of a
        group over the sample (for a label, with 0 for examples that have another one). The estimate ± 1.96
        standard errors covers the sum over all examples in about 95 % of samples, less often if n is small
        or a few examples dominate the sum. 0 if the examples are no sample.

        Parameters
        ----------
        labelling
            For the sums over the examples of each label, in the order of `over`.

        Raises
        ------
        UnknownNameError
            If the examples have no labelling of this name.
        LCAError
            If these are sums over the examples of labels (`over`), whose spread is not known any more.

        Examples
        --------
        >>> a = ExampleAllocation(
        ...     np.array([[-2.0, 0.0]]), ("fc",), np.array([3, 7]), loss_start=np.array([2.0, 1.0]),
        ...     loss_end=np.array([0.0, 1.0]), weight=np.full(2, 0.5), by_gradient=np.array([-2.0]),
        ...     state_change=np.zeros(2), mass=2.0, population=8)
        >>> a.stderr().round(3)  # sqrt(2 · (1 - 2/8) · 2)
        array([1.732])
        """
        if self.population and self.summed_over:
            raise LCAError(
                f"these are sums over {self.summed_over!r}, without the spread of the examples; call "
                f"stderr({self.summed_over!r}) of the allocation that over was called on."
            )
        number, values = len(self.examples), self.values[:, None]
        if labelling is not None:
            labels = require_label(self.labels, labelling)
            values = values * (labels == np.unique(labels)[:, None])
        if not self.population:
            found = np.zeros(values.shape[:2])
        else:
            left = 1 - number / self.population
            found = np.sqrt(number * left * values.var(axis=2, ddof=1))
        return found[:, 0] if labelling is None else found

    def table(self) -> Table:
        """One row per group, one column per example; at most the 12 whose loss changed most."""
        shown = np.arange(len(self.examples))
        if len(shown) > MOST_COLUMNS:
            shown = np.sort(np.argsort(-np.abs(self.loss_change), kind="stable")[:MOST_COLUMNS])
        columns = [Column("group", self.groups)]
        columns += [Column(str(self.examples[n]), self.values[:, n].tolist()) for n in shown]
        which = f"step {self.step}" if self.steps == 1 else f"{self.steps:,} steps"
        title = f"LCA of {which} by group and example, in units of the loss; negative: helping"
        if len(shown) < len(self.examples):
            title += f" ({len(shown)} of {len(self.examples):,} examples, those whose loss changed most)"
        if self.population:
            title += f"; a sample of {self.population:,} examples, scaled to all of them"
        return Table(columns, title)

    def to_frame(self) -> "DataFrame":
        """A pandas ``DataFrame`` with one row per group and example: ``value``, and the labels.

        Its index is (step, group, example). Needs the extra ``report``.
        """
        with extra("report"):
            import pandas as pd  # noqa: PLC0415 - half a second, and only for frames
        levels = {"step": [self.step], "group": self.groups, "example": self.examples}
        index = pd.MultiIndex.from_product(levels.values(), names=levels)
        labels = {name: np.tile(values, len(self.groups)) for name, values in self.labels.items()}
        return pd.DataFrame({"value": self.values.ravel(), **labels}, index=index)

    def to_xarray(self) -> "Dataset":
        """A ``Dataset`` with ``value`` (group, example), losses, residuals and labels; needs `report`."""
        with extra("report"):
            import xarray as xr  # noqa: PLC0415 - half a second
        by_example = {name: ("example", getattr(self, name)) for name in (*_OF_EXAMPLES, "residual")}
        by_group = {name: ("group", getattr(self, name)) for name in ("by_gradient", "group_residual")}
        labels = {name: ("example", values) for name, values in self.labels.items()}
        return xr.Dataset(
            {"value": (("group", "example"), self.values), **by_example, **by_group},
            {"group": list(self.groups), "example": self.examples, "step": self.step, **labels},
            {"units": "units of the loss; negative: helping", "population": self.population},
        )

    def __str__(self) -> str:
        return str(self.table())


_OF_EXAMPLES = ("loss_start", "loss_end", "weight", "state_change")
"""Attributes with one value per example, which are summed over labels."""
