"""Damage of a record becomes a `RecordError` that names what cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lca.record._schema import RecordError


@contextmanager
def damage_explained(path: Path, what: str = "") -> Iterator[None]:
    """Turn an error inside the block into a `RecordError` that says the record at ``path`` is damaged.

    Parameters
    ----------
    path
        The record.
    what
        What is being read, for the message; empty: the record as a whole.

    Raises
    ------
    RecordError
        In place of the errors that zarr, its codecs and the file system raise.
    """
    try:
        yield
    except RecordError:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, MemoryError) as error:
        found = str(error).strip(". ") or type(error).__name__
        raise RecordError(
            f"the record {str(path)!r} is damaged: {what or 'it'} cannot be read ({found}). If it was "
            "copied in part or while it was written, copy it again; its other variables can still be read."
        ) from error


def check_files(path: Path, array: Any, rows: int) -> None:
    """Raise `RecordError` unless every file with the first ``rows`` of a variable exists and is not empty.

    Zarr itself reads a missing or empty file as missing values.
    """
    files = array.shards or array.chunks
    counts = [-(-length // size) for length, size in zip((rows, *array.shape[1:]), files, strict=True)]
    for at in np.ndindex(*counts):
        name = Path(array.basename, "c", *map(str, at))
        file = path / name
        if not file.is_file() or not file.stat().st_size:
            wrong = "empty" if file.is_file() else "missing"
            raise RecordError(
                f"the record {str(path)!r} is damaged: {str(name)!r} is {wrong}. Was it copied in part?"
            )


class Guarded:
    """A zarr array whose reads, which dask makes piece by piece, are under `damage_explained`."""

    def __init__(self, path: Path, array: Any) -> None:
        self._path, self._array = path, array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, at: Any) -> np.ndarray:
        with damage_explained(self._path, f"the variable {self._array.basename!r}"):
            return np.asarray(self._array[at])
