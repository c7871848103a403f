"""`ExampleHistory`: the allocation by group and example of every step of a run."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lca._extras import extra
from lca.allocation import StepAllocation
from lca.by_example._allocation import ExampleAllocation
from lca.by_example._estimator import ByExample
from lca.errors import LCAError, UnknownNameError
from lca.layout import Layout
from lca.objective import Objective
from lca.step import Step
from lca.tables import Column, Table
from lca.views import View
from lca.views._rows import Rows
from lca.views._view import step_of

if TYPE_CHECKING:
    from xarray import Dataset

Array = np.ndarray
_PER_STEP = {
    "loss_start": ("example",),
    "loss_end": ("example",),
    "state_change": ("example",),
    "by_gradient": ("group",),
    "mass": (),
    "nodes": (),
    "converged": (),
}
"""Attributes of `ExampleAllocation` that are stored for each step besides the values; their dimensions."""
RECORDED, RECORDED_LABEL = "example_{}", "label_{}"
"""The names in a record: of what is stored for each step, and of labellings."""


class ExampleHistory:
    """Store the allocation by group and example of every measured step; a view for trackers.

    Pass it to a tracker as ``views=history``, or call `add` with the results of `allocate_by_example`. If
    a tracker measures several losses, the history is that of the first.

    Parameters
    ----------
    objective
        The measured loss, with losses of single examples (`Separable`).
    by_example
        The groups, the examples and the estimator; default: layers, all examples, `lca.Adaptive`.

    Notes
    -----
    It evaluates the steps itself, in addition to the estimator of the tracker, and costs as much as
    `ByExample`. Memory does not grow with the run; a temporary file holds 8 bytes for each step, group and
    example.

    Raises
    ------
    LCAError
        If the objective has no losses of single examples.

    Examples
    --------
    >>> from lca.reference import SGD, DatasetLoss, load_digits, minibatches, mlp, train
    >>> from lca.tracking import FunctionalTracker
    >>> digits, network = load_digits().reshaped((64,)), mlp((64, 16, 10))
    >>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
    >>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=5, seed=0)
    >>> theta = network.init(seed=0)
    >>> history = ExampleHistory(objective, ByExample("layer", examples=range(50)))
    >>> with FunctionalTracker(theta, objective, views=history) as tracker:
    ...     for step in train(objective, theta, SGD(lr=0.1), batches):
    ...         tracker.update(step.end)
    >>> history.values.shape, history.total().groups
    ((5, 2, 50), ('fc1', 'fc2'))
    """

    def __init__(self, objective: Objective, by_example: ByExample | None = None) -> None:
        self._begin((by_example or ByExample()).start(objective))

    @classmethod
    def from_xarray(cls, dataset: "Dataset") -> "ExampleHistory":
        """Read a history written by `to_xarray`; steps can be added, but no further steps measured.

        Parameters
        ----------
        dataset
            Such as ``xarray.open_zarr(path)``.
        """
        history, dataset = cls.__new__(cls), dataset.compute()
        history._begin(None)
        labels = {
            str(name): found.values
            for name, found in dataset.coords.items()
            if found.dims == ("example",) and name != "example"
        }
        fixed: dict[str, Any] = {
            "groups": tuple(map(str, dataset["group"].values)),
            "examples": dataset["example"].values,
            "weight": dataset["weight"].values,
            "labels": labels,
            "population": int(dataset.attrs.get("population", 0)),
        }
        for t, step in enumerate(dataset["step"].values):
            row = dataset.isel(step=t)
            kept: dict[str, Any] = {
                n: row[n].values if dims else row[n].item() for n, dims in _PER_STEP.items()
            }
            history.add(ExampleAllocation(row["value"].values, step=int(step), **fixed, **kept))
        return history

    @classmethod
    def from_record(cls, record: "Dataset") -> "ExampleHistory":
        """Read the history in the record of a run; steps can be added, but no further steps measured.

        Parameters
        ----------
        record
            From `lca.open_record`, of a run whose tracker had a history as a view.

        Raises
        ------
        LCAError
            If the record has no allocation by example.
        """
        names = {RECORDED.format(name): name for name in ("value", "weight", *_PER_STEP)}
        if not names.keys() <= set(record.variables):
            raise LCAError(
                "the record has no allocation by example; pass "
                "views=lca.by_example.ExampleHistory(objective) to the tracker beside record=."
            )
        group, prefix = RECORDED.format("group"), RECORDED_LABEL.format("")
        found = record[[*names]].rename({**names, group: "group"}).reset_coords("weight")
        labels = [name for name in map(str, found.coords) if name.startswith(prefix)]
        found = found.rename({name: name.removeprefix(prefix) for name in labels})
        population = json.loads(record.attrs["content"])["examples"]["population"]
        return cls.from_xarray(found.assign_attrs(population=population))

    def _begin(self, allocate: Callable[[Step], ExampleAllocation] | None) -> None:
        self._allocate = allocate
        self._last: ExampleAllocation | None = None
        self._followed: str | None = None
        self._steps = Rows(np.int64)
        self._values: Rows | None = None
        self._sums: ExampleAllocation | None = None
        self._kept: dict[str, Rows] = {}

    def view_of(self, name: str, layout: Layout) -> View:
        """Return this view for the first measured loss, and an empty view for the others."""
        self._followed = self._followed or name
        return self if name == self._followed else _Nothing()

    def update(self, allocation: StepAllocation) -> None:
        """Allocate by example the step that ``allocation`` belongs to (`lca.views.View`).

        Raises
        ------
        LCAError
            If the history was read from a file.
        """
        if self._allocate is None:
            raise LCAError(
                "this history was read from a file and has no objective; make ExampleHistory(objective) anew."
            )
        self.add(self._allocate(step_of(allocation, "examples")))

    def add(self, found: ExampleAllocation) -> None:
        """Store the allocation of one step.

        Raises
        ------
        LCAError
            If its groups or examples differ from those of the previous steps.
        """
        if self._values is None or self._last is None:
            self._values = Rows(np.float64, found.values.shape)
            self._kept = {name: Rows(*_form(getattr(found, name))) for name in _PER_STEP}
        elif found.groups != self._last.groups or not np.array_equal(found.examples, self._last.examples):
            raise LCAError(
                f"step {found.step} has other groups or examples than the previous steps; a history holds "
                "the results of one ByExample."
            )
        self._steps.append(found.step)
        self._values.append(found.values)
        for name, rows in self._kept.items():
            rows.append(getattr(found, name))
        self._sums = found if self._sums is None else _sum(self._sums, found)
        self._last = found

    @property
    def last(self) -> ExampleAllocation | None:
        """The allocation of the most recent step; ``None`` before the first."""
        return self._last

    @property
    def steps(self) -> Array:
        """The indices of the steps, (T,)."""
        return self._steps.array()

    @property
    def values(self) -> Array:
        """``A_{t,g,n}``, float64 (T, groups, examples)."""
        self._require_steps()
        assert self._values is not None
        return self._values.array()

    def total(self) -> ExampleAllocation:
        """The sum over all steps; its residuals are the sums of the residuals of the steps.

        ``loss_end`` is ``loss_start`` plus the changes in the measured steps.
        """
        return self._require_steps()

    def of(self, group: str | None = None) -> Array:
        """The values of one group, or the sums over all groups, (T, examples).

        Raises
        ------
        UnknownNameError
            If there is no group of this name.
        """
        values = self.values
        if group is None:
            whole: Array = values.sum(axis=1)
            return whole
        names = self._require_steps().groups
        if group not in names:
            raise UnknownNameError("group", group, names)
        found: Array = values[:, names.index(group)]
        return found

    def learned(self, group: str | None = None, *, fraction: float = 0.5) -> Array:
        """The step at which each example was learned by a group, float64 (examples,).

        This is the first step at the end of which the cumulative sum of the values has reached ``fraction``
        of the sum over the run. NaN for examples whose loss the group did not lower over the run.

        Parameters
        ----------
        group
            The name of a group; ``None``: the sum over all groups.
        fraction
            In (0, 1].

        Raises
        ------
        LCAError
            If ``fraction`` is out of range.
        """
        if not 0 < fraction <= 1:
            raise LCAError(f"fraction must be in (0, 1], got {fraction}.")
        sums = np.cumsum(self.of(group), axis=0)
        reached = (sums <= fraction * sums[-1]) & (sums[-1] < 0)
        first = self.steps[reached.argmax(axis=0)].astype(np.float64)
        return np.where(reached.any(axis=0), first, np.nan)

    def last_learned(self, k: int = 10, group: str | None = None) -> Table:
        """The k examples that a group learned last, most recent first, with their labels."""
        learned, total = self.learned(group), self.of(group).sum(axis=0)
        known = np.flatnonzero(~np.isnan(learned))
        chosen = known[np.argsort(-learned[known], kind="stable")][:k].tolist()
        columns = [Column("step", [int(learned[n]) for n in chosen])]
        columns.append(Column("LCA", [float(total[n]) for n in chosen]))
        where = "all groups" if group is None else group
        return self._table(chosen, columns, f"The examples that {where} learned last")

    def hurt(self, k: int = 10, group: str | None = None) -> Table:
        """The k examples whose loss a group raised most over the run, with their labels; may be empty."""
        total = self.of(group).sum(axis=0)
        chosen = [int(n) for n in np.argsort(-total, kind="stable")[:k] if total[n] > 0]
        where = "all groups" if group is None else group
        return self._table(
            chosen,
            [Column("LCA", [float(total[n]) for n in chosen])],
            f"The examples whose loss {where} raised most",
        )

    def to_xarray(self) -> "Dataset":
        """A ``Dataset`` with ``value`` (step, group, example), losses, residuals and labels.

        `xarray.Dataset.to_zarr` saves it. Needs the extra ``report``.
        """
        with extra("report"):
            import xarray as xr  # noqa: PLC0415 - half a second
        total, values = self._require_steps(), self.values
        kept = {name: rows.array() for name, rows in self._kept.items()}
        change = kept["loss_end"] - kept["loss_start"] - kept["state_change"]
        data = {name: (("step", *_PER_STEP[name]), rows) for name, rows in kept.items()}
        data["residual"] = (("step", "example"), change - values.sum(axis=1))
        labels = {name: ("example", found) for name, found in total.labels.items()}
        return xr.Dataset(
            {"value": (("step", "group", "example"), values), **data, "weight": ("example", total.weight)},
            {"step": self.steps, "group": list(total.groups), "example": total.examples, **labels},
            {"units": "units of the loss; negative: helping", "population": total.population},
        )

    def _require_steps(self) -> ExampleAllocation:
        if self._sums is None:
            raise LCAError("no step has been allocated by example yet; train, or call add with a step.")
        return self._sums

    def _table(self, chosen: list[int], columns: list[Column], title: str) -> Table:
        total = self._require_steps()
        labels = [Column(name, [str(v) for v in found[chosen]]) for name, found in total.labels.items()]
        examples = Column("example", [str(name) for name in total.examples[chosen]])
        return Table([examples, *labels, *columns], f"{title}, in units of the loss; negative: helping")


def _form(value: Any) -> tuple[Any, tuple[int, ...]]:
    """The dtype and shape of a value that is stored for each step."""
    found = np.asarray(value)
    return found.dtype, found.shape


class _Nothing:
    """A view that ignores all steps."""

    def update(self, allocation: StepAllocation) -> None:
        """Do nothing."""


def _sum(first: ExampleAllocation, second: ExampleAllocation) -> ExampleAllocation:
    """The sum of two allocations, with the losses at the start of the first."""
    missed = [each.reason for each in (first, second) if not each.converged]
    return ExampleAllocation(
        values=first.values + second.values,
        groups=first.groups,
        examples=first.examples,
        loss_start=first.loss_start,
        loss_end=first.loss_end + second.loss_change,
        weight=first.weight,
        by_gradient=first.by_gradient + second.by_gradient,
        state_change=first.state_change + second.state_change,
        mass=first.mass + second.mass,
        step=second.step,
        steps=first.steps + second.steps,
        labels=first.labels,
        nodes=first.nodes + second.nodes,
        population=first.population,
        converged=not missed,
        reason=missed[-1] if missed else second.reason,
    )
