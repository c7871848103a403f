"""`ShardedTensors`: a checkpoint in several files (shards), with an index of the tensors in each."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lca.errors import TrajectoryError
from lca_torch._stored import StoredTensors, open_file, require_inside, unreadable

INDEX = ".index.json"
"""How the name of an index ends, as `transformers`, accelerate and diffusers write it."""


class ShardedTensors(StoredTensors):
    """The tensors of all shards; one shard is open at a time, that of the tensor read last.

    Parameters
    ----------
    index
        The JSON file whose ``weight_map`` says in which file each tensor is.
    stack
        Closes the shard that is open.

    Raises
    ------
    TrajectoryError
        If the index is damaged, names a file that is missing or outside of its folder, or contradicts what
        the shards hold: a tensor that is not where the index says, or is in two shards.
    """

    def __init__(self, index: Path, stack: ExitStack) -> None:
        places = _weight_map(index)
        files = {place: require_inside(place, index) for place in dict.fromkeys(places.values())}
        _require_all(index, files, places)
        self._names: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...] | None] = {}
        for place, file in files.items():
            with open_file(file) as shard:
                for name in shard:
                    self._add(name, shard, places.get(name, place))
        for name, place in places.items():
            if self._names.get(name) != files[place]:
                raise TrajectoryError(f"{index} says that {name!r} is in {place}, but it is not.")
        self._stack = stack.enter_context(ExitStack())
        self._open: tuple[Path, StoredTensors] | None = None

    def _add(self, name: str, shard: StoredTensors, expected: str) -> None:
        file = shard.place(name)
        if name in self._names:
            raise TrajectoryError(
                f"{name!r} is in two shards, {self._names[name]} and {file}; shards of two checkpoints may "
                f"be mixed in one folder. The index says {expected}; remove the other."
            )
        self._names[name], self._shapes[name] = file, shard.shape(name)

    def __getitem__(self, name: str) -> Any:
        file = self._names[name]
        if self._open is None or self._open[0] != file:
            self._open = None
            self._stack.close()
            self._open = file, self._stack.enter_context(open_file(file))
        return self._open[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._shapes[name]

    def place(self, name: str) -> Path:
        return self._names[name]


def _weight_map(index: Path) -> dict[str, str]:
    """The name of the file of each tensor, as the index says."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_distinct)["weight_map"]
        if not (isinstance(places, dict) and all(isinstance(place, str) for place in places.values())):
            raise TypeError("weight_map is not a mapping from tensors to files")
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(index, error) from error
    return places


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names must differ."""
    repeated = [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]
    if repeated:
        raise ValueError(f"it names {repeated[0]!r} twice")
    return dict(pairs)


def _require_all(index: Path, files: Mapping[str, Path], places: Mapping[str, str]) -> None:
    """Raise unless all shards are there."""
    missing = [place for place, file in files.items() if not file.is_file()]
    if missing:
        inside = [name for name, place in places.items() if place in missing]
        more = f" and {len(inside) - 1} more tensors" if len(inside) > 1 else ""
        raise TrajectoryError(
            f"{index} names {', '.join(missing)} (with {inside[0]!r}{more}), missing from its folder; copy "
            "all files."
        )
