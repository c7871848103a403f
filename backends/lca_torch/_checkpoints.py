"""Checkpoint files of torch: which files are checkpoints, and their tensors, read without running code."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lca._extras import extra
from lca.errors import TrajectoryError
from lca.frameworks import Checkpoint, checkpoints_in_order
from lca.frameworks._checkpoints import AnyPath

SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
INDEX = ".index.json"
INSIDE = tuple(name + index for name in ("model.safetensors", "pytorch_model.bin") for index in ("", INDEX))
"""The weights inside a checkpoint that is a folder, as `transformers` writes it: one file, or the index of
several (shards)."""


def checkpoint_files(checkpoints: AnyPath | Iterable[AnyPath]) -> list[Checkpoint]:
    """The files to read, in order (`lca.frameworks.checkpoints_in_order`).

    Raises
    ------
    TrajectoryError
        If a file does not exist, there are fewer than two, or the names in a folder do not give one order.
    """
    kinds = f"{', '.join(SUFFIXES)}, or folders with weights"
    found = checkpoints_in_order(checkpoints, _is_checkpoint, kinds)
    return [Checkpoint(_weights(path), number) for path, number in found]


def _is_checkpoint(path: Path) -> bool:
    return any((path / name).exists() for name in INSIDE) if path.is_dir() else path.suffix in SUFFIXES


def _weights(path: Path) -> Path:
    """The file itself, or the one with the weights in a checkpoint that is a folder."""
    candidates = [path / name for name in INSIDE] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise TrajectoryError(f"the folder {path} holds none of {', '.join(INSIDE)}; pass files.")


class _SafeTensors(Mapping[str, Tensor]):
    """The tensors of an open safetensors file, each read when it is asked for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._names = list(handle.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Mapping[str, Any]]:
    """What a file holds, by name; tensors are mapped into memory and read when they are used.

    Raises
    ------
    TrajectoryError
        If the file is damaged, or holds pickled objects of other types than tensors and plain containers:
        to load those would run code.
    """
    with ExitStack() as stack:
        if path.name.endswith(INDEX):
            yield _Shards(path, stack)
        else:
            yield _open_file(path, stack)


def _open_file(path: Path, stack: ExitStack) -> Mapping[str, Any]:
    """The tensors of one file, which ``stack`` closes."""
    if path.suffix != ".safetensors":
        return _load(path)
    with extra("torch"):
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only for such files
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    return _SafeTensors(stack.enter_context(handle))


class _Shards(Mapping[str, Any]):
    """The tensors of a checkpoint in several files; its index says which file holds which."""

    def __init__(self, index: Path, stack: ExitStack) -> None:
        self._index = index
        try:
            places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {place: index.parent / place for place in sorted(set(places.values()))}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(index, error) from error
        outside = [place for place in files if Path(place).is_absolute() or ".." in Path(place).parts]
        if outside:
            raise TrajectoryError(
                f"{index} names {outside[0]!r}, which is outside of its folder, and was not read; copy the "
                "file into the folder."
            )
        self._places = places
        missing = [place for place, file in files.items() if not file.is_file()]
        if missing:
            raise TrajectoryError(
                f"{index} names {', '.join(missing)}, missing in its folder; copy all files."
            )
        self._shards = {place: _open_file(file, stack) for place, file in files.items()}
        for name, place in places.items():
            if name not in self._shards[place]:
                raise TrajectoryError(f"{index} says that {name!r} is in {place}, but it is not.")

    def __getitem__(self, name: str) -> Any:
        return self._shards[self._places[name]][name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        # The form of torch before 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise _unreadable(path, error) from error
        raise TrajectoryError(
            f"{path} holds a pickled {found[1]}, and loading that could run code, so it was not loaded; save "
            "model.state_dict() alone, or, if you trust the type, see torch.serialization.add_safe_globals."
        ) from error
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise TrajectoryError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors; save model.state_dict()."
        )
    return content


def _unreadable(path: Path, error: Exception) -> TrajectoryError:
    said = f": {error}" if str(error) else " (the file may be truncated)"
    return TrajectoryError(f"{path} is damaged or not a checkpoint: {type(error).__name__}{said}")
