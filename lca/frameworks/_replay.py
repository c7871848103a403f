"""What replays of checkpoints share in all frameworks: files in order, and the steps between them."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from lca._paths import local_path
from lca._state import same_state
from lca.arrays import Vector
from lca.errors import TrajectoryError
from lca.importers import sorted_by_number
from lca.objective import State
from lca.step import Step

AnyPath: TypeAlias = str | PathLike[str]
ReadCheckpoint: TypeAlias = Callable[[Path], tuple[Vector, State | None]]


def checkpoints_in_order(
    checkpoints: AnyPath | Iterable[AnyPath], is_checkpoint: Callable[[Path], bool], kinds: str
) -> list[Path]:
    """The checkpoints of a run: the paths given, or those in a folder by the numbers in their names.

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
        If a path does not exist, there are fewer than two, or the names do not give one order.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (10, 9):
    ...         (Path(folder) / f"step-{step}.npy").touch()
    ...     files = checkpoints_in_order(folder, lambda path: path.suffix == ".npy", ".npy")
    >>> [file.name for file in files]
    ['step-9.npy', 'step-10.npy']
    """
    place = ""
    if isinstance(checkpoints, str | PathLike):
        folder, place = local_path(checkpoints, TrajectoryError), f" in {checkpoints}"
        if not folder.exists():
            raise TrajectoryError(f"there is no folder {folder}; pass a folder of checkpoints, or paths.")
        if folder.is_file():
            raise TrajectoryError(
                f"{folder} is one checkpoint, and a replay needs at least two (one step); pass a list of "
                "paths in the order of training, or their folder."
            )
        found = sorted_by_number(path for path in folder.iterdir() if is_checkpoint(path))
    elif isinstance(checkpoints, Iterable):
        found = [local_path(path, TrajectoryError) for path in checkpoints]
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
    for path in found:
        if not path.exists():
            raise TrajectoryError(f"there is no checkpoint {path}.")
    return found


def steps_between(files: list[Path], read: ReadCheckpoint) -> Iterator[Step]:
    """The steps between consecutive checkpoints; each file is read once, when its step comes up.

    ``Step.index`` counts checkpoints from 0. A state that did not change is the same object at both ends.

    Parameters
    ----------
    files
        At least two, in the order of training.
    read
        Returns θ (K,) and the state of one file, or ``None`` for the state.

    Examples
    --------
    >>> import numpy as np
    >>> points = {Path("0"): np.zeros(2), Path("1"): np.ones(2)}
    >>> [step.end - step.start for step in steps_between(list(points), lambda path: (points[path], None))]
    [array([1., 1.])]
    """
    start, before = read(files[0])
    for index, path in enumerate(files[1:]):
        end, after = read(path)
        if before is not None and after is not None and same_state(before, after):
            after = before
        yield Step(start, end, index, state=None if before is None or after is None else (before, after))
        start, before = end, after
