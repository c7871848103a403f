"""`checkpoints_in_order`: the checkpoints of a run in a folder, however the trainer has arranged them."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lca._checkpoint_names import checkpoint_numbers, has_number, sorted_by_number
from lca._paths import local_path
from lca.errors import TrajectoryError

AnyPath: TypeAlias = str | PathLike[str]
_NO_WEIGHTS = re.compile(
    r"(optimizer|optim|scheduler|rng_state|random_states|scaler|sampler|training_args|trainer_state)\b"
    r"|.*-\d+-of-\d+\."  # a shard of a model: its index is beside it
)
"""Names of files that trainers write beside the weights."""
_WEIGHTS = ("model", "pytorch_model", "weights", "checkpoint", "state_dict")
_DEPTH = 4


class Checkpoint(NamedTuple):
    """A saved point of a run: what to read, and its number.

    Attributes
    ----------
    path
        The file, or the folder, with the weights.
    number
        That in its name (`lca.importers.checkpoint_numbers`), or its position where names say none.

    Examples
    --------
    >>> Checkpoint(Path("checkpoint-500/model.safetensors"), 500).number
    500
    """

    path: Path
    number: int


def checkpoints_in_order(
    checkpoints: AnyPath | Iterable[AnyPath], is_checkpoint: Callable[[Path], bool], kinds: str
) -> list[Checkpoint]:
    """The checkpoints of a run: the paths given, or those in a folder by the numbers in their names.

    A checkpoint in a folder is a file (``epoch=3-val_loss=0.25.ckpt``) or a folder of its own with a number
    in its name and the weights inside (``checkpoint-500``, ``step_500/model.pt``, ``model:v3``). If the
    folder itself holds fewer than two, the only folder inside it that has some is read, such as
    ``lightning_logs/version_0/checkpoints``. States of optimizers beside the weights are ignored.

    Parameters
    ----------
    checkpoints
        Paths in the order of training, or a folder.
    is_checkpoint
        Whether a path in that folder is a checkpoint of the framework.
    kinds
        What these are, for messages.

    Raises
    ------
    TrajectoryError
        If a path does not exist, there are fewer than two, the names do not give one order, or a folder holds
        several runs.

    Warns
    -----
    LCAWarning
        If files without a number in their names, such as "last.ckpt", were left out.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (10, 9):
    ...         (Path(folder) / f"step-{step}.npy").touch()
    ...     found = checkpoints_in_order(folder, lambda path: path.suffix == ".npy", ".npy")
    >>> [(checkpoint.path.name, checkpoint.number) for checkpoint in found]
    [('step-9.npy', 9), ('step-10.npy', 10)]
    """
    place = ""
    if isinstance(checkpoints, str | PathLike):
        place = f" in {checkpoints}"
        found = _Finder(is_checkpoint).in_folder(local_path(checkpoints, TrajectoryError))
    elif isinstance(checkpoints, Iterable):
        found = [_Found(path, path) for path in (local_path(p, TrajectoryError) for p in checkpoints)]
    else:
        raise TrajectoryError(
            f"checkpoints must be a folder or a list of paths, got {type(checkpoints).__name__}; they come "
            "first: replay(checkpoints, objective)."
        )
    if len(found) < 2:
        raise TrajectoryError(
            f"a replay needs at least two checkpoints (one step), got {len(found)}{place} (files of kind "
            f"{kinds}); save one before the first update as well."
        )
    for each in found:
        if not each.weights.exists():
            raise TrajectoryError(f"there is no checkpoint {each.weights}.")
    return [Checkpoint(each.weights, number) for each, number in zip(found, _numbers(found), strict=True)]


class _Found(NamedTuple):
    """A checkpoint: the path whose name counts, and the path with the weights."""

    named: Path
    weights: Path


@dataclass(frozen=True)
class _Finder:
    """Looks for checkpoints in folders."""

    is_checkpoint: Callable[[Path], bool]

    def in_folder(self, folder: Path) -> list[_Found]:
        """The checkpoints in a folder, in order; or those in the only folder inside that has some."""
        if not folder.exists():
            raise TrajectoryError(f"there is no folder {folder}; pass a folder of checkpoints, or paths.")
        if folder.is_file():
            raise TrajectoryError(
                f"{folder} is one checkpoint, and a replay needs at least two (one step); pass a list of "
                "paths in the order of training, or their folder."
            )
        found = self._directly_in(folder)
        if len(found) < 2:  # noqa: PLR2004
            inside = list(self._runs_inside(folder, _DEPTH))
            if len(inside) > 1:
                listed = ", ".join(str(each[0].named.parent) for each in inside[:5])
                raise TrajectoryError(
                    f"{folder} holds the checkpoints of several runs; pass one of {listed}."
                )
            found = inside[0] if inside else found
        by_name = {each.named: each for each in found}
        return [by_name[path] for path in sorted_by_number(by_name)]

    def _directly_in(self, folder: Path) -> list[_Found]:
        return [each for path in sorted(folder.iterdir()) if (each := self._checkpoint(path))]

    def _runs_inside(self, folder: Path, depth: int) -> Iterator[list[_Found]]:
        for path in sorted(folder.iterdir()) if depth else ():
            if path.is_dir() and not path.is_symlink():
                found = self._directly_in(path)
                if sum(has_number(each.named) for each in found) > 1:
                    yield found
                else:
                    yield from self._runs_inside(path, depth - 1)

    def _checkpoint(self, path: Path) -> _Found | None:
        if _NO_WEIGHTS.match(path.name):
            return None
        if self.is_checkpoint(path):
            return _Found(path, path)
        if not path.is_dir() or not has_number(path):
            return None
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and self.is_checkpoint(file)]
        inside = [file for file in inside if not _NO_WEIGHTS.match(file.name)]
        if len(inside) > 1 and any(has_number(file) for file in inside):
            return None  # a run of its own
        named = [file for file in inside if file.name.partition(".")[0] in _WEIGHTS]
        chosen = named if len(named) == 1 else inside
        if len(chosen) > 1:
            raise TrajectoryError(
                f"the folder {path} holds several files of weights "
                f"({', '.join(file.name for file in chosen[:5])}); pass a list of the ones to read, in the "
                "order of training."
            )
        return _Found(path, chosen[0]) if chosen else None


def _numbers(found: list[_Found]) -> list[int]:
    """The numbers in the names of the files, else of their folders; else the positions."""
    for names in ([each.named for each in found], [each.named.parent for each in found]):
        try:
            return checkpoint_numbers(names)
        except TrajectoryError:
            continue
    return list(range(len(found)))
