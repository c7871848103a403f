"""`Record`: writes the allocations of a run to disk, block by block."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from math import hypot
from os import PathLike
from types import TracebackType
from typing import Any

from lca._extras import extra
from lca._output import check_writable
from lca._paths import local_path
from lca.allocation import Estimator, StepAllocation
from lca.arrays import array_ops
from lca.by_example import ExampleAllocation
from lca.groups import Groups
from lca.layout import Layout, check_same_layout
from lca.record._about import Dtype, Mode, attributes, named
from lca.record._asked import (
    as_allocations,
    as_losses,
    as_settings,
    check_content,
    check_estimator,
    check_layout,
    check_options,
    check_rows,
    check_target,
)
from lca.record._blocks import Blocks
from lca.record._citation import citation, citations_of
from lca.record._continuation import Continuation
from lca.record._examples import RecordedExamples, example_cells, examples_of
from lca.record._lock import WriterLock, rank
from lca.record._metrics import Given, as_given
from lca.record._rows import learning_rates_of, loss_cells, step_cells
from lca.record._schema import Content, Plan, RecordError
from lca.record._writers import Run, add, forget, keep_rows, make_way
from lca.row import Row, rows_of

BLOCK, LARGEST_USUAL_BLOCK = 64, 4_096
"""Rows of a block by default: as many as hold `NUMBERS_OF_A_BLOCK` values, within these limits."""
NUMBERS_OF_A_BLOCK = 2**22
"""So many numbers that blocks of small models, whose steps take little time, are written seldom."""


class Record:
    """Writes the allocations of a run to a folder, block by block; `open_record` reads it at any time.

    For every step and measured loss it stores the scalars of the allocation, totals and sign counts of each
    tensor and layer, totals of each neuron, and a histogram of |A|. If the process is killed, the rows of the
    last 10 s are lost, or the last 64 rows if these took longer, with the metrics added since. A record that
    is not closed is written and marked incomplete when the object is collected or the process ends.

    Parameters
    ----------
    path
        The folder to create, on this machine. By convention its name ends in ``.zarr``.
    layout
        The layout of the parameters. A tracker that receives the record sets it.
    mode
        ``"x"``: create a record, and raise an error if one exists. ``"w"``: replace an existing record.
        ``"a"``: continue an existing record, or create one.
    resume_at
        With ``mode="a"``: the number of steps made before. Rows from this step on are dropped, because these
        steps will be measured again. Default: where the record ends.
    values
        Store all A_i of every step in this dtype: K numbers per step and measured loss.
    theta
        Store θ_t of every step in this dtype.
    trace
        Single parameters to store, as positions in θ or as names such as ``"fc1.weight[3, 17]"``.
    neurons, histogram
        Whether to store the totals of neurons, and the histogram of |A|.
    estimator, settings
        The estimator, and any facts about the run that fit in JSON; stored in the attributes. With
        ``mode="a"``, settings that the record lacks are added; where it has another value, it keeps that and
        a warning says so.
    block
        Number of rows that are collected in memory and written at once; 64 rows are written before the block
        is full if the last writing was 10 s ago. Default: 64 for models of more than 65,536 parameters, up to
        4,096 for smaller ones, as writing takes about 40 ms.

    Raises
    ------
    RecordError
        If a record exists and ``mode`` is ``"x"``, if the record cannot be continued or written, if there is
        something at ``path`` that is not a record, if it is being written already, or if a step does not
        come after the previous one.

    Notes
    -----
    Memory: one block of rows. Cost of a step: at most three passes over the K values per measured loss
    (`lca.row.Row`), which are shared with the summary of a tracker, and one over θ. Needs the extra
    ``report``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral, Record, Trajectory, allocate_each, open_record
    >>> from lca.reference import Quadratic
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
        block: int | None = None,
    ) -> None:
        with extra("report"):
            import zarr  # noqa: PLC0415, F401 - fail now rather than at the first step
        check_options(mode, block=block, resume_at=resume_at)
        check_content(values, theta, trace, {"neurons": neurons, "histogram": histogram})
        check_estimator(estimator)
        self.path = local_path(path, RecordError)
        self._place = self.path.absolute()  # the program may change its folder
        self._mode: Mode = mode
        self._wanted: dict[str, Any] = {
            "neurons": neurons,
            "histogram": histogram,
            "values": values,
            "theta": theta,
        }
        self._trace, self._block = tuple(trace), block
        self._estimator, self._settings = estimator, as_settings(settings)
        self._training: dict[str, Any] = {}
        self._layout: Layout | None = None
        self._traced: tuple[int, ...] = ()
        self._groups: dict[str, Groups] = {}
        self._blocks: Blocks | None = None
        # Writes the rows when the record is collected without being closed:
        self._rest: weakref.finalize[..., Record] | None = None
        self._run: Callable[[], Run | None] = lambda: None
        self._about: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._given: list[Given] = []  # before the first row
        self._continuation = Continuation(self.path, mode)
        self._closed = False
        self._writes = rank() == 0
        if self._writes:
            self._claim(resume_at)
        if layout is not None:
            self.begin(layout)

    @property
    def steps(self) -> int:
        """Number of steps in the record, including those that are not yet written to disk."""
        return 0 if self._blocks is None else self._blocks.rows

    @property
    def next_step(self) -> int:
        """The index of the next step: the number of steps made before, whether measured or not."""
        return self._continuation.next_step

    @property
    def memory(self) -> Mapping[str, Mapping[str, float]]:
        """What the estimator needs to continue this record as without a stop, by loss.

        For the option ``memory`` of `lca.allocate_each`; a tracker passes it on. Empty for a new record, and
        if the estimator has no such memory, or is another one than before.
        """
        return self._continuation.memory(self._estimator)

    def begin(
        self,
        layout: Layout,
        *,
        estimator: Estimator | None = None,
        settings: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        groups: Mapping[str, Groups] | None = None,
    ) -> "Record":
        """Set what was not known when the record was created; trackers call this.

        Parameters
        ----------
        layout
            The layout of the parameters.
        estimator, settings
            As for the class; what was passed there, or is in a record that is continued, takes precedence.
        training
            What a tracker knows of the model; stored in the attribute ``training`` beside the versions of the
            packages in use.
        groups
            Divisions whose totals are stored in ``group_total``, by name.

        Raises
        ------
        LayoutError
            If the record has another layout.
        RecordError
            If the record is continued and has other groups.
        """
        check_layout(layout)
        check_estimator(estimator)
        if self._layout is not None:
            check_same_layout((self._layout, layout), f"the record {str(self.path)!r} and the run")
        self._layout = layout
        self._traced = tuple(layout.position(entry) for entry in self._trace)
        self._estimator = self._estimator or estimator
        self._settings = {**as_settings(settings), **self._settings}
        self._training = {**self._training, **(training or {})}
        self._groups |= groups or {}
        if (
            groups is not None
            and self._plan is not None
            and self._plan.content.groups != _pairs(self._groups)
        ):
            raise RecordError(
                f"the record {str(self.path)!r} has other groups ({_listed(self._plan.content.groups)}) than "
                f"the run ({_listed(_pairs(self._groups))}); use the same groups= and heads=, or write "
                "another record."
            )
        self._store_settings()
        return self

    def update(
        self,
        allocations: StepAllocation | Mapping[str, StepAllocation],
        *,
        examples: ExampleAllocation | None = None,
    ) -> None:
        """Add one step.

        Parameters
        ----------
        allocations
            The allocation of each measured loss by name, as from `lca.allocate_each`; a single allocation is
            named ``train``. The terms of a `lca.Sum` are added as ``train/penalty``.
        examples
            The allocation of the first of these losses by group and example
            (`lca.by_example.allocate_by_example`). A tracker adds it if an `lca.by_example.ExampleHistory` is
            among its views.

        Raises
        ------
        RecordError
            If the record is closed, the step is not new, other losses are measured than before, or the disk
            cannot be written.
        """
        rows = rows_of(as_allocations(allocations), self._known_layout())
        next(iter(rows.values())).examples = examples
        self.write(rows)

    def write(self, rows: Mapping[str, Row]) -> None:
        """Add one step whose rows exist already, as from `lca.row.rows_of`; like `update` otherwise.

        Raises
        ------
        RecordError
            If the step is not new, or other losses are measured than before.
        """
        self._refuse_closed()
        values = next(iter(rows.values())).allocation.values if rows else None
        if not self._writes and (values is None or not array_ops(values).collective):
            return
        if self._writes:
            self._lock.check()
        check_rows(rows)
        first = next(iter(rows.values()))
        step, end = first.ends
        if step < self.next_step:
            raise RecordError(
                f"step {step} is not new to the record {str(self.path)!r}, which continues at step "
                f"{self.next_step}; count from Record.next_step, or pass resume_at={step} to measure again."
            )
        plan = self._plan or self._new_plan(rows)
        if tuple(rows) != plan.measured:
            raise RecordError(
                f"step {step} measures {', '.join(rows)}, but the record {str(self.path)!r} holds "
                f"{', '.join(plan.measured)}; measure the same losses, or write another record."
            )
        rows, restarted, displaced = self._continuation.join(rows, self._estimator)
        shared = {**step_cells(first, plan.content), "restarted": restarted}
        if plan.content.places:
            shared["displaced"] = displaced
        shared |= example_cells(rows, plan.content.examples)
        groups = self._groups.values()
        each = [loss_cells(self._fitting(row, plan.layout), plan.content, groups) for row in rows.values()]
        if not self._writes:
            self._plan, self._continuation.next_step = plan, end
            return
        blocks = self._blocks or self._created(plan)  # only now is it known that the first row fits
        self._plan, self._continuation.next_step = plan, end
        blocks.put(shared, each)

    def add_metrics(self, values: Mapping[str, Any], *, step: int) -> None:
        """Add numbers of the training, such as an accuracy; trackers call this.

        They are written with the block of rows that they fall into. The attribute ``metrics`` holds them as
        ``{"accuracy": {"step": [10], "value": [0.5]}}``, with ``None`` for a value that is not finite. A
        value that is given again after the same number of updates replaces the earlier one. Of more than
        10,000 values of a metric, every second one is dropped. A record without a row has no metrics either.

        Parameters
        ----------
        values
            Numbers by name.
        step
            The number of updates that were made before.

        Raises
        ------
        LCAError
            If a value is not a number.
        RecordError
            If the record is closed, or the disk cannot be written.
        """
        self._refuse_closed()
        given = as_given(step, values)
        if self._blocks is not None:
            self._blocks.give(given)
        elif self._writes:
            self._given += given

    def flush(self) -> None:
        """Write all rows and metrics to disk, so that they can be read and survive the process."""
        if self._blocks is not None:
            self._blocks.flush()

    def close(
        self,
        *,
        complete: bool = True,
        final_losses: Mapping[str, float] | None = None,
        final_checks: Mapping[str, Any] | None = None,
    ) -> None:
        """Write all rows and release the record.

        Parameters
        ----------
        complete
            Whether the run reached its end; stored in the attributes.
        final_losses
            The losses at the end of the run, by name, where that is not the end of the last row (weights that
            were put in after training); stored in the attributes.
        final_checks
            What the rows do not hold of a self-check, by loss: its ``margin`` over the whole run, the
            ``noise`` beyond which a tracker warns, and the ``windows`` that ended after the last row; stored
            in the attributes.
        """
        if self._closed:
            return
        losses = as_losses(final_losses)
        if self._blocks is not None:
            checks = _joined(self._continuation.checks, final_checks or {})
            self._blocks.close({"complete": complete, "final_losses": losses, "final_checks": checks})
        self._release()

    def cite(self) -> str:
        """BibTeX entries for the method, this software, the estimator and the data (``settings["data"]``)."""
        own = {"citations": citations_of(self._estimator), "settings": self._settings}
        return citation(self._about or own)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def _claim(self, resume_at: int | None) -> None:
        """Lock the name, and continue the record if there is one to be continued."""
        check_writable(self.path.parent)
        self._place.parent.mkdir(parents=True, exist_ok=True)
        make_way(self._place)
        self._lock = WriterLock(self._place)
        try:
            check_target(self._place, self._mode)
            if self._mode == "a" and self._place.exists():
                self._open(resume_at)
            elif resume_at is not None:
                self._continuation.resume_at(resume_at)
        except BaseException:
            self._release()
            raise
        add(self, self._lock)

    def _release(self) -> None:
        """Let others write the record; rows that are not written by now are lost."""
        self._closed = True
        if self._rest is not None:
            forget(self._rest)
        if self._writes:
            self._lock.release()

    def _written_by(self, run: Run) -> None:
        """``run`` writes the record from now on."""
        self._run = weakref.ref(run)

    def _created(self, plan: Plan) -> Blocks:
        self._about = attributes(plan, self._estimator, self._settings, self._training)
        check_target(self._place, self._mode)  # again: others need not know the lock
        blocks = Blocks.create(self._place, plan, self._about)
        self._keep(blocks)
        blocks.give(self._given)
        return blocks

    def _keep(self, blocks: Blocks) -> None:
        self._blocks, self._rest = blocks, keep_rows(self, blocks, self._lock)

    def _open(self, resume_at: int | None) -> None:
        """Continue the record that exists."""
        earlier = self._continuation
        self._plan, self._about = earlier.read(self._place), earlier.about
        self.begin(self._plan.layout)
        asked = Content(**self._wanted, traced=self._traced)
        self._keep(earlier.open(self._place, asked, resume_at))
        earlier.compare(self._settings)
        self._store_settings()

    def _store_settings(self) -> None:
        """Add the settings that a record on disk does not have; without a row, those of before are void."""
        if self._blocks is None or self._closed:
            return
        before = self._about.get("settings", {})
        known = {"settings": before | self._settings | before}
        if not self._blocks.rows:
            known["settings"] = before | self._settings
            if self._estimator is not None:
                known |= named(self._estimator)
        if any(self._about.get(name) != value for name, value in known.items()):
            self._about |= known
            self._blocks.set_attributes(known)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RecordError(
                f"the record {str(self.path)!r} is closed; continue it with Record(path, mode='a')."
            )

    def _known_layout(self) -> Layout:
        if self._layout is None:
            raise RecordError(
                f"the record {str(self.path)!r} does not know the layout of the parameters; create it with "
                "Record(path, objective.layout)."
            )
        return self._layout

    def _new_plan(self, rows: Mapping[str, Row]) -> Plan:
        first = next(iter(rows.values()))
        source = first.allocation.source
        memory = dict.fromkeys(name for row in rows.values() for name in row.allocation.memory)
        by_example = examples_of(rows)
        content = Content(
            **self._wanted,
            traced=self._traced,
            checkpoints=source is not None and source.checkpoints is not None,
            places=source is not None,
            learning_rates=tuple(learning_rates_of(first)),
            groups=_pairs(self._groups),
            memory=tuple(memory),
            examples=None if by_example is None else RecordedExamples.of(*by_example),
        )
        layout = self._known_layout()
        fitting = NUMBERS_OF_A_BLOCK // layout.size
        usual = min(max(fitting, BLOCK), LARGEST_USUAL_BLOCK)
        return Plan(layout, tuple(rows), content, self._block or usual)

    def _fitting(self, row: Row, layout: Layout) -> Row:
        """``row``, or a new row if it was made for a layout that differs in its neurons."""
        if row.layout == layout:
            return row
        check_same_layout((layout, row.layout), f"the record {str(self.path)!r} and the row")
        fitting = Row(row.allocation, layout)
        fitting.check, fitting.path_difference, fitting.examples = (
            row.check,
            row.path_difference,
            row.examples,
        )
        return fitting


def _pairs(groups: Mapping[str, Groups]) -> tuple[tuple[str, str], ...]:
    """Each group with its division."""
    return tuple((division, name) for division, own in groups.items() for name in own.names)


def _listed(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(dict.fromkeys(division for division, _ in pairs)) or "none"


def _joined(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The self-checks of the parts of a record that was continued; their errors are independent."""
    joined = dict(earlier)
    for name, own in later.items():
        before = joined.get(name, {"margin": 0.0, "noise": 0.0, "windows": []})
        joined[name] = {
            **{key: _hypot(before.get(key), own.get(key)) for key in ("margin", "noise")},
            "windows": [*before["windows"], *own["windows"]],
        }
    return joined


def _hypot(*numbers: float | None) -> float | None:
    known = [number for number in numbers if number is not None]
    return hypot(*known) if len(known) == len(numbers) else None
