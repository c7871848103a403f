"""Paths as users pass them: what cannot be a file or folder of this machine is refused in one line."""

import os
import re
from os import PathLike
from pathlib import Path

from lca.errors import OutputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(:/|::.*:/)")
"""A URL, also as ``Path("s3://bucket")``, of which one slash is left."""


def local_path(path: str | PathLike[str], error: type[ValueError] = OutputError) -> Path:
    """Return ``path`` as a `pathlib.Path`, if the file system of this machine can hold it.

    Parameters
    ----------
    path
        A path, which need not exist.
    error
        The class of the error.

    Raises
    ------
    ValueError
        If ``path`` is empty or a URL, has characters that no path can have, is too long, or is inside a
        folder that cannot be read. It is raised as ``error``.

    Examples
    --------
    >>> local_path("a/b.zarr").name
    'b.zarr'
    >>> local_path("s3://bucket/b.zarr")
    Traceback (most recent call last):
    lca.errors.OutputError: 's3://bucket/b.zarr' is a URL, and only files and folders of this machine are \
read and written; pass a local path, and copy it with the tools of that store.
    """
    text = os.fspath(path) if isinstance(path, PathLike) else path
    if not isinstance(text, str):
        raise error(f"{text!r} is not a path; pass a string or a pathlib.Path.")
    if not text:
        raise error("the path is empty; pass the name of a file or folder, or '.' for the present folder.")
    if _URL.match(text):
        raise error(
            f"{text!r} is a URL, and only files and folders of this machine are read and written; pass a "
            "local path, and copy it with the tools of that store."
        )
    try:
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError as cause:  # NUL, or a surrogate
        raise error(f"{text!r} has characters that no path can have; choose another name.") from cause
    except OSError as cause:
        raise error(
            f"{_shortened(text)} cannot be used as a path ({cause.strerror}); choose another one."
        ) from cause
    return Path(text)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}")
