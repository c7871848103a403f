"""Batches as trees: tensors in nested tuples, lists and mappings, whatever the framework."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lca.errors import DataError
from lca.frameworks._tensors import Tensor, dtype_of, is_tensor, tensor_ops

PyTree: TypeAlias = Any
"""Tensors in nested tuples, lists and mappings: the form of a batch. Other leaves are carried along."""
_SHOWN = 8
"""How many leaves of a batch a message shows."""


def is_sequence(tree: object) -> bool:
    """Whether this is a container: a tuple, a list, or a named tuple that is made from its fields.

    A subclass of a named tuple with a constructor of its own, such as a packed sequence, is an object.

    >>> is_sequence((1, 2)), is_sequence("text")
    (True, False)
    """
    kind = type(tree)
    made_otherwise = hasattr(kind, "_fields") and kind.__bases__ != (tuple,) and "__new__" in vars(kind)
    return isinstance(tree, tuple | list) and not made_otherwise


def tree_map(function: Callable[[Tensor], Any], tree: PyTree) -> PyTree:
    """``tree`` with ``function`` applied to every tensor; other leaves and the containers stay.

    >>> tree_map(lambda tensor: tensor + 1, {"x": (np.zeros(1), "name")})
    {'x': (array([1.]), 'name')}
    """
    if type(tree) is tuple:  # nearly every batch is one, and this is called for every batch
        return tuple([function(leaf) if is_tensor(leaf) else tree_map(function, leaf) for leaf in tree])
    if is_tensor(tree):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: tree_map(function, value) for name, value in tree.items()}
    if is_sequence(tree):
        values = [tree_map(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def tree_leaves(tree: PyTree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree that is not a container, with the indices that lead to it.

    Parameters
    ----------
    tree
        Nested mappings and sequences.
    path
        What the indices are appended to.

    Examples
    --------
    >>> [(path, leaf.ndim) for path, leaf in tree_leaves((np.zeros(1), {"mask": np.zeros((1, 1))}))]
    [('[0]', 1), ("[1]['mask']", 2)]
    """
    if isinstance(tree, Mapping):
        inside: Iterable[tuple[Any, PyTree]] = tree.items()
    elif is_sequence(tree):
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
    return [leaf for leaf in leaves_in(tree) if is_tensor(leaf)]


def leaves_in(tree: PyTree) -> list[Any]:
    """As `tree_leaves`, without the paths, which take most of its time.

    >>> leaves_in({"x": (np.zeros(1), "name"), "y": 2})
    [array([0.]), 'name', 2]
    """
    if type(tree) is tuple:
        return [leaf for value in tree for leaf in ([value] if is_tensor(value) else leaves_in(value))]
    return [leaf for _, leaf in tree_leaves(tree)]


def examples_in(batch: PyTree) -> int:
    """Number of examples of a batch: the length that all its tensors have in common (`is_rows`).

    Raises
    ------
    DataError
        If it is not a batch of rows: which axis runs over examples is then not known.

    Examples
    --------
    >>> examples_in((np.zeros((7, 3)), np.zeros(7)))
    7
    """
    length = _length(batch)
    if length is None:
        raise DataError(
            f"the number of examples of a batch ({describe(batch)}) is unknown, as it does not consist of "
            "tensors of one length with a row for each example; pass batch_weight=function of a batch that "
            "gives this number, or the number of tokens if the loss is a mean over tokens."
        )
    return length


def is_rows(batch: PyTree) -> bool:
    """Whether a batch consists of tensors of one length, with one row per example, and so can be cut.

    ``None`` stands for an absent tensor; numbers, strings and other objects have no rows.

    >>> is_rows((np.zeros((7, 3)), np.zeros(7), None)), is_rows((np.zeros((7, 3)), np.zeros((2, 7))))
    (True, False)
    >>> is_rows({"x": np.zeros((7, 3)), "label": 1})
    False
    """
    return _length(batch) is not None


def _length(batch: PyTree) -> int | None:
    """The length that all tensors of a batch of rows have; ``None`` if it is not one."""
    leaves = [leaf for leaf in leaves_in(batch) if leaf is not None]
    if not leaves or not all(map(is_tensor, leaves)):
        return None
    shapes = [leaf.shape for leaf in leaves]
    lengths = {shape[0] for shape in shapes} if all(map(len, shapes)) else set()
    return int(lengths.pop()) if len(lengths) == 1 else None


def take(batch: PyTree, index: slice | np.ndarray) -> PyTree:
    """Some rows of every tensor: a slice, or the numbers (n,) of the rows, repeats included.

    >>> take((np.arange(3), "name"), np.array([2, 2]))
    (array([2, 2]), 'name')
    """
    if isinstance(index, slice):
        return tree_map(lambda tensor: _ops(tensor).rows(tensor, index), batch)
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
    """Container, dtypes and shapes of a batch, and types of other leaves, for messages.

    >>> describe((np.zeros((2, 3)), np.zeros(2, np.int64)))
    'tuple of float64 (2, 3), int64 (2,)'
    """
    kind = "mapping" if isinstance(batch, Mapping) else type(batch).__name__
    leaves = leaves_in(batch)
    if not any(map(is_tensor, leaves)):
        return f"{kind} of no tensors"
    shown = [_describe(leaf) for leaf in leaves[:_SHOWN]]
    return f"{kind} of {', '.join(shown)}{', ...' if len(leaves) > _SHOWN else ''}"


def _describe(leaf: object) -> str:
    return f"{dtype_of(leaf)} {tuple(leaf.shape)}" if is_tensor(leaf) else type(leaf).__name__  # type: ignore[attr-defined]


def _ops(tensor: Tensor) -> Any:
    return tensor_ops(tensor)
