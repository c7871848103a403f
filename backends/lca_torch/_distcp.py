"""`DistributedTensors`: a folder of `torch.distributed.checkpoint`, read one tensor at a time."""

import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from itertools import chain
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load

from lca.errors import TrajectoryError
from lca_torch._stored import StoredTensors, require_inside, unreadable

_CLASSES = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}
"""All that the metadata of a checkpoint consist of; none of these runs code when it is loaded."""

_PATHS = "Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"


class DistributedTensors(StoredTensors):
    """The tensors of a folder, whole, however many ranks wrote them; or those in one dictionary of it.

    Parameters
    ----------
    folder
        Reads them.
    names
        The name in the folder of each entry.
    groups
        The dictionaries inside.
    """

    def __init__(
        self, folder: "_Folder", names: Mapping[str, str], groups: Mapping[str, StoredTensors]
    ) -> None:
        self._folder, self._names, self._groups = folder, dict(names), dict(groups)

    @classmethod
    def of(cls, metadata: Path) -> "DistributedTensors":
        """What the folder of this ``.metadata`` holds.

        Raises
        ------
        TrajectoryError
            If the metadata are damaged or hold other objects, or name a file that is missing or outside of
            the folder.
        """
        folder = _Folder(metadata)
        inside: dict[str, dict[str, str]] = {}
        for key, name, stored in folder.names():
            inside.setdefault(key, {})[name] = stored
        names = inside.pop("", {})
        return cls(folder, names, {key: cls(folder, own, {}) for key, own in inside.items()})

    def __getitem__(self, name: str) -> Any:
        return self._groups[name] if name in self._groups else self._folder.read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return chain(self._names, self._groups)

    def __len__(self) -> int:
        return len(self._names) + len(self._groups)

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._groups

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._folder.shape(self._names[name]) if name in self._names else None

    def place(self, name: str) -> Path:
        return self._folder.path

    def groups(self) -> list[str]:
        return list(self._groups)

    def under(self, key: str) -> StoredTensors | None:
        return self._groups.get(key)


class _Folder:
    """Reads the entries of a folder by their names in its metadata."""

    def __init__(self, metadata: Path) -> None:
        self.path, self._metadata = metadata, _read_metadata(metadata)
        places = self._metadata.storage_data
        self._stored = {(index.fqn, tuple(index.offset or ())) for index in places}
        for index, info in places.items():
            if not require_inside(info.relative_path, metadata).is_file():
                raise TrajectoryError(
                    f"{metadata} names {info.relative_path} (with {index.fqn!r}), which is missing from "
                    "its folder; copy all files of the checkpoint."
                )

    def names(self) -> Iterator[tuple[str, str, str]]:
        """For each entry: the dictionary it was saved in ("" at the top), its name there, its name here."""
        paths = self._metadata.planner_data
        for stored in self._metadata.state_dict_metadata:
            key, *rest = paths.get(stored, (stored,)) if isinstance(paths, dict) else (stored,)
            yield (str(key), ".".join(map(str, rest)), stored) if rest else ("", str(key), stored)

    def shape(self, stored: str) -> tuple[int, ...] | None:
        """The shape of an entry; ``None`` if it is not a tensor."""
        entry = self._metadata.state_dict_metadata[stored]
        return tuple(entry.size) if isinstance(entry, TensorStorageMetadata) else None

    def read(self, stored: str) -> Any:
        """A new tensor, put together from its chunks; the metadata of what is not a tensor."""
        entry = self._metadata.state_dict_metadata[stored]
        if not isinstance(entry, TensorStorageMetadata):
            return entry  # a pickle, which is not loaded
        self._require_chunks(stored, entry)
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        reader = _Reader(self.path.parent)
        reader.metadata = replace(self._metadata, state_dict_metadata={stored: entry}, planner_data=None)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                load({stored: whole}, storage_reader=reader, no_dist=True)
        except CheckpointException as error:
            cause = next((cause for cause, _ in error.failures.values()), error)
            raise unreadable(self.path.parent, cause, repr(stored)) from cause
        return whole

    def _require_chunks(self, stored: str, entry: TensorStorageMetadata) -> None:
        """Raise unless the chunks of a tensor cover it once, and all of them are stored."""
        filled = [chunk for chunk in entry.chunks if prod(chunk.sizes)]
        lost = [chunk for chunk in filled if (stored, tuple(chunk.offsets)) not in self._stored]
        if lost:
            problem = f"lacks the part of {stored!r} that begins at {tuple(lost[0].offsets)}"
        elif _overlap(entry.chunks):
            problem = f"has a part of {stored!r} twice"
        elif sum(prod(chunk.sizes) for chunk in entry.chunks) != prod(entry.size):
            problem = f"has only a part of {stored!r}"
        else:
            return
        raise TrajectoryError(f"{self.path} {problem}; was the checkpoint saved by all ranks?")


class _Reader(FileSystemReader):
    """Reads the tensors of a folder whose metadata are known."""

    metadata: Metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata


class _Unpickler(pickle.Unpickler):
    """Loads the metadata of a checkpoint, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib" and name in _PATHS:
            return PurePosixPath  # where the checkpoint was written to, perhaps on another system
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in _CLASSES:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise _OtherObject(f"{module}.{name}")


def _member(kind: Any, name: str) -> Any:
    """A member of an enumeration, which Python 3.11.0 to 3.11.3 pickle as an attribute of its class."""
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind.__members__[name]
    raise _OtherObject("builtins.getattr")


class _OtherObject(Exception):  # noqa: N818 - never seen outside
    """The name of a class that is not part of the metadata."""


def _read_metadata(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
        if not (isinstance(found, Metadata) and isinstance(found.storage_data, dict)):
            raise TypeError(f"it holds a {type(found).__name__}")
        places = found.storage_data.items()
        if not all(
            isinstance(index, MetadataIndex) and isinstance(i.relative_path, str) for index, i in places
        ):
            raise TypeError("it does not say in which file each tensor is")
    except _OtherObject as error:
        raise TrajectoryError(
            f"{path} holds a pickled {error}, and loading that could run code, so it was not loaded; save "
            "with torch.distributed.checkpoint.save(model.state_dict(), checkpoint_id=folder)."
        ) from error
    except Exception as error:  # whatever damaged pickles raise
        raise unreadable(path, error) from error
    return found


def _overlap(chunks: Sequence[ChunkStorageMetadata]) -> bool:
    """Whether any two chunks of a tensor have entries in common."""
    starts = np.array([tuple(chunk.offsets) for chunk in chunks]).reshape(len(chunks), -1)
    stops = starts + np.array([tuple(chunk.sizes) for chunk in chunks]).reshape(len(chunks), -1)
    common = np.minimum(stops[:, None], stops) > np.maximum(starts[:, None], starts)
    filled = (stops > starts).all(1)
    return int(common.all(2).sum()) > int(filled.sum())
