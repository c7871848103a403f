"""Reads the measured data from tensors, a data set, a ``DataLoader`` or other batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torch.utils.data import default_collate as collate

from lca.errors import DataError
from lca.frameworks import (
    Measured,
    PyTree,
    Rows,
    TensorOps,
    all_rows,
    read_batches,
    tensor_ops,
    tensors_in,
    tree_leaves,
    tree_map,
)
from lca_torch._private_copy import PrivateCopy


class TorchTensorOps(TensorOps):
    """`lca.frameworks.TensorOps` for torch; everything stays on the tensor's device.

    >>> TorchTensorOps().dtype(torch.zeros(1)), TorchTensorOps().take(torch.arange(3), np.array([2, 0]))
    ('float32', tensor([2, 0]))
    """

    def dtype(self, tensor: Tensor) -> str:
        return str(tensor.dtype).removeprefix("torch.")

    def take(self, tensor: Tensor, index: np.ndarray) -> Tensor:
        rows = torch.as_tensor(index, device=tensor.device)
        # Read as unsigned, a negative number is too large as well.
        if index.dtype == np.int64 and index.view(np.uint64).max(initial=0) < len(tensor):
            return tensor.index_select(0, rows)  # copies whole rows, in a quarter of the time of indexing
        return tensor[rows]

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def finite_rows(self, tensor: Tensor) -> np.ndarray:
        length = len(tensor) if tensor.ndim else 1
        if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):  # at a tenth of the cost
            return np.ones(length, bool)
        finite = torch.isfinite(tensor).reshape(length, -1).all(1)
        found: np.ndarray = finite.cpu().numpy()
        return found


_OPS = TorchTensorOps()
tensor_ops.register(Tensor, lambda tensor: _OPS)


def measured(data: object, device: torch.device, *, keep: bool = True) -> Measured:
    """The data that `lca_torch.Objective` measures on, from any form that it accepts.

    Tensors in tuples or mappings, and data sets, are rows, moved to ``device`` once. From a loader or another
    iterable of batches, the batches are measured that its next pass would give. They are read once and kept,
    as rows if they fit together; with ``keep=False`` they are read anew at every pass. What is read is a
    `PrivateCopy`, so nothing of the user's moves: no sampler, generator, counter or worker. A generator of
    batches is refused, as it can be neither copied nor read twice.

    Raises
    ------
    DataError
        If there are no data, tensors differ in length, a loader does not give each example once, examples
        cannot be made into batches, or there are NumPy arrays in place of tensors.
    """
    found = _read(data, keep=keep)
    if isinstance(found, Rows):
        return Rows(tree_map(lambda tensor: tensor.to(device), found.tree), found.came_in)
    return found


class Unchanged:
    """Whether the tensors of the measured data are still as they were; some are the user's own.

    >>> x = torch.zeros(2)
    >>> kept = Unchanged(Rows(x))
    >>> x.add_(1)
    tensor([1., 1.])
    >>> kept.check()
    Traceback (most recent call last):
    lca.errors.DataError: the measured data were changed in place after the objective was made, so ...
    """

    def __init__(self, data: Measured) -> None:
        held = data.tree if isinstance(data, Rows) else data.source if data.kept else []
        self._tensors = [tensor for tensor in tensors_in(held) if not tensor.is_inference()]
        self._versions = self._total()

    def check(self) -> None:
        """Raise `DataError` if one was changed in place; torch does not count writes through ``.data``."""
        if self._total() != self._versions:
            raise DataError(
                "the measured data were changed in place after the objective was made, so the loss is not "
                "that of the same data any more; give the objective data of its own: (x.clone(), y.clone())."
            )

    def _total(self) -> int:
        return sum(map(_version, self._tensors))


_version = attrgetter("_version")


def refuse_arrays(batch: PyTree) -> PyTree:
    """``batch``, or a `DataError` that names the array or tensor in it that cannot be measured on."""
    for path, leaf in tree_leaves(batch):
        if isinstance(leaf, np.ndarray):
            raise DataError(
                f"the measured data{path} is a NumPy array ({leaf.dtype} {leaf.shape}); torch models take "
                "tensors: pass torch.as_tensor(array)."
            )
        if issparse(leaf):
            raise DataError(
                f"the measured data{path} is a sparse matrix of SciPy ({type(leaf).__name__}); torch models "
                "take tensors: pass torch.as_tensor(x.toarray())."
            )
        if isinstance(leaf, Tensor) and leaf.is_meta:
            raise DataError(f"the measured data{path} is on the meta device and holds no values.")
        if isinstance(leaf, Tensor) and (leaf.is_nested or leaf.layout != torch.strided):
            kind = "nested" if leaf.is_nested else f"sparse ({leaf.layout})"
            dense = "to_padded_tensor(0.0), with a mask" if leaf.is_nested else "to_dense()"
            raise DataError(
                f"the measured data{path} is a {kind} tensor, which cannot be cut into batches; pass a dense "
                f"one: tensor.{dense}."
            )
    return batch


def _read(data: object, *, keep: bool) -> Measured:
    refuse_arrays(data)
    if type(data) is TensorDataset:
        return all_rows(data.tensors)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        (examples,) = PrivateCopy(data, _examples)
        return all_rows(refuse_arrays(_collated(examples)))
    if isinstance(data, Tensor | Mapping) or (
        isinstance(data, tuple) and any(isinstance(entry, Tensor) for entry in data)
    ):
        return all_rows(data)
    _refuse_examples(data)
    if not isinstance(data, Iterable):
        raise DataError(
            "the measured data must be tensors, a data set, a DataLoader or an iterable of batches, got "
            f"{type(data).__name__}."
        )
    if isinstance(data, list | tuple) or _is_read_once(data):
        return read_batches(data, refuse_arrays, keep=keep)
    return read_batches(PrivateCopy(data), refuse_arrays, keep=keep)


def _refuse_examples(data: object) -> None:
    """Refuse what may hold single examples instead of batches."""
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if isinstance(data, IterableDataset) or (indexed and not isinstance(data, list | tuple)):
        raise DataError(
            f"a {type(data).__name__} may hold examples or batches; pass DataLoader(data, batch_size=...) "
            "if these are examples, or DataLoader(data, batch_size=None) if they are batches."
        )


def _is_read_once(data: Iterable[Any]) -> bool:
    """Whether a value is a generator or one of Python's own iterators, which cannot be copied."""
    return isinstance(data, Iterator) and type(data).__module__ in ("builtins", "itertools")


def _examples(dataset: Any) -> Iterator[list[Any]]:
    examples = []
    for i in range(len(dataset)):
        try:
            examples.append(dataset[i])
        except Exception as error:
            raise DataError(
                f"reading example {i} of the {type(dataset).__name__} raised {type(error).__name__}: {error}"
            ) from error
    yield examples


def _collated(examples: list[Any]) -> PyTree:
    """All examples as one tree of tensors, or a `DataError` that names the first one that does not fit."""
    if not examples:
        raise DataError("the measured data are empty.")
    try:
        return collate(examples)
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        forms = [_form(example) for example in examples]
        odd = next((i for i, form in enumerate(forms) if form != forms[0]), 0)
        but = f", but example 0 is {forms[0]}" if odd else ""
        raise DataError(
            f"the examples of the data set cannot be stacked: example {odd} is {forms[odd]}{but} ({error}); "
            "pass DataLoader(data, batch_size=..., collate_fn=...) with a function that makes tensors of "
            "them, or a list of batches."
        ) from error


def _form(example: PyTree) -> str:
    """Types and shapes in an example."""
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{name!r}: {_form(value)}" for name, value in example.items()) + "}"
    if isinstance(example, tuple):
        return "(" + ", ".join(map(_form, example)) + ")"
    if isinstance(example, list):
        return f"a list of {len(example)}"
    if isinstance(example, Tensor | np.ndarray):
        return f"{str(example.dtype).removeprefix('torch.')} {tuple(example.shape)}"
    return type(example).__name__
