"""``class_weight``: the weights of examples by class, as `keras.Model.fit` makes them."""

from collections.abc import Iterable, Mapping
from numbers import Integral

import keras
import numpy as np

from lca.errors import DataError
from lca.frameworks import Measured, PyTree, Rows


def weighted_by_class(batch: PyTree, class_weight: Mapping[int, float] | None) -> PyTree:
    """The batch with the weight of each example's class as its ``sample_weight``, as ``fit`` makes it.

    Labels are integers, or one-hot rows.

    Raises
    ------
    DataError
        If the batch is not ``(x, y)``, or a class has no weight.

    Examples
    --------
    >>> batch = keras.ops.zeros((3, 1)), keras.ops.array([0, 2, 2])
    >>> weighted_by_class(batch, {0: 1.0, 2: 0.5})[2]
    array([1. , 0.5, 0.5])
    """
    if class_weight is None:
        return batch
    if not isinstance(class_weight, Mapping):
        raise DataError(
            f"class_weight must be a dictionary of the weights by label, got {type(class_weight).__name__}; "
            "pass {0: 1.0, 1: 2.0}, or dict(enumerate(weights))."
        )
    if other := [key for key in class_weight if not isinstance(key, Integral)]:
        raise DataError(
            f"class_weight names {_listed(map(repr, other))}, but classes are integers; pass the weight of "
            "each class by its label, such as {0: 1.0, 1: 2.0}."
        )
    labels = _labels(batch)
    missing = sorted(set(labels.ravel().tolist()) - set(class_weight))
    if missing:
        raise DataError(
            f"class_weight has no weight for class {_listed(missing)}; add it, with 1.0 if these examples "
            "count as they are."
        )
    weights = [float(class_weight[label]) for label in labels.ravel().tolist()]
    return (*batch, np.reshape(np.array(weights, np.float64), labels.shape))


def refuse_unused_weights(data: Measured, class_weight: Mapping[int, float] | None) -> None:
    """Raise `DataError` if ``class_weight`` names a class that no example of data in memory has."""
    if class_weight is None or not isinstance(data, Rows):
        return
    unused = sorted(set(class_weight) - set(_labels(data.tree[:2]).ravel().tolist()))
    if unused:
        raise DataError(
            f"class_weight names class {_listed(unused)}, which no example has; are the labels numbered "
            "otherwise? Omit the classes that the measured data lack."
        )


def _labels(batch: PyTree) -> np.ndarray:
    if not isinstance(batch, tuple) or len(batch) != 2 or not keras.ops.is_tensor(batch[1]):
        raise DataError(
            "class_weight needs data (x, y) with one array of labels and no sample_weight; multiply it into "
            "the sample_weight instead."
        )
    labels: np.ndarray = keras.ops.convert_to_numpy(batch[1])
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels[..., 0]
    return labels.astype(int)


def _listed(classes: Iterable[object]) -> str:
    return ", ".join(map(str, classes))
