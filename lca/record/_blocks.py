"""`Blocks`: collects rows in memory and writes them block by block."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.record._metrics import Given
from lca.record._rows import Cells
from lca.record._schema import UNFINISHED, Plan

if TYPE_CHECKING:
    from lca.record._store import BlockStore

LATE, ROWS_OF_LATE = 10.0, 64
"""The rows of a block that is not full are written after this time (s) and from this number of rows on."""


class Blocks:
    """The rows of the current block and of the files they go to, and the store that writes them."""

    def __init__(self, store: "BlockStore", plan: Plan) -> None:
        self._waiting: list[tuple[Cells, list[Cells]]] = []  # rows that came while the disk was full
        self._metrics: list[Given] = []  # that are not written yet
        self._store, self._size, self._count = store, plan.block, store.committed
        self._written = time.monotonic()
        self._files = {
            column.name: column.rows(store.rows_per_file(column.name), plan.sizes) for column in plan.columns
        }
        self._empty = {column.name: column.empty for column in plan.columns}
        self._first = {name: self._count - self._count % len(rows) for name, rows in self._files.items()}
        for name, rows in self._files.items():
            first = self._first[name]
            rows[: self._count - first] = store.read(name, slice(first, self._count))
        self._next_file = self._end_of_files()

    @classmethod
    def create(cls, path: Path, plan: Plan, attributes: Mapping[str, Any]) -> "Blocks":
        """Create a record without rows."""
        from lca.record._store import BlockStore  # noqa: PLC0415 - needs zarr

        return cls(BlockStore.create(path, plan, attributes), plan)

    @classmethod
    def open(cls, path: Path, plan: Plan, resume_at: int | None) -> "Blocks":
        """Open an existing record with its rows, or with those before step ``resume_at``."""
        from lca.record._store import BlockStore  # noqa: PLC0415 - needs zarr

        for leftover in path.rglob("*.partial"):  # from a writer that was killed
            leftover.unlink(missing_ok=True)
        store = BlockStore(path, plan.columns)
        kept = store.committed
        if resume_at is not None:
            name, length = ("step_end", 0) if plan.content.checkpoints else ("step", 1)
            ends = store.read(name, slice(0, kept)) + length
            kept = int(np.searchsorted(ends, resume_at, side="right"))
        store.reopen()
        store.cut(kept)
        return cls(store, plan)

    @property
    def rows(self) -> int:
        """Number of rows, in the store or in memory."""
        return self._count + len(self._waiting)

    @property
    def longest_gap(self) -> int:
        """The largest distance of the steps of neighbouring rows, as of a schedule; 1 for every step.

        Where an estimator began anew, it may have missed steps that are in no schedule.
        """
        distances = np.diff(self.stored("step"))
        return int(distances[~self.stored("restarted")[1:]].max(initial=1))

    def last(self, name: str) -> np.ndarray:
        """The last row of a variable when the record was opened; there must be one."""
        at = self._count - self._first[name]
        if at:
            return np.array(self._files[name][at - 1])
        return np.asarray(self._store.read(name, slice(self._count - 1, self._count))[0])

    def stored(self, name: str) -> np.ndarray:
        """The rows of a variable in the store."""
        return self._store.read(name, slice(0, self._store.committed))

    def put(self, step: Cells, losses: Iterable[Cells]) -> None:
        """Add a row: the cells that all measured losses share, and those of each loss, in order.

        Writes the block once it is full or late. A row is kept also if that fails, and written at the next
        occasion.
        """
        self._waiting.append((step, list(losses)))
        self._take_in()
        if self._is_late:
            self._write()

    def give(self, metrics: Sequence[Given]) -> None:
        """Add metrics: they are written with the rows that wait for it, or at once if no row does."""
        self._metrics += metrics
        if self._count and self.rows == self._store.committed:
            self._write_metrics()

    def drop_metrics(self, step: int) -> list[Given]:
        """Drop the metrics that were given after more than ``step`` updates, and return them."""
        return self._store.drop_metrics(step)

    @property
    def is_in_place(self) -> bool:
        """Whether the folder and its files are still there, and not others."""
        return self._store.is_in_place

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace attributes of the record."""
        self._store.set_attributes(attributes)

    def flush(self) -> None:
        """Write the current block; if it is not full yet, it will be written again."""
        self._take_in()
        if self.rows != self._store.committed:
            self._write()
        elif self._metrics:
            self._write_metrics()

    def _take_in(self) -> None:
        """Move the waiting rows into the block, and write it whenever it is full."""
        while self._waiting or self._is_full:
            if self._is_full:
                self._write()
            if self._waiting:
                self._fill(*self._waiting[0])
                del self._waiting[0]

    @property
    def _is_full(self) -> bool:
        return self._count != self._store.committed and self._count % self._size == 0

    @property
    def _is_late(self) -> bool:
        waiting = self._count - self._store.committed
        return waiting >= ROWS_OF_LATE and time.monotonic() - self._written > LATE

    def _fill(self, step: Cells, losses: Iterable[Cells]) -> None:
        count, files, first = self._count, self._files, self._first
        if count == self._next_file:
            for name, rows in files.items():
                if count - first[name] == len(rows):
                    first[name] = count
                    rows[:] = self._empty[name]
            self._next_file = self._end_of_files()
        for name, value in step.items():
            files[name][count - first[name]] = value
        for which, cells in enumerate(losses):
            for name, value in cells.items():
                files[name][count - first[name], which] = value
        self._count += 1

    def _end_of_files(self) -> int:
        """The number of rows at which the first of the files is full."""
        return min(self._first[name] + len(rows) for name, rows in self._files.items())

    def _write(self) -> None:
        files = {name: (self._first[name], rows) for name, rows in self._files.items()}
        self._store.write(files, self._count, self._metrics)
        self._metrics, self._written = [], time.monotonic()

    def _write_metrics(self) -> None:
        self._store.add_metrics(self._metrics)
        self._metrics = []

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Write the current block and trim the arrays, so that any reader of Zarr sees exactly the rows.

        ``outcome``: the attributes that say how the run ended (`lca.record._schema.UNFINISHED`).
        """
        self.flush()
        self._store.close({**UNFINISHED, **outcome})
