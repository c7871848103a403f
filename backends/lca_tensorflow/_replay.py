"""`replay`: the steps of a Keras run from checkpoints written during training."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import shorten

import tensorflow as tf

from lca.errors import TrajectoryError
from lca.frameworks import checkpoints_in_order, steps_between
from lca.frameworks._checkpoints import AnyPath
from lca.objective import Objective as AnyObjective
from lca.objective import State, leaves, state_of
from lca.step import Step
from lca_tensorflow._objective import Objective

SUFFIXES = (".weights.h5", ".keras", ".h5", ".hdf5")


def replay(
    checkpoints: AnyPath | Iterable[AnyPath],
    objective: AnyObjective | Mapping[str, AnyObjective],
) -> Iterator[Step]:
    """The steps between consecutive checkpoints, for `lca.allocate`.

    Each step is the straight segment from one checkpoint to the next, whatever happened between them. A file
    is read when its step comes up, by Keras itself, into the objective's model, whose own weights are
    restored before the step is returned.

    Parameters
    ----------
    checkpoints
        Paths in the order of training, or a folder: its ``.weights.h5``, ``.keras`` or older ``.h5`` files,
        by the numbers in their names (`lca.frameworks.checkpoints_in_order`). Only weights are read, and no
        code is run. The older files are read in the order of the layers.
    objective
        What will be measured, one objective or several by name, of the same model.

    Returns
    -------
    Iterator of Step
        ``Step.index`` counts steps from 0, and ``Step.checkpoints`` has the numbers in the names of both
        ends, in which records and pages count. ``Step.state`` has the moving statistics in use.

    Raises
    ------
    TrajectoryError
        If there are fewer than two checkpoints, one does not exist, their order is not clear, or one is not
        of this model.

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
    files = checkpoints_in_order(checkpoints, _is_checkpoint, " or ".join(SUFFIXES))
    return steps_between(files, partial(_read, objective))


def _read(objective: AnyObjective | Mapping[str, AnyObjective], path: Path) -> tuple[tf.Tensor, State | None]:
    measured = next((o for o in leaves(objective) if isinstance(o, Objective)), None)
    if measured is None:
        raise TrajectoryError(
            "a replay reads checkpoints into the model of an lca_tensorflow.Objective, and the measured "
            "objective has none; pass one."
        )
    model = measured.model
    before = [tf.identity(variable.value) for variable in model.variables]
    try:
        model.load_weights(path)
        states = [state_of(o) or {} for o in leaves(objective)]
        return measured.theta(), {name: value for state in states for name, value in state.items()} or None
    except Exception as error:  # Keras raises whatever the file leads to
        said = shorten(str(error), 300, placeholder=" ...")  # Keras prints whole variables
        raise TrajectoryError(
            f"{path} is damaged, or a checkpoint of another model than {model.name!r}: {said}"
        ) from error
    finally:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)


def _is_checkpoint(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)
