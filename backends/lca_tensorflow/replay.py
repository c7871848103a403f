"""`replay`: the steps of a Keras run from the checkpoints that were written while it went on."""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from textwrap import shorten

import tensorflow as tf

from lca.errors import TrajectoryError
from lca.importers import sorted_by_number
from lca.objective import Objective as AnyObjective
from lca.objective import State, state_of
from lca.step import Step
from lca_tensorflow.objective import Objective

SUFFIXES = (".weights.h5", ".keras")


def replay(
    checkpoints: str | PathLike[str] | Iterable[str | PathLike[str]],
    objective: Objective | Mapping[str, Objective],
) -> Iterator[Step]:
    """The steps between consecutive checkpoints, for `lca.allocate`.

    Each step is the straight segment from one checkpoint to the next, whatever happened between them. Files
    are read when their step comes up, by Keras itself, through the objective's model, which has its own
    weights back before the step is handed out.

    Parameters
    ----------
    checkpoints
        Paths in the order of training, or a folder: its ``.weights.h5`` or ``.keras`` files, by the numbers
        in their names. Of a ``.keras`` file the weights alone are read, and no code in it is run.
    objective
        What will be measured, one or several of the same model.

    Returns
    -------
    Iterator of Step
        ``Step.index`` counts checkpoints from 0; ``Step.state`` has the moving statistics in use.

    Raises
    ------
    TrajectoryError
        If there are fewer than two checkpoints, their order is not clear, or one is not of this model.

    Examples
    --------
    >>> import tempfile, keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> objective = Objective(model, loss, (tf.eye(2), tf.constant([0, 2])))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in range(3):
    ...         model.save_weights(f"{folder}/step-{step}.weights.h5")
    ...         _ = model.layers[0].bias.assign_add([1.0, 0.0, 0.0])
    ...     [(step.end - step.start).numpy()[-3:].tolist() for step in replay(folder, objective)]
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    objectives = dict(objective) if isinstance(objective, Mapping) else {"train": objective}
    return _steps(_files(checkpoints), objectives)


def _steps(files: list[Path], objectives: Mapping[str, AnyObjective]) -> Iterator[Step]:
    start, before = _read(files[0], objectives)
    for index, path in enumerate(files[1:]):
        end, after = _read(path, objectives)
        if before is not None and after is not None:
            same = all(bool(tf.reduce_all(before[name] == after[name])) for name in after)
            after = before if same else after  # one and the same object: it did not move
        yield Step(start, end, index, state=None if before is None or after is None else (before, after))
        start, before = end, after


def _read(path: Path, objectives: Mapping[str, AnyObjective]) -> tuple[tf.Tensor, State | None]:
    measured = next(o for o in objectives.values() if isinstance(o, Objective))
    model = measured.model
    kept = [tf.identity(variable.value) for variable in model.variables]
    try:
        model.load_weights(path)
        states = [state_of(o) or {} for o in objectives.values()]
        return measured.theta(), {name: value for state in states for name, value in state.items()} or None
    except Exception as error:  # Keras raises whatever the file leads to
        said = shorten(str(error), 300, placeholder=" ...")  # Keras prints whole variables
        raise TrajectoryError(
            f"{path} is damaged, or a checkpoint of another model than {model.name!r}: {said}"
        ) from error
    finally:
        for variable, value in zip(model.variables, kept, strict=True):
            variable.assign(value)


def _files(checkpoints: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[Path]:
    if isinstance(checkpoints, str | PathLike):
        folder = Path(checkpoints)
        if not folder.is_dir():
            raise TrajectoryError(f"there is no folder {folder}; pass a folder of checkpoints, or paths.")
        found = sorted_by_number(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    else:
        found = [Path(path) for path in checkpoints]
    missing = [path for path in found if not path.exists()]
    if missing:
        raise TrajectoryError(f"there is no checkpoint {missing[0]}.")
    if len(found) < 2:
        raise TrajectoryError(
            f"a replay needs at least two checkpoints (one step), got {len(found)} of kind "
            f"{' or '.join(SUFFIXES)}; save one before the first update as well."
        )
    return found
