"""`WriterLock`: at most one writer for the name of a record, in this process and in all others.

The lock is a file beside the record, so that it can be taken before the record exists and stays when the
record is replaced. The system releases it when the process ends in any way, and a forked child does not
inherit it.
"""

import os
import sys
import weakref
from pathlib import Path

from lca.record._schema import RecordError

_HELD: set[Path] = set()
"""The lock files of this process: the system's own locks do not keep a process from itself."""


class WriterLock:
    """Locks the name of a record until `release`, or until this object or the process is gone.

    Where the system or the file system has no such locks, it only keeps this process from itself.

    Parameters
    ----------
    path
        The record, which need not exist; the folder it is in must.

    Raises
    ------
    RecordError
        If another writer holds the lock.

    Attributes
    ----------
    file
        The lock file.
    """

    def __init__(self, path: Path) -> None:
        try:
            file = lock_file(path)
            held = file in _HELD
            opened = None if held else _locked(file)
        except (
            OSError,
            RuntimeError,
        ) as error:  # the name is too long for the file system, or links turn round
            why = getattr(error, "strerror", None) or error
            raise RecordError(
                f"the record {str(path)!r} cannot be locked ({why}); choose another path."
            ) from error
        if held:
            raise RecordError(
                f"the record {str(path)!r} is being written in this process, by a tracker or a Record that "
                f"was not closed. If its run is over, close it: lca.record.close_record({str(path)!r}); "
                "otherwise write another record."
            )
        if opened is None:
            raise RecordError(
                f"the record {str(path)!r} is being written by another process; wait until it has ended, or "
                "write another record."
            )
        _HELD.add(file)
        self.file = file
        self._path, self._owner = path, os.getpid()
        self._release = weakref.finalize(self, _unlock, file, opened, self._owner)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock: it was not released, nor is this a forked process."""
        return self._release.alive and os.getpid() == self._owner

    def check(self) -> None:
        """Raise `RecordError` in a process that was forked from the one that holds the lock."""
        if os.getpid() != self._owner:
            raise RecordError(
                f"the record {str(self._path)!r} is being written by the process from which this one was "
                "forked; write another record here."
            )

    def release(self) -> None:
        """Release the lock."""
        self._release()


def lock_file(path: Path) -> Path:
    """The lock file of a record; a link to a record is the same record."""
    real = path.resolve()
    return real.parent / f".{real.name}.lock"


def rank() -> int:
    """The rank of this process under `torch.distributed`, started or about to be started; 0 without it."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    found = os.environ.get("RANK", "0")
    return int(found) if found.isdigit() and os.environ.get("WORLD_SIZE") else 0


def _locked(file: Path) -> int | None:
    """Open and lock a file; ``None`` if another process has locked it."""
    while True:
        opened = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
        if not _lock(opened):
            os.close(opened)
            return None
        if _is_file(opened, file):
            return opened
        os.close(opened)  # its holder removed it in between


def _lock(opened: int) -> bool:
    """Lock an open file for this process; false if another process has locked it."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return True
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a network file system without locks
        return True
    return True


def _is_file(opened: int, file: Path) -> bool:
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(opened))


def _unlock(file: Path, opened: int, owner: int) -> None:
    """Remove the lock file, and with it the lock; nothing in a forked child, which has not locked it."""
    if os.getpid() != owner:
        return
    _HELD.discard(file)
    file.unlink(missing_ok=True)
    os.close(opened)
