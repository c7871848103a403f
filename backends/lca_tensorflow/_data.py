"""Reads the measured data from arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or other batches.

A batch is ``(x, y)`` or ``(x, y, sample_weight)``, as `keras.Model.fit` takes it; x and y may be nested.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number

import keras
import numpy as np
import tensorflow as tf

from lca.errors import DataError
from lca.frameworks import Measured, PyTree, TensorOps, all_rows, read_batches, tensor_ops
from lca.frameworks._data import Prepare


class TensorFlowTensorOps(TensorOps):
    """`lca.frameworks.TensorOps` for TensorFlow.

    >>> TensorFlowTensorOps().finite_rows(tf.constant([[0.0, 1.0], [float("nan"), 2.0]])).tolist()
    [True, False]
    """

    def dtype(self, tensor: tf.Tensor) -> str:
        return str(tensor.dtype.name)

    def take(self, tensor: tf.Tensor, index: np.ndarray) -> tf.Tensor:
        return tf.gather(tensor, index)

    def concatenate(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.concat(list(tensors), 0)

    def finite_rows(self, tensor: tf.Tensor) -> np.ndarray:
        if not tensor.dtype.is_floating:
            return np.ones(int(tensor.shape[0]) if tensor.shape.rank else 1, bool)
        finite = tf.reduce_all(tf.math.is_finite(tensor), list(range(1, tensor.shape.rank)))
        found: np.ndarray = np.atleast_1d(finite.numpy())
        return found


_OPS = TensorFlowTensorOps()
tensor_ops.register(tf.Tensor, lambda tensor: _OPS)


def as_tensors(tree: PyTree, dtype: str) -> PyTree:
    """``tree`` with tensors as leaves, floating-point ones in ``dtype``; lists become tuples."""
    if isinstance(tree, tuple | list) and any(isinstance(value, Number) for value in tree):
        raise DataError(f"got a nested {type(tree).__name__} of numbers; pass numpy.asarray(x).")
    if isinstance(tree, tuple | list):  # an absent sample_weight is left out
        return tuple(as_tensors(value, dtype) for value in tree if value is not None)
    if isinstance(tree, dict):
        return {name: as_tensors(value, dtype) for name, value in tree.items()}
    tensor = tf.convert_to_tensor(tree)
    return tf.cast(tensor, dtype) if tensor.dtype.is_floating else tensor


def measured(data: object, prepare: Prepare, *, keep: bool = True) -> Measured:
    """The data that `lca_tensorflow.Objective` measures on, from any form that it accepts.

    A tuple is rows. Anything else is batches, read once and kept, as rows if they fit together; with
    ``keep=False`` they are read at every pass.

    Raises
    ------
    DataError
        If there are no data, arrays differ in length, or a `tf.data.Dataset` is not batched or endless.
    """
    if isinstance(data, tuple):
        return all_rows(prepare(data))
    return read_batches(_batches(data), prepare, keep=keep)


def weighted_by_class(batch: PyTree, class_weight: Mapping[int, float] | None) -> PyTree:
    """The batch with the weight of each example's class as its `sample_weight`, as `fit` makes it.

    Labels are integers, or one-hot rows.

    Raises
    ------
    DataError
        If the batch is not ``(x, y)``, or a class has no weight.

    Examples
    --------
    >>> batch = tf.zeros([3, 1]), tf.constant([0, 2, 2])
    >>> *_, weights = weighted_by_class(batch, {0: 1.0, 2: 0.5})
    >>> weights.numpy()
    array([1. , 0.5, 0.5])
    """
    if class_weight is None:
        return batch
    labels = _labels(batch)
    missing = sorted(set(labels.ravel().tolist()) - set(class_weight))
    if missing:
        raise DataError(
            f"class_weight has no weight for class {_listed(missing)}; add it, with 1.0 if these examples "
            "count as they are."
        )
    weights = [float(class_weight[label]) for label in labels.ravel().tolist()]
    return (*batch, tf.reshape(tf.constant(weights, tf.float64), labels.shape))


def refuse_unused_weights(tree: PyTree, class_weight: Mapping[int, float]) -> None:
    """Raise `DataError` if ``class_weight`` names a class that no example has."""
    unused = sorted(set(class_weight) - set(_labels(tree[:2]).ravel().tolist()))
    if unused:
        raise DataError(
            f"class_weight names class {_listed(unused)}, which no example has; are the labels numbered "
            "otherwise? Omit the classes that the measured data lack."
        )


def _labels(batch: PyTree) -> np.ndarray:
    if not isinstance(batch, tuple) or len(batch) != 2 or not isinstance(batch[1], tf.Tensor):
        raise DataError(
            "class_weight needs data (x, y) with one array of labels and no sample_weight; multiply it into "
            "the sample_weight instead."
        )
    labels: np.ndarray = batch[1].numpy()
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels[..., 0]
    return labels.astype(int)


def _listed(classes: Iterable[object]) -> str:
    return ", ".join(map(str, classes))


@dataclass(frozen=True)
class _PyDatasetBatches(Iterable[PyTree]):
    """The batches of a `keras.utils.PyDataset`, each time it is iterated over."""

    data: keras.utils.PyDataset

    def __iter__(self) -> Iterator[PyTree]:
        if self.data.num_batches is None:
            raise DataError("the PyDataset has no length; define __len__, the number of its batches.")
        return (self.data[i] for i in range(int(self.data.num_batches)))


def _batches(data: object) -> Iterable[PyTree]:
    if isinstance(data, keras.utils.PyDataset):
        return _PyDatasetBatches(data)
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("the Dataset repeats without end; measure on it before .repeat().")
        _refuse_unbatched(data)
        return data  # type: ignore[no-any-return]
    if not isinstance(data, Iterable) or isinstance(data, dict | np.ndarray):
        raise DataError(
            "the measured data must be a tuple (x, y) or (x, y, sample_weight), a tf.data.Dataset, a "
            f"PyDataset or an iterable of batches, got {type(data).__name__}."
        )
    return data


def _refuse_unbatched(data: tf.data.Dataset) -> None:
    """The tensors of a batch have the number of examples in common; those of a single example do not."""
    shapes = [spec.shape for spec in tf.nest.flatten(data.element_spec)]
    if any(shape.rank == 0 for shape in shapes) or len({s[0] for s in shapes if s.rank and s[0]}) > 1:
        raise DataError("the Dataset is not batched; call .batch(n).")
