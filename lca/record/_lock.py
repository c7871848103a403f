"""`WriterLock`: allows one writer per record; the system releases it when the process ends in any way."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from lca.record._schema import RecordError


class WriterLock:
    """Locks the folder of a record until `release`, or until this object or the process is gone.

    On platforms and file systems without such locks it does nothing.

    Raises
    ------
    RecordError
        If another writer holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self._release: Callable[[], object] = lambda: None
        try:
            import fcntl  # noqa: PLC0415 - not on Windows
        except ImportError:
            return
        folder = os.open(path, os.O_RDONLY)
        self._release = weakref.finalize(self, os.close, folder)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release()
            raise RecordError(
                f"the record {str(path)!r} is being written by another process, or by a Record in this "
                "process that was not closed; close it first."
            ) from error
        except OSError:  # a network file system without locks
            self._release()

    def release(self) -> None:
        """Release the lock."""
        self._release()
