"""A record has one writer: a lock that the system lets go of when the process ends, however it ends."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from lca.record.schema import RecordError


class WriterLock:
    """Holds the folder of a record until `release`, or until this object or the process is gone.

    Where the file system or the platform has no such locks there is none.

    Raises
    ------
    RecordError
        If somebody else holds it.
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
                f"the record {str(path)!r} is being written by somebody else: another process, or a Record "
                "in this one that was not closed."
            ) from error
        except OSError:  # a network file system without locks
            self._release()

    def release(self) -> None:
        """Let go."""
        self._release()
