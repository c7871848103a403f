"""Where in the user's own code a subject is defined, or an error was raised."""

import inspect
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import lca

_OURS = [Path(lca.__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib"))]


def defined_at(subject: Any) -> str:
    """The file and line of the class or function behind a subject, in brackets; "" if it is not the user's.

    >>> import numpy
    >>> defined_at(numpy.float64(1.0))
    ''
    """
    made = getattr(subject, "make", subject)
    for found in (made, type(made)):
        try:
            file, line = inspect.getsourcefile(found), inspect.getsourcelines(found)[1]
        except (TypeError, OSError):
            continue
        if file is None or _is_ours(file):
            return ""
        return f" ({_short(file)}:{line})"
    return ""


def raised_at(error: BaseException) -> list[str]:
    """The last line of the user's code in the traceback of an error, as text; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _is_ours(frame.filename) and frame.filename[0] != "<"]
    if not theirs:
        return []
    last = theirs[-1]
    return [f"raised in {_short(last.filename)}:{last.lineno}, in {last.name}:", f"    {last.line}"]


def _is_ours(file: str) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in _OURS)


def _short(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
