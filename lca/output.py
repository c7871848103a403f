"""Result folders: checked before a run, written in one go after it, nothing half-written."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lca.errors import OutputError


def check_writable(folder: Path) -> None:
    """Raise `OutputError` unless ``folder`` can be written to, or made; leaves nothing behind.

    Called before a long run, so that a mistyped path costs no training.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (name: content) into ``folder``, making it if needed and replacing older ones.

    All are written under temporary names first and renamed only when the last one is complete, so an
    interrupted or failed call leaves the earlier files as they were.

    Raises
    ------
    OutputError
        If the folder or a file cannot be written.
    """
    staged: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            staged[name] = _stage(folder, name, content)
        for name, path in staged.items():
            path.replace(folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)  # what was renamed is no longer there


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder for work in progress, on the file system of ``folder``, gone at the end whatever happens."""
    with tempfile.TemporaryDirectory(prefix=".lca-", dir=_existing(folder)) as scratch:
        yield Path(scratch)


def replace_folder(staged: Path, path: Path) -> None:
    """Put the folder ``staged`` at ``path``; one that is there goes, but not before."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    staged.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _existing(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def _stage(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f".{name}.{os.getpid()}.tmp"
    try:
        path.write_bytes(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write to the folder {str(folder)!r} ({error.strerror or error}); choose another one."
    )
