"""The measured data as tensors of the engine, from arrays or a list of batches."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from scipy.sparse import issparse

from lca.errors import DataError
from lca.frameworks import Measured, PyTree, all_rows, read_batches
from lca.frameworks._data import Prepare


def measured(data: object, prepare: Prepare, *, keep: bool = True) -> Measured:
    """The data that `lca_keras.Objective` measures on: rows of a tuple, or batches of a list.

    Raises
    ------
    DataError
        If they have another form, or arrays differ in length.
    """
    if isinstance(data, tuple):
        return all_rows(prepare(data))
    if not isinstance(data, list | Iterator):
        raise DataError(
            "the measured data must be a tuple (x, y) or (x, y, sample_weight) of arrays, or (x,) without "
            f"targets, or a list of such batches, got {type(data).__name__}; read a data set or loader once, "
            "before training: list(dataset)."
        )
    return read_batches(data, prepare, keep=keep)


def as_tensors(tree: PyTree, dtype: str) -> PyTree:
    """``tree`` with tensors as leaves, floating-point ones in ``dtype``; lists become tuples.

    Raises
    ------
    DataError
        If a leaf is ``None``, or nothing of which a tensor can be made.
    """
    if isinstance(tree, tuple | list):
        values = list(tree)
        while values and values[-1] is None:  # an absent sample_weight, absent targets
            values.pop()
        return tuple(as_tensors(value, dtype) for value in values)
    if isinstance(tree, Mapping):
        return {name: as_tensors(value, dtype) for name, value in tree.items()}
    tensor = _tensor(tree)
    floating = "float" in keras.backend.standardize_dtype(tensor.dtype)
    return keras.ops.cast(tensor, dtype) if floating else tensor


def refuse_sparse(leaf: object) -> None:
    """Raise `DataError` for a sparse matrix of SciPy."""
    if issparse(leaf):
        raise DataError(
            f"the data hold a {type(leaf).__name__}, a sparse matrix of SciPy, of which no rows can be "
            "drawn; pass x.toarray()."
        )


def _tensor(leaf: Any) -> Any:
    refuse_sparse(leaf)
    array = leaf if keras.ops.is_tensor(leaf) else np.asarray(leaf)
    if getattr(array.dtype, "hasobject", False) or str(array.dtype).startswith("<U"):
        raise DataError(
            f"no tensor can be made of a {type(leaf).__name__} in the data: it is absent, its rows "
            "differ in length, or it holds objects; pass arrays of numbers, padded to one length."
        )
    return keras.ops.convert_to_tensor(array)
