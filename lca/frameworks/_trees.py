"""Batches as trees: tensors in nested tuples, lists and mappings, whatever the framework."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lca.errors import DataError
from lca.frameworks._tensors import Tensor, dtype_of, is_tensor, tensor_ops

PyTree: TypeAlias = Any
"""Tensors in nested tuples, lists and mappings: the form of a batch. Other leaves are carried along."""


def tree_map(function: Callable[[Tensor], Any], tree: PyTree) -> PyTree:
    """``tree`` with ``function`` applied to every tensor; other leaves and the containers stay.

    >>> tree_map(lambda tensor: tensor + 1, {"x": (np.zeros(1), "name")})
    {'x': (array([1.]), 'name')}
    """
    if isinstance(tree, Mapping):
        return {name: tree_map(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [tree_map(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return function(tree) if is_tensor(tree) else tree


def tree_leaves(tree: PyTree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree that is not a container, with the indices that lead to it.

    >>> [(path, leaf.ndim) for path, leaf in tree_leaves((np.zeros(1), {"mask": np.zeros((1, 1))}))]
    [('[0]', 1), ("[1]['mask']", 2)]
    """
    if isinstance(tree, Mapping):
        inside: Iterable[tuple[Any, PyTree]] = tree.items()
    elif isinstance(tree, tuple | list):
        inside = enumerate(tree)
    else:
        yield path, tree
        return
    for key, value in inside:
        yield from tree_leaves(value, f"{path}[{key!r}]")


def tensors_in(tree: PyTree) -> list[Tensor]:
    """All tensors of a tree, in order.

    >>> tensors_in({"x": (np.zeros(1), "name"), "y": np.ones(1)})
    [array([0.]), array([1.])]
    """
    return [leaf for _, leaf in tree_leaves(tree) if is_tensor(leaf)]


def examples_in(batch: PyTree) -> int:
    """Number of examples: the length of the first tensor that is not a scalar.

    Raises
    ------
    DataError
        If there is no such tensor.

    Examples
    --------
    >>> examples_in((np.zeros((7, 3)), np.zeros(7)))
    7
    """
    for tensor in tensors_in(batch):
        if tuple(tensor.shape):
            return int(tensor.shape[0])
    raise DataError(
        f"the number of examples of a batch of type {type(batch).__name__} is unknown, as it holds no tensor "
        "with one row per example; pass batch_weight=function of a batch."
    )


def is_rows(batch: PyTree) -> bool:
    """Whether a batch can be cut: all its tensors have one row per example.

    >>> is_rows((np.zeros((7, 3)), np.zeros(7))), is_rows((np.zeros((7, 3)), np.zeros((2, 7))))
    (True, False)
    """
    shapes = [tuple(tensor.shape) for tensor in tensors_in(batch)]
    return bool(shapes) and all(shapes) and len({shape[0] for shape in shapes}) == 1


def take(batch: PyTree, index: slice | np.ndarray) -> PyTree:
    """Some rows of every tensor: a slice, or the numbers (n,) of the rows, repeats included.

    >>> take((np.arange(3), "name"), np.array([2, 2]))
    (array([2, 2]), 'name')
    """
    if isinstance(index, slice):
        return tree_map(lambda tensor: tensor[index], batch)
    return tree_map(lambda tensor: _ops(tensor).take(tensor, index), batch)


def concatenate(batches: Sequence[PyTree]) -> PyTree:
    """One batch with the rows of all, which must have one `signature`.

    >>> concatenate([(np.arange(2),), (np.arange(1),)])
    (array([0, 1, 0]),)
    """
    columns = iter(zip(*map(tensors_in, batches), strict=True))
    return tree_map(lambda tensor: _ops(tensor).concatenate(next(columns)), batches[0])


def signature(batch: PyTree) -> str:
    """Structure, dtypes and shapes without the first axis: what batches must share to be concatenated.

    >>> signature((np.zeros((7, 3)), np.zeros(7, int))) == signature((np.zeros((2, 3)), np.zeros(2, int)))
    True
    """
    return repr(tree_map(lambda tensor: (dtype_of(tensor), tuple(tensor.shape[1:])), batch))


def describe(batch: PyTree) -> str:
    """Container, dtypes and shapes of a batch, for messages.

    >>> describe((np.zeros((2, 3)), np.zeros(2, np.int64)))
    'tuple of float64 (2, 3), int64 (2,)'
    """
    kind = "mapping" if isinstance(batch, Mapping) else type(batch).__name__
    shapes = [f"{dtype_of(tensor)} {tuple(tensor.shape)}" for tensor in tensors_in(batch)]
    return f"{kind} of {', '.join(shapes) or 'no tensors'}"


def _ops(tensor: Tensor) -> Any:
    return tensor_ops(tensor)
