"""`Record`: what a run leaves behind on disk, written while it goes on."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from lca.allocation import Estimator, StepAllocation, with_terms
from lca.errors import LCAWarning, UnknownNameError
from lca.extras import extra
from lca.layout import Layout, check_same_layout
from lca.output import check_writable
from lca.record.about import Dtype, Mode, attributes, plan_of
from lca.record.blocks import Blocks
from lca.record.citation import citation, citations_of
from lca.record.reading import open_group
from lca.record.rows import Rows
from lca.record.schema import Content, Plan, RecordError
from lca.tolerances import EPS32, summed

BLOCK = 64
"""Rows that are written at once, and the most that a killed run loses."""


class Record:
    """Writes the allocations of a run to a folder, block by block, readable at any moment by `open_record`.

    Every step and measured loss: the scalars of the allocation, totals and counts of each tensor and layer,
    totals of each neuron, a histogram of |A|. A killed process loses at most the block in hand.

    Parameters
    ----------
    path
        A folder that is made; by custom its name ends in ``.zarr``.
    layout
        Of the parameters. A tracker that is given the record fills it in.
    mode
        ``"x"``: a new record, and an error if there is one; ``"w"``: a new one in its place; ``"a"``: go on
        with the one that is there, or begin one.
    resume_at
        With ``mode="a"``: drop the rows of this step and later ones, which will be measured again.
    values
        Keep all A_i of every step, in this dtype: K numbers a step and measured loss.
    theta
        Keep θ_t of every step, in this dtype.
    trace
        Single parameters to follow, as positions or as ``"fc1.weight[3, 17]"``.
    neurons, histogram
        Whether to keep these.
    estimator, settings
        What made the allocations, and anything about the run that fits in JSON; written into the record.
    block
        Rows that are held back and written at once.

    Raises
    ------
    RecordError
        If there is a record already (or none that could be continued), somebody else writes it, it cannot be
        written, or a step does not come after the one before.

    Notes
    -----
    Memory: one block of rows. Needs the extra ``report``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Record, Trajectory, allocate_each, open_record
    >>> from lca.reference.models import Quadratic
    >>> losses = {"train": Quadratic(np.eye(2)), "heldout": Quadratic(2 * np.eye(2))}
    >>> run = Trajectory(np.array([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", losses["train"].layout) as record:
    ...         for rows in allocate_each(losses, run, PathIntegral(SIMPSON)):
    ...             record.update(rows)
    ...     open_record(f"{folder}/run.zarr").total.values
    array([[-0.375, -0.75 ],
           [-0.125, -0.25 ]])
    """

    def __init__(
        self,
        path: str | PathLike[str],
        layout: Layout | None = None,
        *,
        mode: Mode = "x",
        resume_at: int | None = None,
        values: Dtype | None = None,
        theta: Dtype | None = None,
        trace: Sequence[int | str] = (),
        neurons: bool = True,
        histogram: bool = True,
        estimator: Estimator | None = None,
        settings: Mapping[str, Any] | None = None,
        block: int = BLOCK,
    ) -> None:
        with extra("report"):
            import zarr  # noqa: PLC0415, F401 - fail here, not at the first step
        _check_target(Path(path), mode, block=block, resume_at=resume_at)
        self.path = Path(path)
        self.next_step = 0
        self._wanted: dict[str, Any] = {
            "neurons": neurons,
            "histogram": histogram,
            "values": values,
            "theta": theta,
        }
        self._trace, self._block = tuple(trace), block
        self._estimator, self._settings = estimator, dict(settings or {})
        self._layout: Layout | None = None
        self._traced: tuple[int, ...] = ()
        self._blocks: Blocks | None = None
        self._about: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._rows: Rows | None = None
        self._before: tuple[int, dict[str, float]] | None = None  # the last step of a record that goes on
        self._closed = False
        if mode == "a" and self.path.exists():
            self._continue(resume_at)
        if layout is not None:
            self.begin(layout)

    @property
    def steps(self) -> int:
        """Number of steps in the record, with those that are still held back."""
        return 0 if self._blocks is None else self._blocks.rows

    def begin(
        self, layout: Layout, *, estimator: Estimator | None = None, settings: Mapping[str, Any] | None = None
    ) -> "Record":
        """Say what run it is, where that was not known when the record was made; trackers do it."""
        if self._layout is not None:
            check_same_layout((self._layout, layout), f"the record {str(self.path)!r} and the run")
        self._layout = layout
        self._traced = tuple(layout.position(entry) for entry in self._trace)
        self._estimator = self._estimator or estimator
        self._settings = {**(settings or {}), **self._settings}
        return self

    def update(self, allocations: StepAllocation | Mapping[str, StepAllocation]) -> None:
        """Take in a step: the allocation of each measured loss by name; a single one is called ``train``."""
        if self._closed:
            raise RecordError(f"the record {str(self.path)!r} is closed; go on with Record(path, mode='a').")
        found = with_terms({"train": allocations} if isinstance(allocations, StepAllocation) else allocations)
        step = next(iter(found.values())).step
        if step < self.next_step:
            raise RecordError(
                f"step {step} is not new to the record {str(self.path)!r}, which goes on at step "
                f"{self.next_step}; count from Record.next_step, or pass resume_at={step} to measure again."
            )
        plan = self._plan or self._new_plan(tuple(found))
        if tuple(found) != plan.measured:
            raise RecordError(
                f"step {step} measures {', '.join(found)}, the record {str(self.path)!r} is of "
                f"{', '.join(plan.measured)}; measure the same losses, or write another record."
            )
        self._check_goes_on(step, found)
        rows = self._rows or Rows(plan.layout, plan.content)
        shared, each = rows.of_step(next(iter(found.values()))), list(map(rows.of_loss, found.values()))
        if self._blocks is None:  # not before the first row is known to fit
            self._about = attributes(plan, self._estimator, self._settings)
            self._blocks = Blocks.create(self.path, plan, self._about)
        self._plan, self._rows = plan, rows
        self._blocks.put(shared, each)
        self.next_step = step + 1
        self._blocks.flush_full()

    def flush(self) -> None:
        """Write the rows that are held back, so that they can be read and outlive the process."""
        if self._blocks is not None:
            self._blocks.flush()

    def close(self, *, complete: bool = True) -> None:
        """Write what is held back; ``complete`` says in the record whether the run came to its end."""
        if self._closed:
            return
        if self._blocks is not None:
            self._blocks.close(complete=complete)
        self._closed = True

    def cite(self) -> str:
        """BibTeX entries for what the run used: method, software, estimator, data (``settings["data"]``)."""
        own = {"citations": citations_of(self._estimator), "settings": self._settings}
        return citation(self._about or own)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def _new_plan(self, measured: tuple[str, ...]) -> Plan:
        if self._layout is None:
            raise RecordError(
                f"the record {str(self.path)!r} does not know the layout of the parameters; make it with "
                "Record(path, objective.layout)."
            )
        return Plan(self._layout, measured, Content(**self._wanted, traced=self._traced), self._block)

    def _continue(self, resume_at: int | None) -> None:
        self._about = dict(open_group(self.path).attrs)
        self._plan = plan_of(self.path, self._about)
        self.begin(self._plan.layout)
        self._check_same_content(self._plan.content)
        self._blocks = Blocks.open(self.path, self._plan, resume_at)
        if self._blocks.rows:
            last = int(self._blocks.last("step"))
            ends = self._blocks.last("loss_end").tolist()
            self._before = last, dict(zip(self._plan.measured, ends, strict=True))
            self.next_step = last + 1
        if resume_at is not None:
            self.next_step = resume_at

    def _check_same_content(self, has: Content) -> None:
        """What a record keeps is fixed when it begins; options that ask for something else are no slip."""
        asked, usual = Content(**self._wanted, traced=self._traced), Content()
        for name, value in asdict(asked).items():
            if value not in (getattr(usual, name), getattr(has, name)):
                raise RecordError(
                    f"the record {str(self.path)!r} was begun with {name}={getattr(has, name)!r}, and cannot "
                    f"go on with {name}={value!r}; leave the option out, or write another record."
                )

    def _check_goes_on(self, step: int, found: Mapping[str, StepAllocation]) -> None:
        """The first step after a record was opened again should begin where it had ended."""
        (last, ends), self._before = self._before or (step, {}), None
        for name, end in ends.items():
            begin, mass = found[name].loss_start, found[name].mass
            if step == last + 1 and abs(begin - end) > summed(mass + abs(begin) + abs(end), EPS32):
                warnings.warn(
                    f"the record {str(self.path)!r} ended with a {name} loss of {end:.6g} and goes on with "
                    f"one of {begin:.6g}: training was not continued from where step {last} had ended. "
                    "Load the checkpoint of that moment, or pass resume_at= for an earlier one.",
                    LCAWarning,
                    stacklevel=3,
                )
                return


def _check_target(path: Path, mode: Mode, *, block: int, resume_at: int | None) -> None:
    """Raise `RecordError` unless a record can be written to ``path`` in this mode; nothing is made yet."""
    if mode not in get_args(Mode):
        raise UnknownNameError("mode", mode, get_args(Mode))
    if block < 1:
        raise RecordError(f"block must be at least 1 row, got {block}.")
    if resume_at is not None and mode != "a":
        raise RecordError(f"resume_at={resume_at} needs mode='a', got mode={mode!r}.")
    if path.exists():
        if mode == "x":
            raise RecordError(
                f"there is something at {str(path)!r} already; lca.Record(path, mode='a') goes on with a "
                "record, mode='w' replaces it: record=lca.Record(path, mode='w')."
            )
        open_group(path)  # nothing but a record is ever continued or replaced
    check_writable(path.parent)
