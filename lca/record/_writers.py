"""The records that this process is writing, and the closing of those that are left open."""

import atexit
import gc
import threading
import warnings
import weakref
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lca._paths import local_path
from lca.errors import LCAWarning
from lca.record._blocks import Blocks
from lca.record._lock import WriterLock, lock_file
from lca.record._schema import RecordError

if TYPE_CHECKING:
    from lca.record._record import Record

_OPEN: "weakref.WeakValueDictionary[Path, Record]" = weakref.WeakValueDictionary()
"""The records that are open, by lock file."""
_UNWRITTEN: "set[weakref.finalize[..., Record]]" = set()
"""Write the rows of the records that are open, if these are collected or the process ends."""


class Run(Protocol):
    """A writer of a record: a tracker."""

    def _is_over(self) -> bool:
        """Whether it is known to have ended, such as with the ``fit`` that it measured."""

    def _abandon(self) -> None:
        """Close it, with the record, as incomplete."""

    def close(self, *, complete: bool = True) -> None:
        """Stop measuring, and close the record."""


def close_record(path: str | PathLike[str]) -> None:
    """Close the record that this process writes at ``path``, as incomplete, with the tracker that writes it.

    For a run that ended with an error or an interrupt, if the tracker or `Record` that wrote the record is no
    longer at hand: a tracker whose ``with`` block has ended has closed its record. All rows are written.

    Parameters
    ----------
    path
        The path that was passed to `Record`.

    Raises
    ------
    RecordError
        If this process writes no record there, or the disk cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> from lca.record import close_record
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = Record(f"{folder}/run.zarr", Layout(("w",), ((2,),)))
    ...     record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     close_record(f"{folder}/run.zarr")
    ...     Record(f"{folder}/run.zarr", mode="a").next_step
    1
    """
    found = _writer_at(local_path(path, RecordError).absolute())
    if found is None:
        raise RecordError(f"this process writes no record at {str(path)!r}; there is nothing to close.")
    run = found._run()
    if run is not None:
        run.close(complete=False)
    found.close(complete=False)


def close_if_over(place: Path) -> None:
    """Close the record that this process writes at this place if its run is known to be over."""
    found = _writer_at(place)
    run = None if found is None else found._run()
    if run is not None and run._is_over():
        run._abandon()


def make_way(place: Path) -> None:
    """Close the record that this process writes at this place if nothing can write to it any more."""
    close_if_over(place)
    if _writer_at(place) is not None:
        gc.collect()  # it may be garbage in a cycle


def add(record: "Record", lock: WriterLock) -> None:
    """Add a record that has been opened."""
    _OPEN[lock.file] = record


def keep_rows(record: "Record", blocks: Blocks, lock: WriterLock) -> "weakref.finalize[..., Record]":
    """A finalizer that writes the rows of a record that is never closed; closing passes it to `forget`."""
    if not _UNWRITTEN:  # after Zarr was imported, so that it is called before Zarr ends its threads
        atexit.unregister(_write_at_exit)
        atexit.register(_write_at_exit)
    finalizer = weakref.finalize(record, _write, blocks, lock)
    finalizer.atexit = False
    _UNWRITTEN.difference_update([one for one in _UNWRITTEN if not one.alive])
    _UNWRITTEN.add(finalizer)
    return finalizer


def forget(finalizer: "weakref.finalize[..., Record]") -> None:
    """The rows are written, or given up."""
    finalizer.detach()
    _UNWRITTEN.discard(finalizer)


def _writer_at(place: Path) -> "Record | None":
    try:
        found = _OPEN.get(lock_file(place))
    except (OSError, RuntimeError):  # whoever uses this path says so
        return None
    return None if found is None or found._closed else found


def _write(blocks: Blocks, lock: WriterLock) -> None:
    """Write the rows of a record that was collected, which may happen in any thread."""
    from lca.record._files import in_thread_of_zarr  # noqa: PLC0415 - needs zarr

    if not lock.is_held:
        return
    if in_thread_of_zarr():
        threading.Thread(target=_write_here, args=(blocks, lock)).start()
    else:
        _write_here(blocks, lock)


def _write_here(blocks: Blocks, lock: WriterLock) -> None:
    """Write the rows of a record, unless its folder was deleted."""
    try:
        if blocks.is_in_place:
            blocks.close({})
    except Exception as error:
        warnings.warn(
            f"the last rows of a record that was not closed could not be written: {error}",
            LCAWarning,
            stacklevel=2,
        )
    finally:
        lock.release()


def _write_at_exit() -> None:
    """Write the rows of all open records; the threads that write files usually have ended before."""
    from lca.record._files import write_in_one_thread  # noqa: PLC0415 - needs zarr

    if any(finalizer.alive for finalizer in _UNWRITTEN):
        write_in_one_thread()
        for finalizer in list(_UNWRITTEN):
            finalizer()
