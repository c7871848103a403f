"""Result files and folders: checked before a run, and written afterwards either completely or not at all.

What exists already is replaced only on request, and only if this library made it. Its files say so in their
first or last bytes (`GENERATOR`); records have a check of their own (`lca.record`).
"""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from lca.errors import OutputError

GENERATOR = f"loss-change-allocation {version('loss-change-allocation')}"
"""What every file says it was made by: the meta tag of a page, a key of JSON, the metadata of a figure."""
_MADE_HERE = re.compile(
    rb'(name="generator" content="|"generator": ?"|Software\0|<dc:title>|% )loss-change-allocation[ "]'
)
_ENDS = 2048
"""Bytes at both ends of a file in which it says so; a PDF ends with it."""

IsOurs = Callable[[Path], bool]


def is_our_file(path: Path) -> bool:
    """Whether ``path`` is a file that this library wrote.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page, mine = Path(folder, "page.html"), Path(folder, "mine.html")
    ...     _ = page.write_text(f'<meta name="generator" content="{GENERATOR}">'), mine.write_text("mine")
    ...     is_our_file(page), is_our_file(mine)
    (True, False)
    """
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        return any(_MADE_HERE.search(end) is not None for end in (head, file.read(_ENDS)))


def check_free(
    path: Path, *, overwrite: bool, option: str = "--overwrite", is_ours: IsOurs = is_our_file
) -> None:
    """Raise `OutputError` if there is something at ``path`` that may not be replaced.

    Parameters
    ----------
    path
        Where a result is to be written.
    overwrite
        Whether the user allowed to replace earlier results.
    option
        How the user allows it, for the message.
    is_ours
        Tells a result of this library from everything else.
    """
    if not os.path.lexists(path):
        return
    try:
        ours = is_ours(path)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    if not ours:
        raise OutputError(
            f"{str(path)!r} exists already and was not made by lca, so {option} does not replace it; "
            "move it, or choose another place."
        )
    if not overwrite:
        raise OutputError(
            f"{str(path)!r} exists already; pass {option} to replace it, or choose another place."
        )


def check_writable(folder: Path) -> None:
    """Raise `OutputError` unless ``folder`` exists and is writable, or can be created.

    Creates nothing. Call it before a long run, so that an invalid path does not cost the result.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_files(
    folder: Path, files: Mapping[str, bytes], *, overwrite: bool = False, option: str = "--overwrite"
) -> None:
    """Write files to ``folder``, which is created if needed, either completely or not at all.

    Parameters
    ----------
    folder
        Where to write.
    files
        Content by file name.
    overwrite, option
        As for `check_free`.

    Raises
    ------
    OutputError
        If the folder or a file cannot be written, or exists and may not be replaced.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_files(Path(folder) / "results", {"a.txt": b"1"})
    ...     print((Path(folder) / "results" / "a.txt").read_text())
    1
    """
    with scratch_folder(folder) as scratch:
        stage(scratch, files)
        for name in files:
            check_free(folder / name, overwrite=overwrite, option=option)
        move_into(folder, scratch)


def stage(scratch: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a `scratch_folder`, from which `move_into` takes them.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    try:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
    except OSError as error:
        raise _cannot_write(scratch.parent, error) from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Context manager: a temporary folder on the file system of ``folder``, always removed at the end.

    Raises
    ------
    OutputError
        If there is no such place.
    """
    scratch = None
    try:
        try:
            with uninterrupted():
                scratch = Path(tempfile.mkdtemp(prefix=".lca-", dir=_existing(folder)))
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield scratch
    finally:
        with uninterrupted():
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)


def move_into(folder: Path, scratch: Path, *, earlier: Iterable[str] = ()) -> None:
    """Move everything from ``scratch`` to ``folder``, in place of what has the same name there.

    Parameters
    ----------
    folder
        Created if needed.
    scratch
        A `scratch_folder` of that folder.
    earlier
        Names of earlier results, which are removed from ``folder``. Check them with `check_free` first.

    Raises
    ------
    OutputError
        If something cannot be moved. Everything is then as it was.
    """
    new, moved = sorted(path.name for path in scratch.iterdir()), []
    replaced = [name for name in sorted({*new, *earlier}) if os.path.lexists(folder / name)]
    try:
        with uninterrupted():
            old = Path(tempfile.mkdtemp(dir=scratch))
            folder.mkdir(parents=True, exist_ok=True)
            try:
                moves = [(folder / name, old / name) for name in replaced]
                for source, target in moves + [(scratch / name, folder / name) for name in new]:
                    source.rename(target)
                    moved.append((source, target))
            except OSError:
                for source, target in reversed(moved):
                    target.rename(source)
                raise
    except OSError as error:
        raise _cannot_write(folder, error) from error


def replace_folder(staged: Path, path: Path) -> None:
    """Move the folder ``staged`` to ``path``; an existing folder is deleted after the move, or stays."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    with uninterrupted():
        replaces = path.exists()
        if replaces:
            path.rename(old)
        try:
            staged.rename(path)
        except OSError:
            if replaces:
                old.rename(path)
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context manager: signals that end the program wait until the end of the block (not on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _existing(folder: Path) -> Path:
    """``folder``, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write to the folder {str(folder)!r} ({error.strerror or error}); choose another folder."
    )
