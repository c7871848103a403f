"""`BlockStore`: arrays that grow by blocks of rows, and can be read at any moment.

A block is written in three steps: the arrays are lengthened, the rows are written (Zarr writes each file
under another name and then renames it), and finally a line of the manifest (`lca.record._manifest`) counts
them. Readers go by that line, so they see only whole rows, whatever happened to the writer. A file that holds
committed rows already is replaced only after a line that says by what.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lca._extras import extra
from lca._output import replace_folder
from lca.record._damage import check_files, damage_explained
from lca.record._files import RecordFiles, settle
from lca.record._manifest import MANIFEST, Manifest, describe
from lca.record._metrics import Given
from lca.record._schema import COMMITTED, UNFINISHED, Column, Plan, RecordError

with extra("report"):
    import zarr
    from zarr.codecs import ZstdCodec

_CHUNK, _SHARD = 8192, 8192 * 128
"""Parameters per chunk and per file: with 64 rows, 2 MiB and 256 MiB of float32 before compression."""


class BlockStore:
    """An open store.

    Parameters
    ----------
    path
        The folder of the record.
    columns
        The variables that grow with every step.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._path, self._identity = path, _identity(path)
        with damage_explained(path):
            self._manifest = Manifest.read(path)
            self._files = RecordFiles(path, self._manifest, writing=True)
            self._group = zarr.open_group(self._files, mode="r+", zarr_format=3)
            group: Any = self._group
            self._manifest.check_descriptions(path, self._manifest.descriptions)
            with zarr.config.set(_WRITE_ALL):
                self._arrays = {column.name: group[column.name] for column in columns}
                self._count = group[COMMITTED]
            for array in self._arrays.values():
                check_files(path, array, self.committed)

    @property
    def committed(self) -> int:
        """Number of complete rows."""
        return self._manifest.rows

    @property
    def is_in_place(self) -> bool:
        """Whether the folder and its files are still there, and not others."""
        return _identity(self._path) == self._identity and (self._path / MANIFEST).exists()

    def rows_per_file(self, name: str) -> int:
        """Rows of a variable in one file."""
        return int((self._arrays[name].shards or self._arrays[name].chunks)[0])

    @classmethod
    def create(cls, path: Path, plan: Plan, attributes: Mapping[str, Any]) -> "BlockStore":
        """Create an empty store; when it is complete, it appears at ``path`` and replaces an older one."""
        staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with _explained(path, 0):
                path.parent.mkdir(parents=True, exist_ok=True)
                files = RecordFiles(staged, writing=True)
                group = zarr.create_group(files, zarr_format=3, attributes=dict(attributes))
                for column in plan.columns:
                    _growing(group, column, plan)
                with zarr.config.set(_WRITE_ALL):
                    for name, (dim, labels) in plan.coordinates.items():
                        _coordinate(group, name, dim, labels)
                    group.create_array(COMMITTED, shape=(), dtype="int64")[()] = 0
                Manifest(files=files.written, descriptions=_descriptions(staged)).write(staged)
                replace_folder(staged, path)
        finally:
            if staged.exists():
                settle()
                shutil.rmtree(staged, ignore_errors=True)
        return cls(path, plan.columns)

    def reopen(self) -> None:
        """The run goes on: it is not complete any more. Repairs the count of a writer that was killed."""
        with self._explained():
            self._count[()] = self.committed
            self._group.attrs.update(UNFINISHED)
            self._manifest.append(self._path, outcome=UNFINISHED)

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Trim the arrays, so that any reader of Zarr sees exactly the rows, and say how the run ended."""
        outcome = {**outcome, "metrics": self._manifest.metrics.by_name()}
        with self._explained():
            self._check_place()
            for array in self._arrays.values():
                if array.shape[0] != self.committed:
                    array.resize((self.committed, *array.shape[1:]))
            self._count[()] = self.committed  # the disk may have been full when the last block was counted
            self._manifest.append(self._path, outcome=outcome)
            self._group.attrs.update(outcome)

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Read some rows of a variable."""
        with damage_explained(self._path, f"the variable {name!r}"):
            return np.asarray(self._arrays[name][rows])

    def write(
        self, files: Mapping[str, tuple[int, np.ndarray]], length: int, metrics: Sequence[Given]
    ) -> None:
        """Write the files with the last rows, and commit all rows before ``length``.

        Parameters
        ----------
        files
            For each variable, the first row of its last file and all rows of it, also those that are empty
            yet: a file is written as a whole, so that what is in it is not read. The arrays end with a file
            until they are closed, so that they are lengthened once for each.
        length
            The number of complete rows from now on.
        metrics
            What training gave since the last time.
        """
        with self._explained():
            self._check_place()
            self._files.written = {}
            with self._files.replacing():
                for name, (first, rows) in files.items():
                    array, end = self._arrays[name], first + len(rows)
                    if array.shape[0] < end:
                        array.resize((end, *array.shape[1:]))
                    array[first:end] = rows
            given = {"metrics": metrics} if metrics else {}
            self._manifest.append(self._path, rows=length, files=self._files.written, **given)
            self._count[()] = length

    def add_metrics(self, metrics: Sequence[Given]) -> None:
        """Write what training gave after the last row."""
        with self._explained():
            self._check_place()
            self._manifest.append(self._path, metrics=metrics)

    def drop_metrics(self, step: int) -> list[Given]:
        """Drop the metrics that were given after more than ``step`` updates, and return them."""
        dropped = [each for each in self._manifest.metrics.given() if each[0] > step]
        if dropped:
            self._manifest.metrics = self._manifest.metrics.until(step)
            with self._explained():
                self._manifest.write(self._path)
        return dropped

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace attributes of the record; if the writer is killed, it has the old or the new ones."""
        file = self._path / "zarr.json"
        with self._explained():
            self._check_place()
            found = json.loads(file.read_bytes())
            found["attributes"] |= attributes
            described = {file.name: describe(json.dumps(found).encode())}
            self._manifest.append(self._path, redescribing=described)
            self._group.attrs.update(attributes)
            self._manifest.append(self._path, descriptions=described)

    def cut(self, length: int) -> None:
        """Drop the rows from ``length`` on."""
        if length == self.committed:
            return
        with self._explained():
            shorter = self._manifest.shortened(length)
            shorter.write(self._path)
            self._manifest = self._files.manifest = shorter
            self._count[()] = length

    def _check_place(self) -> None:
        """Raise `RecordError` if the folder has been deleted, moved or replaced since it was opened."""
        if _identity(self._path) != self._identity:
            raise RecordError(
                f"the folder of the record {str(self._path)!r} was deleted, moved or replaced while the "
                f"record was written; its {self.committed} complete rows are where it was moved, or lost."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with _explained(self._path, self.committed):
            yield


_WRITE_ALL = {"array.write_empty_chunks": True}
"""For arrays that are read while they are written: a missing file could also mean rows of zeros."""


@contextmanager
def _explained(path: Path, committed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        settle()
        if committed and not (path / MANIFEST).exists():
            raise RecordError(
                f"the files of the record {str(path)!r} were deleted while it was written; the {committed} "
                "complete rows are lost."
            ) from error
        raise RecordError(
            f"cannot write the record {str(path)!r} ({error.strerror or error}); its first {committed} rows "
            "are complete and can be read. Free some space, or repair the folder: later rows are in memory, "
            "and flush(), close() or the next step writes them; or continue with mode='a'."
        ) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _descriptions(path: Path) -> dict[str, int]:
    """The digest of every `zarr.json`, by its place."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("zarr.json")}
    return {name: describe(file.read_bytes()) for name, file in found.items()}


def _growing(group: zarr.Group, column: Column, plan: Plan) -> None:
    """Create the array of ``column`` without rows; θ and values have several files if θ is very long."""
    inner = tuple(plan.sizes[dim] for dim in column.dims)
    chunks, shards = (plan.rows_per_file(column), *inner), None
    if column.dims[-1:] == ("parameter",):
        # A file holds one measured loss in chunks of parameters, so that a chunk is read without the others.
        chunks = (chunks[0], *(1 for _ in inner[:-1]), min(inner[-1], _CHUNK))
        if inner[-1] > _CHUNK:
            shards = (*chunks[:-1], min(_SHARD, -(-inner[-1] // _CHUNK) * _CHUNK))
    group.create_array(
        column.name,
        shape=(0, *inner),
        chunks=chunks,
        shards=shards,
        dtype=column.dtype,
        fill_value=column.empty,
        compressors=ZstdCodec(level=3, checksum=True),
        dimension_names=("step", *column.dims),
        attributes={"long_name": column.long_name, "units": column.units},
    )


def _coordinate(group: zarr.Group, name: str, dim: str, labels: Any) -> None:
    texts = isinstance(labels, list)
    array = group.create_array(
        name, shape=(len(labels),), dtype=str if texts else labels.dtype, dimension_names=(dim,)
    )
    array[:] = np.array(labels, dtype=object) if texts else labels
