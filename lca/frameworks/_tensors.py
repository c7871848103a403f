"""`TensorOps`: what batches of data need from a tensor type, one class per framework.

Measured data are tensors in nested tuples, lists and mappings. The rest of this package walks these
containers and calls `tensor_ops` for every leaf; `lca.arrays.ArrayOps` does the same for flat vectors (K,).
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, TypeAlias

import numpy as np

from lca.arrays import array_ops

Tensor: TypeAlias = Any
"""A tensor of any framework, of any dtype; axis 0 runs over examples."""


class TensorOps:
    """Operations on the tensors of a batch; these defaults are right for NumPy and for what indexes like it.

    A tensor must have ``shape``, ``dtype`` and slices along axis 0, and `lca.arrays.array_ops` must know its
    type. A framework whose tensors differ overrides methods, and registers its class once::

        tensor_ops.register(FrameworkTensor, lambda tensor: FrameworkTensorOps())

    Examples
    --------
    >>> ops = TensorOps()
    >>> ops.dtype(np.zeros(2)), ops.take(np.arange(3), np.array([2, 0])).tolist()
    ('float64', [2, 0])
    >>> ops.finite_rows(np.array([[0.0, 1.0], [np.nan, 2.0]])).tolist()
    [True, False]
    """

    def dtype(self, tensor: Tensor) -> str:
        """Name of the dtype, as NumPy writes it: ``"float32"``, ``"bfloat16"``, ``"int64"``, ``"bool"``."""
        return str(tensor.dtype)

    def take(self, tensor: Tensor, index: np.ndarray) -> Tensor:
        """The rows with these numbers (n,), repeats included; a new tensor (n, ...) on the same device."""
        return tensor[index]

    def rows(self, tensor: Tensor, part: slice) -> Tensor:
        """The rows of a slice of step 1; may share memory with the tensor."""
        return tensor[part]

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensors one after another along axis 0."""
        return np.concatenate(tensors)

    def finite_rows(self, tensor: Tensor) -> np.ndarray:
        """Which rows hold neither NaN nor Inf; booleans (n,), a single one for a scalar."""
        if not is_floating(tensor):
            return np.ones(len(tensor) if tuple(tensor.shape) else 1, bool)
        numbers = array_ops(tensor).to_numpy(tensor)
        with np.errstate(all="ignore"):
            if np.isfinite(numbers.sum()):  # the usual case, at a fraction of the cost
                return np.ones(len(numbers) if numbers.ndim else 1, bool)
        found: np.ndarray = np.isfinite(numbers).reshape(len(numbers) if numbers.ndim else 1, -1).all(1)
        return found


@singledispatch
def tensor_ops(leaf: object) -> TensorOps | None:
    """The `TensorOps` of the type of ``leaf``; ``None`` if it is not a tensor of an imported framework.

    >>> tensor_ops(np.zeros(2, "float32")).dtype(np.zeros(2, "float32")), tensor_ops("a name")
    ('float32', None)
    """
    return None


_NO_TENSOR = tensor_ops.dispatch(object)
_TENSORS: set[type] = set()
"""Types that were found to be tensors; any other may become one, when its framework is imported."""
_NUMPY = TensorOps()
tensor_ops.register(np.ndarray, lambda leaf: _NUMPY)


def is_tensor(leaf: object) -> bool:
    """Whether ``leaf`` is a tensor of an imported framework.

    >>> is_tensor(np.zeros(2)), is_tensor([1.0, 2.0])
    (True, False)
    """
    kind = type(leaf)
    if kind in _TENSORS:  # this is asked for each tensor of each batch
        return True
    found = tensor_ops.dispatch(kind) is not _NO_TENSOR
    if found:
        _TENSORS.add(kind)
    return found


def dtype_of(tensor: Tensor) -> str:
    """Name of the dtype of a tensor of any framework.

    >>> dtype_of(np.zeros(2, np.int32))
    'int32'
    """
    ops = tensor_ops(tensor)
    return type(tensor).__name__ if ops is None else ops.dtype(tensor)


def is_floating(tensor: Tensor) -> bool:
    """Whether the numbers are floating-point ones of any precision.

    >>> is_floating(np.zeros(2)), is_floating(np.zeros(2, int))
    (True, False)
    """
    return "float" in dtype_of(tensor)


def is_integer(tensor: Tensor) -> bool:
    """Whether the numbers are integers; booleans are not.

    >>> is_integer(np.zeros(2, np.uint8)), is_integer(np.zeros(2, bool))
    (True, False)
    """
    return dtype_of(tensor).startswith(("int", "uint"))
