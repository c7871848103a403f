"""`StoredTensors`: the tensors of a checkpoint by name, read one at a time; and those of a single file."""

import pickle
import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lca._extras import extra
from lca.errors import TrajectoryError


class StoredTensors(Mapping[str, Any]):
    """What a checkpoint holds, by name; a tensor is read when it is asked for.

    >>> stored = LoadedTensors({"epoch": 3, "state_dict": {"w": torch.zeros(2)}}, Path("3.ckpt"))
    >>> stored.groups(), stored.under("state_dict").shape("w"), stored.shape("epoch")
    (['state_dict'], (2,), None)
    """

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, without reading it; ``None`` for what is not a tensor."""

    @abstractmethod
    def place(self, name: str) -> Path:
        """The file that holds it."""

    def groups(self) -> list[str]:
        """The names of the dictionaries that this one contains."""
        return []

    def under(self, key: str) -> "StoredTensors | None":
        """The dictionary stored under this name, or ``None``."""
        return None


class LoadedTensors(StoredTensors):
    """The content of a file of `torch.save`.

    Parameters
    ----------
    content
        What `torch.load` returned.
    path
        The file.
    """

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        self._content, self._path = content, path

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def shape(self, name: str) -> tuple[int, ...] | None:
        value = self._content[name]
        return tuple(value.shape) if isinstance(value, Tensor) else None

    def place(self, name: str) -> Path:
        return self._path

    def groups(self) -> list[str]:
        return [name for name, value in self._content.items() if isinstance(value, Mapping)]

    def under(self, key: str) -> StoredTensors | None:
        inner = self._content.get(key)
        return LoadedTensors(inner, self._path) if isinstance(inner, Mapping) else None


class _SafeTensors(StoredTensors):
    """The tensors of an open safetensors file."""

    def __init__(self, handle: Any, path: Path) -> None:
        self._handle, self._path = handle, path
        self._names = dict.fromkeys(handle.keys())

    def __getitem__(self, name: str) -> Any:
        return self._handle.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._handle.get_slice(name).get_shape())

    def place(self, name: str) -> Path:
        return self._path


def open_file(path: Path) -> AbstractContextManager[StoredTensors]:
    """The tensors of one file of `torch.save` or safetensors, mapped into memory.

    Raises
    ------
    TrajectoryError
        If the file is damaged, or holds pickled objects of other types than tensors and plain containers:
        to load those would run code.
    """
    if path.suffix != ".safetensors":
        return nullcontext(LoadedTensors(_load(path), path))
    with extra("torch"):
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only for such files
    try:
        return _Opened(safe_open(path, framework="pt"), path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


class _Opened(AbstractContextManager[StoredTensors]):
    """A safetensors file that is closed at the end of the block."""

    def __init__(self, handle: Any, path: Path) -> None:
        self._handle, self._path = handle, path

    def __enter__(self) -> StoredTensors:
        return _SafeTensors(self._handle.__enter__(), self._path)

    def __exit__(self, *error: object) -> None:
        self._handle.__exit__(*error)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        # The form of torch before 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise unreadable(path, error) from error
        raise TrajectoryError(
            f"{path} holds a pickled {found[1]}, and loading that could run code, so it was not loaded; save "
            "model.state_dict() alone, or, if you trust the type, see torch.serialization.add_safe_globals."
        ) from error
    except Exception as error:
        raise unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise TrajectoryError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors; save model.state_dict()."
        )
    return content


def unreadable(path: Path, error: BaseException, what: str = "") -> TrajectoryError:
    """The error for a file that cannot be read, or for the tensor in it that cannot."""
    said = f": {error}" if str(error) else " (the file may be truncated)"
    where = f"{what} in {path}" if what else str(path)
    return TrajectoryError(f"{where} is damaged or not a checkpoint: {type(error).__name__}{said}")


def require_inside(place: str, index: Path) -> Path:
    """The file that an index names, which must be in the folder of the index.

    Raises
    ------
    TrajectoryError
        If the name leads out of the folder.
    """
    parts = Path(place).parts
    if Path(place).is_absolute() or ".." in parts or "\\" in place:
        raise TrajectoryError(
            f"{index} names {place!r}, which is outside of its folder, and was not read; copy the file into "
            "the folder."
        )
    return index.parent / place
