"""`Continuation`: how a record goes on from the part that was written before."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lca._verdict import largest_margin
from lca.allocation import Estimator
from lca.arrays import Vector
from lca.errors import LCAWarning
from lca.record._about import Mode, plan_of
from lca.record._blocks import Blocks
from lca.record._end import End
from lca.record._metrics import Given
from lca.record._place import Place
from lca.record._reading import open_group
from lca.record._schema import SCHEMA_VERSION, Content, Plan, RecordError
from lca.row import Row
from lca.tolerances import EPS32, summed

_UNKNOWN: Mapping[str, Any] = {"margin": inf, "noise": None, "windows": []}
"""The self-checks of a part of a run that its writer did not close."""
_ADDRESS = " object at 0x"
"""Part of the default repr of an object, which differs in every process."""


class Continuation:
    """The earlier part of a record, compared with the run that continues it; a new record has none.

    Parameters
    ----------
    path
        The record, for messages.
    mode
        As for `lca.Record`.

    Attributes
    ----------
    next_step
        The index of the next step.
    about, plan, blocks
        The attributes, the arrays and the rows of the earlier part; empty and ``None`` without one.
    checks
        Margin and noise of the self-checks before `next_step`, by loss, and the windows that no row holds.
    """

    def __init__(self, path: Path, mode: Mode) -> None:
        self._path, self._mode = path, mode
        self.next_step = 0
        self.about: dict[str, Any] = {}
        self.plan: Plan | None = None
        self.blocks: Blocks | None = None
        self.checks: Mapping[str, Any] = {}
        self._end: End | None = None  # until the first row after it
        self._memory: dict[str, dict[str, float]] = {}  # of the estimator, there
        self._dropped: list[Given] = []  # metrics from after `next_step`

    def read(self, place: Path) -> Plan:
        """Read the attributes of the record at this place.

        Raises
        ------
        RecordError
            If there is no record that this version can continue.
        """
        self.about = dict(open_group(place).attrs)
        version = self.about["schema_version"]
        if version < SCHEMA_VERSION:
            raise RecordError(
                f"the record {str(self._path)!r} was written by lca {self.about.get('lca_version')} (schema "
                f"version {version}): it can be read, but this lca, which writes version {SCHEMA_VERSION}, "
                "cannot continue it; write a new record."
            )
        self.plan = plan_of(self._path, self.about)
        return self.plan

    def open(self, place: Path, asked: Content, resume_at: int | None) -> Blocks:
        """Open the rows of the record that was read, those before step ``resume_at`` if that is given.

        Raises
        ------
        RecordError
            If the record has not the content that is asked for, or its files are damaged.
        """
        assert self.plan is not None
        self._check_content(asked, self.plan.content)
        self.blocks = blocks = Blocks.open(place, self.plan, resume_at)
        if blocks.rows:
            self._end = End.of(blocks, self.plan)
            self._memory = _remembered(blocks, self.plan)
            self.next_step = self._end.step
        if resume_at is not None:
            self.resume_at(resume_at)
        self.checks = self._checks_before(blocks, self.plan)
        self._dropped = blocks.drop_metrics(self.next_step)
        return blocks

    def resume_at(self, step: int) -> None:
        """Continue at a step; warn if more rows are missing than ever before: a schedule skips some."""
        ended, self.next_step = self.next_step, step
        if step - ended >= (1 if self.blocks is None else self.blocks.longest_gap):
            missing = (
                f"row for step {ended}" if step == ended + 1 else f"rows for steps {ended} to {step - 1}"
            )
            warnings.warn(
                f"the record {str(self._path)!r} continues at step {step} and has no {missing}.",
                LCAWarning,
                stacklevel=5,
            )

    def compare(self, settings: Mapping[str, Any]) -> None:
        """Warn of settings that the record has with another value, which it keeps."""
        if self._end is None:
            return
        stored = self.about.get("settings", {})
        for key, value in settings.items():
            if value != stored.get(key, value):
                warnings.warn(
                    f"settings[{key!r}] is {stored[key]!r} in the record {str(self._path)!r}, which keeps "
                    f"it, but {value!r} is passed now; pass the same value, the new one under another name, "
                    "or write another record.",
                    LCAWarning,
                    stacklevel=5,
                )

    def compare_run(self, settings: Mapping[str, Any]) -> None:
        """Warn if a tracker measures other data than the record that it continues; refuse another span.

        Other settings that the tracker adds itself may change, such as the learning rate of its optimizer.

        Raises
        ------
        RecordError
            If the steps of the record are lines over another number of updates.
        """
        if self.plan is None:
            return
        before, now = self.about.get("settings", {}), settings
        spans = before.get("span", 1), now.get("span", 1)
        if spans[0] != spans[1]:
            raise RecordError(
                f"the record {str(self._path)!r} was measured with span={spans[0]} and cannot be continued "
                f"with span={spans[1]}, whose steps are other lines; use the same span, or write another "
                "record."
            )
        known, own = before.get("measured_on"), now.get("measured_on")
        if self._end is None or not (isinstance(known, Mapping) and isinstance(own, Mapping)):
            return
        for name in known:
            if known[name] != own.get(name, known[name]):
                warnings.warn(
                    f"the loss {name!r} of the record {str(self._path)!r} is measured on {known[name]}, and "
                    f"that of the run on {own[name]}; measure the same data, or write another record.",
                    LCAWarning,
                    stacklevel=4,
                )

    def follow(self, updates: int, place: Place) -> None:
        """Count from ``updates``, the number of updates that a trainer has made which resumes by itself.

        Unless ``resume_at`` said where to continue, or the run is where the record ended: then the trainer
        counts other updates as well. A record that was not to be continued misses no rows.

        Raises
        ------
        RecordError
            If the record has rows of later steps.
        """
        end = self._end or End(0, {}, None)
        if self.next_step != end.step or updates in (0, end.step):
            return
        if self._mode != "a":
            self.next_step = updates
            return
        if end.place is not None and end.place.is_at(place):
            return
        if updates < end.step:
            raise RecordError(
                f"the trainer continues after {updates} updates, but the record {str(self._path)!r} has rows "
                f"up to step {end.step - 1}; pass resume_at={updates} to measure the later steps again."
            )
        self.resume_at(updates)
        if self.blocks is not None:
            self.blocks.give([each for each in self._dropped if each[0] <= updates])

    def arrive(self, theta: Callable[[], Vector]) -> None:
        """The first step of this part begins at θ: warn if the record ended elsewhere."""
        end = self._end
        if end is None or end.place is None or end.arrived or self.next_step != end.step:
            return
        end.arrived, end.displaced = True, not end.place.is_at(Place.of(theta()))
        if end.displaced:
            warnings.warn(
                f"the parameters are not those with which the record {str(self._path)!r} ended: training "
                f"did not continue from the end of step {end.step - 1}. Load the checkpoint of that moment. "
                "If training continues from an earlier checkpoint, or the last steps were not measured, "
                "pass resume_at=, the number of steps made before.",
                LCAWarning,
                stacklevel=4,
            )

    def memory(self, estimator: Estimator | None) -> Mapping[str, Mapping[str, float]]:
        """What this estimator remembers at the end of the earlier part, by loss; empty for another one."""
        return {} if self._other_estimator(estimator) else self._memory

    def join(
        self, rows: Mapping[str, Row], estimator: Estimator | None
    ) -> tuple[Mapping[str, Row], bool, bool]:
        """The rows of the next step, and whether it is ``restarted`` and ``displaced``, as in a record.

        The last row of the earlier part has paid for θ_t of the first one that begins there.
        """
        end = self._end
        if end is None:
            return rows, False, False
        restarted = self._restarts(rows, estimator)
        if self._continues(end, rows):
            rows = {name: _without_start(row) for name, row in rows.items()}
        self._end = None
        return rows, restarted, end.displaced

    def _checks_before(self, blocks: Blocks, plan: Plan) -> dict[str, Any]:
        """Margin and noise of the self-checks before `next_step`, by loss, and the windows that no row holds.

        If the last writer did not close the record, or rows were dropped, the windows bound the margin.
        """
        closed, found = self.about.get("final_checks", {}), {}
        margins, checked = blocks.stored("checked_margin"), ~np.isnan(blocks.stored("checked_first_step"))
        for which, name in enumerate(plan.measured):
            own, of_rows = closed.get(name, _UNKNOWN), margins[checked[:, which], which]
            windows = [window for window in own["windows"] if window["last_step"] < self.next_step]
            margin = own["margin"]
            if margin is not None:
                bound = largest_margin([*of_rows, *(window["margin"] for window in windows)])
                margin = min(margin, bound) if isfinite(bound) else None
            if len(of_rows) or windows:
                found[name] = {"margin": margin, "noise": own.get("noise"), "windows": windows}
        return found

    def _other_estimator(self, estimator: Estimator | None) -> str:
        """The estimator of the earlier part, if it is known and not this one."""
        before, now = self.about.get("estimator"), repr(estimator)
        known = before and estimator is not None and _ADDRESS not in now
        return str(before) if known and before != now else ""

    def _restarts(self, rows: Mapping[str, Row], estimator: Estimator | None) -> bool:
        """Whether the estimator does not remember the last row when it measures the next.

        An estimator that measures the whole loss and has no memory has nothing to remember; one that samples
        begins anew with its samples, and with the check of their sum.
        """
        if before := self._other_estimator(estimator):
            warnings.warn(
                f"the record {str(self._path)!r} was measured by {before}, which its "
                f"attributes name, and continues with {estimator!r}; pass the same estimator, or write "
                "another record.",
                LCAWarning,
                stacklevel=3,
            )
            return True
        steps = {name: memory["steps"] + 1 for name, memory in self._memory.items()}
        return any(
            row.allocation.sampled or row.allocation.memory.get("steps") != steps.get(name)
            for name, row in rows.items()
        )

    def _check_content(self, asked: Content, has: Content) -> None:
        """Raise `RecordError` if an option differs from its default and from what the record holds."""
        default = Content()
        for name, value in asdict(asked).items():
            if value not in (getattr(default, name), getattr(has, name)):
                raise RecordError(
                    f"the record {str(self._path)!r} was created with {name}={getattr(has, name)!r} and "
                    f"cannot be continued with {name}={value!r}; omit the option, or write another record."
                )

    def _continues(self, end: End, rows: Mapping[str, Row]) -> bool:
        """Whether the next rows begin where the record ended.

        Warns if it begins elsewhere, or if the losses there are others.
        """
        first = next(iter(rows.values()))
        if first.ends[0] != end.step:
            return False
        source = first.allocation.source
        if source is not None:
            self.arrive(lambda: source.start)
        if end.displaced:
            return False
        for name, loss in end.losses.items():
            begin, mass = rows[name].allocation.loss_start, rows[name].allocation.mass
            if abs(begin - loss) > summed(mass + abs(begin) + abs(loss), EPS32):
                cause = (
                    "though the parameters are the same. Other data are measured, or the state that the loss "
                    "depends on (running statistics) was not restored."
                    if end.arrived
                    else f"so training did not continue from the end of step {end.step - 1}. Load the "
                    "checkpoint of that moment, or pass resume_at= for an earlier one."
                )
                warnings.warn(
                    f"the record {str(self._path)!r} ended with a {name} loss of {loss:.6g} and continues "
                    f"with a loss of {begin:.6g}, {cause}",
                    LCAWarning,
                    stacklevel=3,
                )
                return False
        return True


def _remembered(blocks: Blocks, plan: Plan) -> dict[str, dict[str, float]]:
    """What the estimator remembers after the last row, by loss; terms have no memory of their own."""
    if not plan.content.memory:
        return {}
    found = zip(plan.measured, blocks.last("memory").tolist(), strict=True)
    by_loss = {name: dict(zip(plan.content.memory, values, strict=True)) for name, values in found}
    return {
        name: known
        for name, values in by_loss.items()
        if (known := {key: value for key, value in values.items() if isfinite(value)})
    }


def _without_start(row: Row) -> Row:
    """A row without the cost of θ_t, which the last row of a continued record has paid for as its end."""
    found = row.allocation
    paid = Row(replace(found, cost=found.cost - found.start_cost), row.layout)
    paid.check, paid.path_difference, paid.examples = row.check, row.path_difference, row.examples
    return paid
