"""`Command`: the description of a subcommand of `lca`, and what several of them share."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lca._paths import local_path
from lca.errors import LCAError
from lca.record import RecordError


@dataclass(frozen=True)
class Command:
    """A subcommand of `lca`.

    Parameters
    ----------
    name
        The word on the command line.
    help
        One line.
    add_arguments
        Adds its options to a parser.
    run
        Does the work; returns the exit status, or ``None`` for 0.
    words
        The values of an argument that a shell can complete, by option, or by the name of a positional one.
    """

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int | None]
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


QUIET = "print nothing but errors"
JSON = "print JSON instead of text"
OVERWRITE = "replace earlier results; anything that lca did not make is kept, and the command then fails"


def find_record(path: str) -> Path:
    """The record at ``path``, or the only one in that folder, such as the folder of `lca demo`.

    Raises
    ------
    RecordError
        If there is none, or several.
    """
    folder = local_path(path, RecordError)
    try:
        if not folder.is_dir():
            what = "is a file, not a record" if folder.exists() else "does not exist"
            raise RecordError(f"{path!r} {what}; pass the folder written by lca.Record.")
        if (folder / "zarr.json").exists():
            return folder
        inside = sorted(file.parent for file in folder.glob("*/zarr.json"))
    except OSError as error:
        raise LCAError(f"cannot read the folder {path!r} ({error.strerror}).") from error
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(repr(str(record)) for record in inside)
        raise RecordError(f"the folder {path!r} holds {len(inside)} records; pass one of them: {names}.")
    raise RecordError(f"{path!r} is not a record and holds none; pass the folder written by lca.Record.")
