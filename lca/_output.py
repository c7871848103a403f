"""Result folders: checked before a run, and written afterwards either completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lca.errors import OutputError


def check_writable(folder: Path) -> None:
    """Raise `OutputError` unless ``folder`` exists and is writable, or can be created.

    Creates nothing. Call it before a long run, so that an invalid path does not cost the result.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to ``folder``, which is created if needed; existing files are replaced.

    All files are first written under temporary names, and renamed once the last one is complete. A call that
    fails or is interrupted before that leaves the earlier files unchanged.

    Parameters
    ----------
    folder
        Where to write.
    files
        Content by file name.

    Raises
    ------
    OutputError
        If the folder or a file cannot be written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_files(Path(folder) / "results", {"a.txt": b"1"})
    ...     print((Path(folder) / "results" / "a.txt").read_text())
    1
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
            path.unlink(missing_ok=True)  # renamed files no longer exist under the temporary name


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Context manager: a temporary folder on the file system of ``folder``, always removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".lca-", dir=_existing(folder)) as scratch:
        yield Path(scratch)


def replace_folder(staged: Path, path: Path) -> None:
    """Move the folder ``staged`` to ``path``; an existing folder is deleted after the move."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    staged.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _existing(folder: Path) -> Path:
    """``folder``, or its nearest parent that exists."""
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
        f"cannot write to the folder {str(folder)!r} ({error.strerror or error}); choose another folder."
    )
