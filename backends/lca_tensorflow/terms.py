"""The Keras objectives inside what is measured: the terms of sums, what is scaled, several losses by name."""

from collections.abc import Iterator, Mapping

from lca.objective import Objective as AnyObjective
from lca.objective import Scaled, Sum
from lca_tensorflow.objective import AtState, Objective


def keras_objectives(measured: AnyObjective | Mapping[str, AnyObjective]) -> Iterator[Objective]:
    """Every `lca_tensorflow.Objective` in ``measured``, in order.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> data = keras.ops.eye(2), keras.ops.ones((2, 1))
    >>> loss = Objective(model, keras.losses.MeanSquaredError(), data)
    >>> list(keras_objectives({"train": Sum({"half": Scaled(loss, 0.5)})})) == [loss]
    True
    """
    if isinstance(measured, Mapping):
        for objective in measured.values():
            yield from keras_objectives(objective)
    elif isinstance(measured, Sum):
        yield from keras_objectives(measured.terms)
    elif isinstance(measured, Scaled | AtState):
        yield from keras_objectives(measured.objective)
    elif isinstance(measured, Objective):
        yield measured
