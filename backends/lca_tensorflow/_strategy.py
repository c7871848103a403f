"""Distribution strategies: which can be measured, and where."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError

MEASURED = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
"""Their parameters are the same on every device, and this process reads them."""


def check_strategy(model: keras.Model) -> None:
    """Raise `LCAError` if the parameters of the model cannot be read by this process alone."""
    strategy = _strategy_of(model)
    if strategy is not None and not isinstance(strategy, MEASURED):
        raise LCAError(
            f"{type(strategy).__name__} divides parameters or updates among processes, and θ is read by one; "
            "build and compile the model outside strategy.scope(), or under tf.distribute.MirroredStrategy."
        )


def check_outside() -> None:
    """Raise `LCAError` in the scope of a strategy, where Keras divides losses by the number of replicas."""
    if tf.distribute.has_strategy():
        raise LCAError(
            "a loss is measured inside strategy.scope(), where Keras divides it by the number of replicas; "
            "make the objective and the tracker, and call them, outside of the scope."
        )


def check_replicas(model: keras.Model, read: Mapping[str, Any]) -> None:
    """Raise `LCAError` if the replicas of a strategy hold other values of a variable that the loss reads.

    Parameters
    ----------
    model
        The model.
    read
        Keras and TensorFlow variables by name.
    """
    if _strategy_of(model) is None:
        return
    names = {id(getattr(variable, "_value", variable)): name for name, variable in read.items()}
    for variable in model.variables:
        replicas: tuple[Any, ...] = tuple(getattr(variable._value, "values", ()))
        found = [names[id(part)] for part in (variable._value, *replicas) if id(part) in names]
        if found and any(bool(tf.reduce_any(other != replicas[0])) for other in replicas[1:]):
            raise LCAError(
                f"the loss reads {found[0]}, which has a different value on each replica of the strategy, so "
                "the loss of the model is ambiguous; for moving statistics use batch_norm='batch', or "
                "BatchNormalization(synchronized=True)."
            )


def _strategy_of(model: Any) -> Any:
    """The strategy of a model; ``None`` without one, and for a layer, which is refused elsewhere."""
    return getattr(model, "_distribute_strategy", None)
