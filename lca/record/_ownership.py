"""Whether a folder may be replaced: only if everything in it is part of a record."""

import json
import os
import re
from pathlib import Path

from lca.layout import Layout
from lca.record._examples import RecordedExamples
from lca.record._schema import COMMITTED, FORMAT, RENAMED_SINCE, Content, Plan

_EVERYTHING = Content(
    values="float32",
    theta="float32",
    traced=(0,),
    checkpoints=True,
    places=True,
    learning_rates=("0",),
    groups=(("group", "other"),),
    memory=("steps",),
    examples=RecordedExamples("train", ("w",), (0,), (1.0,)),
)
_ALL = Plan(Layout(("w",), ((1,),)), ("train",), _EVERYTHING, 1)
LABELS = frozenset(_ALL.coordinates)
"""The names of the arrays that do not grow with the run."""
_ARRAYS = {
    COMMITTED,
    *LABELS,
    *(column.name for column in _ALL.columns),
    r"label_[^/]+",  # of the allocation by example
    *(name for renamed in RENAMED_SINCE.values() for name in renamed.values()),
}
_PARTS = re.compile(
    rf"zarr\.json|({'|'.join(sorted(_ARRAYS))})(/zarr\.json|/c(/\d+)*)?|{COMMITTED}/manifest|(.*/)?[^/]+\.partial"
)
"""The places of the files and folders in a record; a writer that was killed leaves ``.partial`` files."""


def foreign_entry(path: Path) -> str | None:
    """What shows that the folder ``path`` is not only a record; ``None`` if it is.

    Parameters
    ----------
    path
        Anything that exists.

    Returns
    -------
    str or None
        The place in the folder of something that is not part of a record; empty if there is no record.
    """
    if path.is_symlink() or not path.is_dir() or not _says_record(path / "zarr.json"):
        return ""
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            place = Path(folder, name).relative_to(path).as_posix()
            if not _PARTS.fullmatch(place) or Path(folder, name).is_symlink():
                return place
    return None


def is_our_record(path: Path) -> bool:
    """Whether everything in the folder ``path`` is part of a record."""
    return foreign_entry(path) is None


def _says_record(file: Path) -> bool:
    try:
        attributes = json.loads(file.read_bytes())["attributes"]
        return bool(attributes["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
