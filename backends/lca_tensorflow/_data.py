"""Reads the measured data from arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or other batches.

A batch is ``(x, y)`` or ``(x, y, sample_weight)``, as `keras.Model.fit` takes it; x and y may be nested.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.errors import DataError
from lca.frameworks import Measured, PyTree, TensorOps, all_rows, read_batches, tensor_ops
from lca.frameworks._data import Prepare
from lca_keras._data import refuse_sparse
from lca_tensorflow._dataset import private_copy, refuse_partial
from lca_tensorflow._undisturbed import undisturbed


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
    """``tree`` with tensors as leaves, floating-point ones in ``dtype``; lists become tuples.

    Raises
    ------
    DataError
        If a leaf is ``None`` or nothing of which a dense tensor can be made.
    """
    if isinstance(tree, tuple | list) and any(isinstance(value, Number) for value in tree):
        if not all(isinstance(value, Number) for value in tree):
            raise DataError(
                "the data hold a single number beside arrays, but every entry has a row for each "
                "example; use it as a variable inside a batch_loss, or pass numpy.full(n, value)."
            )
        raise DataError(f"got a nested {type(tree).__name__} of numbers; pass numpy.asarray(x).")
    if isinstance(tree, tuple | list):
        return tuple(as_tensors(value, dtype) for value in _without_absent(tree))
    if isinstance(tree, Mapping):
        return {name: as_tensors(value, dtype) for name, value in tree.items()}
    tensor = _as_tensor(tree)
    return tf.cast(tensor, dtype) if tensor.dtype.is_floating else tensor


def _without_absent(values: Sequence[PyTree]) -> list[PyTree]:
    """``values`` without those at the end that are ``None``: an absent sample_weight, absent targets."""
    found = list(values)
    while found and found[-1] is None:
        found.pop()
    if any(value is None for value in found):
        raise DataError(
            "the data hold None before other entries, as in (x, None, sample_weight) or inputs of "
            "which one is absent; pass what the model and its loss use, and a batch_loss where that is not "
            "(x, y)."
        )
    return found


def _as_tensor(leaf: Any) -> tf.Tensor:
    if isinstance(leaf, tf.RaggedTensor | tf.SparseTensor):
        dense = "x.to_tensor()" if isinstance(leaf, tf.RaggedTensor) else "tf.sparse.to_dense(x)"
        raise DataError(
            f"the data hold a {type(leaf).__name__}, which cannot be cut into batches; pass {dense}."
        )
    if isinstance(leaf, keras.KerasTensor):
        raise DataError("the data hold a KerasTensor, which has no numbers; pass arrays.")
    refuse_sparse(leaf)
    try:
        return tf.convert_to_tensor(np.asarray(leaf) if hasattr(leaf, "iloc") else leaf)  # of pandas
    except (TypeError, ValueError) as error:
        raise DataError(
            f"no tensor can be made of a {type(leaf).__name__} in the data: its rows differ in "
            "length or hold objects; pass arrays of numbers, padded to one length."
        ) from error


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


@dataclass(frozen=True)
class _PyDatasetBatches(Iterable[PyTree]):
    """The batches of a `keras.utils.PyDataset`, each time it is iterated over."""

    data: keras.utils.PyDataset

    def __len__(self) -> int:
        if self.data.num_batches is None:
            raise DataError("the PyDataset has no length; define __len__, the number of its batches.")
        return int(self.data.num_batches)

    def __iter__(self) -> Iterator[PyTree]:
        return (self.data[i] for i in range(len(self)))


@dataclass(frozen=True)
class _Undisturbed(Iterable[PyTree]):
    """The batches of ``data``; every pass leaves what can be reached from ``roots`` as it was."""

    data: Iterable[PyTree]
    roots: Sequence[object]

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[PyTree]:
        with undisturbed(*self.roots):
            yield from self.data


def _batches(data: object) -> Iterable[PyTree]:
    if isinstance(data, keras.utils.PyDataset):
        return _Undisturbed(_PyDatasetBatches(data), [data])
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("the Dataset repeats without end; measure on it before .repeat().")
        _refuse_unbatched(data)
        refuse_partial(data)
        return _Undisturbed(*private_copy(data))
    if not isinstance(data, Iterable) or isinstance(data, Mapping) or _is_array(data):
        raise DataError(
            "the measured data must be a tuple (x, y) or (x, y, sample_weight), where x and y may be "
            "dictionaries, or (x,) without targets, or a tf.data.Dataset, a PyDataset or an iterable of "
            f"batches, got {type(data).__name__}."
        )
    if isinstance(data, list) and any(map(_is_array, data)):
        raise DataError(
            "a list is a list of batches (x, y), and this one holds arrays; pass the tuple (x, y)."
        )
    return data if isinstance(data, list | Iterator) else _Undisturbed(data, [data])


def _is_array(data: object) -> bool:
    return tf.is_tensor(data) or hasattr(data, "__array__")


def _refuse_unbatched(data: tf.data.Dataset) -> None:
    """The tensors of a batch have the number of examples in common; those of a single example do not."""
    shapes = [getattr(spec, "shape", tf.TensorShape(None)) for spec in tf.nest.flatten(data.element_spec)]
    if any(shape.rank == 0 for shape in shapes) or len({s[0] for s in shapes if s.rank and s[0]}) > 1:
        raise DataError("the Dataset is not batched; call .batch(n).")
