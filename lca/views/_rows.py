"""`Rows`: one row of numbers for every step of a run, in a fixed amount of memory."""

import os
import tempfile
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

HELD_BYTES = 2**18
"""Rows that are held in memory, in bytes; more go to the file."""


class Rows:
    """An array that grows by one row a step; earlier rows are in a temporary file.

    The file has no name in its folder (`tempfile.gettempdir`), so nothing is left behind however the process
    ends. Where it cannot be written, all rows stay in memory. A copy, a pickle and a forked process have
    rows of their own.

    Parameters
    ----------
    dtype, shape
        The dtype and shape of one row.

    Examples
    --------
    >>> rows = Rows(np.float64, (2,))
    >>> rows.append(np.array([1.0, 2.0]))
    >>> rows.append([3.0, 4.0])
    >>> len(rows), rows.array()
    (2, array([[1., 2.],
           [3., 4.]]))
    """

    def __init__(self, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self._held = np.empty((0, *shape), dtype)
        self._count = 0  # rows in use of those held
        self._file: Any = None
        self._owner = 0  # the process that writes the file
        self._written = 0  # rows in the file, before those held

    def __len__(self) -> int:
        return self._written + self._count

    def append(self, row: Any) -> None:
        """Add a row."""
        if self._count == len(self._held):
            self._make_room()
        self._held[self._count] = row
        self._count += 1

    def array(self) -> np.ndarray:
        """All rows, (steps, ...). Beyond `HELD_BYTES` they are mapped into memory, and read when used."""
        held = self._held[: self._count]
        if not self._written:
            return held.copy()
        try:
            self._write(held)
        except OSError:
            return np.concatenate([self._mapped(self._written), held])
        return self._mapped(len(self))

    def _make_room(self) -> None:
        if self._held.nbytes >= HELD_BYTES:
            try:
                self._write(self._held)
            except OSError:  # no room on the disk
                pass
            else:
                self._written, self._count = len(self), 0
                return
        grown = np.empty((max(16, 2 * len(self._held)), *self._held.shape[1:]), self._held.dtype)
        grown[: self._count] = self._held[: self._count]
        self._held = grown

    def _write(self, rows: np.ndarray) -> None:
        """Write rows to the file, behind those that are in it for good."""
        if (
            self._owner != os.getpid()
        ):  # also in a forked process, which must not write to the file of another
            earlier = self._mapped(self._written) if self._written else self._held[:0]
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - for as long as this object lives
            weakref.finalize(self, file.close)
            _write_all(file, 0, earlier)
            self._file, self._owner = file, os.getpid()
        _write_all(self._file, self._written, rows)

    def _mapped(self, count: int) -> np.ndarray:
        shape = (count, *self._held.shape[1:])
        return np.asarray(np.memmap(self._file, self._held.dtype, mode="c", shape=shape))

    def __getstate__(self) -> dict[str, Any]:
        rows = self.array()
        fresh = {"_file": None, "_owner": 0, "_written": 0}
        return {**fresh, "_held": np.array(rows), "_count": len(rows)}


def _write_all(file: Any, first: int, rows: np.ndarray) -> None:
    """Write ``rows`` as the rows from ``first`` on; an unbuffered file may take a part at a time."""
    left = memoryview(rows.tobytes())
    file.seek(first * (rows.nbytes // len(rows)) if len(rows) else 0)
    while left:
        left = left[file.write(left) :]
