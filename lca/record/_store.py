"""`BlockStore`: arrays that grow by blocks of rows, and can be read at any moment.

A block is written in three steps: the arrays are lengthened, the rows are written (Zarr writes each file
under another name and then renames it), and finally the number of complete rows is written. Readers go by
that number, so they see only whole rows, whatever happened to the writer.
"""

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
from lca.record._schema import COMMITTED, Column, Plan, RecordError

with extra("report"):
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.core.array_spec import ArrayConfigParams

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

    Attributes
    ----------
    committed
        Number of complete rows.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._path, self.committed = path, 0
        with damage_explained(path):
            self._group = zarr.open_group(path, mode="r+", zarr_format=3)
            group: Any = self._group
            self._arrays = {column.name: group[column.name].with_config(_WRITE_ALL) for column in columns}
            self._count = group[COMMITTED].with_config(_WRITE_ALL)
            self.committed = int(self._count[...])
            for array in self._arrays.values():
                check_files(path, array, self.committed)

    @classmethod
    def create(cls, path: Path, plan: Plan, attributes: Mapping[str, Any]) -> "BlockStore":
        """Create an empty store; when it is complete, it appears at ``path`` and replaces an older one."""
        staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with _explained(path, 0):
                path.parent.mkdir(parents=True, exist_ok=True)
                group = zarr.create_group(staged, zarr_format=3, attributes=dict(attributes))
                for name, (dim, labels) in plan.coordinates.items():
                    _coordinate(group, name, dim, labels)
                for column in plan.columns:
                    _growing(group, column, plan)
                group.create_array(COMMITTED, shape=(), dtype="int64", config=_WRITE_ALL)[()] = 0
                replace_folder(staged, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return cls(path, plan.columns)

    def describe(self, **attributes: Any) -> None:
        """Change attributes."""
        with self._explained():
            self._group.attrs.update(attributes)

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Read some rows of a variable."""
        with damage_explained(self._path, f"the variable {name!r}"):
            return np.asarray(self._arrays[name][rows])

    def write(self, at: int, block: Mapping[str, np.ndarray]) -> None:
        """Write ``block`` as the rows from ``at`` (a multiple of the block size) on, and commit them."""
        length = at + len(next(iter(block.values())))
        with self._explained():
            for name, array in self._arrays.items():
                if array.shape[0] < length:
                    array.resize((length, *array.shape[1:]))
                array[at:length] = block[name]
            self._commit(length)

    def cut(self, length: int) -> None:
        """Drop the rows from ``length`` on."""
        with self._explained():
            self._commit(length)

    def _commit(self, length: int) -> None:
        self._count[()] = length
        self.committed = length

    def trim(self) -> None:
        """Shorten every array to the committed length, so that any reader of Zarr sees only complete rows."""
        with self._explained():
            for array in self._arrays.values():
                if array.shape[0] != self.committed:
                    array.resize((self.committed, *array.shape[1:]))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with _explained(self._path, self.committed):
            yield


_WRITE_ALL: ArrayConfigParams = {
    "write_empty_chunks": True
}  # otherwise a missing file could mean lost rows or rows of zeros


@contextmanager
def _explained(path: Path, committed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write the record {str(path)!r} ({error.strerror or error}); its first {committed} rows "
            "are complete and can be read. Free some space, or repair the folder, and continue with mode='a'."
        ) from error


def _growing(group: zarr.Group, column: Column, plan: Plan) -> None:
    """Create the array of ``column`` without rows; a block is one file, or several if θ is very long."""
    inner = tuple(plan.sizes[dim] for dim in column.dims)
    full = column.dims[-1:] == ("parameter",)
    # A file holds one measured loss in chunks of parameters, so that a chunk is read without the others.
    chunks = (plan.block, *(1 for _ in inner[:-1]), _CHUNK) if full else (plan.block, *inner)
    shards = (*chunks[:-1], min(_SHARD, -(-inner[-1] // _CHUNK) * _CHUNK)) if full else None
    group.create_array(
        column.name,
        shape=(0, *inner),
        chunks=chunks,
        shards=shards,
        dtype=column.dtype,
        fill_value=np.nan if column.dtype.startswith("f") else 0,
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
