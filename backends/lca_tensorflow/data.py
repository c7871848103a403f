"""The measured data, from what Keras users have: arrays, a `tf.data.Dataset`, a `PyDataset`, batches.

A batch is ``(x, y)`` or ``(x, y, sample_weight)``, as `keras.Model.fit` takes it; x and y may be nested.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lca.errors import DataError

PyTree: TypeAlias = Any
"""Tensors in nested tuples, lists and dicts: what a batch is made of."""


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


def examples_in(batch: PyTree) -> tf.Tensor:
    """The number of examples of a batch of tensors: the length of the first one, as a scalar tensor.

    >>> int(examples_in((tf.zeros([7, 3]), tf.zeros([7]))))
    7
    """
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def weighted_by_class(batch: PyTree, class_weight: Mapping[int, float] | None) -> PyTree:
    """The batch with the weight of each example's class as its `sample_weight`, as `fit` makes it.

    Classes that are not named weigh 1. Labels are integers, or one-hot rows.

    >>> *_, weights = weighted_by_class((tf.zeros([3, 1]), tf.constant([0, 2, 2])), {2: 0.5})
    >>> weights.numpy()
    array([1. , 0.5, 0.5])
    """
    if class_weight is None:
        return batch
    if not isinstance(batch, tuple) or len(batch) != 2 or not isinstance(batch[1], tf.Tensor):
        raise DataError(
            "class_weight needs data (x, y) with one array of labels and no sample_weight; multiply it into "
            "the sample_weight instead."
        )
    x, y = batch
    labels = y.numpy()
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels[..., 0]
    weights = [float(class_weight.get(int(label), 1.0)) for label in labels.ravel()]
    return x, y, tf.reshape(tf.constant(weights, tf.float64), labels.shape)


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors with one row an example, cut into measuring batches of any size; the last one is ragged."""

    tree: PyTree

    def __len__(self) -> int:
        return int(tf.nest.flatten(self.tree)[0].shape[0])

    def batches(self, batch_size: int) -> Iterator[PyTree]:
        """All rows, in order."""
        for start in range(0, len(self), batch_size):
            yield self.take(start, start + batch_size)

    def take(self, start: int, stop: int) -> PyTree:
        """Some of the rows, as a batch."""
        return tf.nest.map_structure(lambda tensor: tensor[start:stop], self.tree)

    def gather(self, index: np.ndarray) -> PyTree:
        """The rows of these numbers, repeats included, as a batch."""
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, index), self.tree)

    def copies(self, n: int) -> PyTree:
        """All rows n times, as a batch."""
        return tf.nest.map_structure(lambda tensor: tf.concat([tensor] * n, 0), self.tree)

    def where(self, mine: tf.Tensor) -> "Rows":
        """The rows that a mask (n,) names."""
        return Rows(tf.nest.map_structure(lambda tensor: tf.boolean_mask(tensor, mine), self.tree))


def rows_of(data: object, dtype: str) -> tuple[Rows, int | None]:
    """The measured data as rows, and the batch size they came in, if they came in batches.

    Raises
    ------
    DataError
        If there are none, they differ in length, or batches do not fit together.
    """
    if isinstance(data, tuple):
        return _rows(as_tensors(data, dtype)), None
    batches = [as_tensors(batch, dtype) for batch in _batches(data)]
    if not batches:
        raise DataError("the measured data are empty; an iterator can be read once, pass a list instead.")
    first = int(examples_in(batches[0]))
    try:
        whole = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise DataError(
            f"the batches do not fit together: {error}; give all of them one structure."
        ) from error
    return _rows(whole), first


def _batches(data: object) -> Iterable[PyTree]:
    if isinstance(data, keras.utils.PyDataset):
        return [data[i] for i in range(_known_length(data))]
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("the Dataset repeats without end; measure on it before .repeat().")
        _refuse_unbatched(data)
        return data  # type: ignore[no-any-return]
    if not isinstance(data, Iterable) or isinstance(data, dict | np.ndarray):
        raise DataError(
            f"measured data must be a tuple (x, y) or (x, y, sample_weight), a tf.data.Dataset, a PyDataset "
            f"or an iterable of batches, got {type(data).__name__}."
        )
    return data


def _refuse_unbatched(data: tf.data.Dataset) -> None:
    """One row an example is what the parts of a batch have in common."""
    shapes = [spec.shape for spec in tf.nest.flatten(data.element_spec)]
    if any(shape.rank == 0 for shape in shapes) or len({s[0] for s in shapes if s.rank and s[0]}) > 1:
        raise DataError("the Dataset is not batched; call .batch(n).")


def _known_length(data: keras.utils.PyDataset) -> int:
    if data.num_batches is None:
        raise DataError("the PyDataset has no length; define __len__, the number of its batches.")
    return int(data.num_batches)


def _rows(tree: PyTree) -> Rows:
    shapes = [tensor.shape for tensor in tf.nest.flatten(tree)]
    lengths = {shape[0] if shape.rank else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise DataError(
            f"all arrays of the data need one row an example and one length, got {[*map(tuple, shapes)]}."
        )
    if lengths == {0}:
        raise DataError("the measured data are empty.")
    return Rows(tree)
