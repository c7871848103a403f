"""The measured data, from what people have: tensors, a data set, a `DataLoader`, any iterable of batches.

Whatever comes in is a sequence of measuring batches afterwards. Where it consists of tensors with one row
an example, they are kept together and cut anew, so that the measuring batch size is free.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
from torch.utils.data import default_collate as collate

from lca.errors import DataError

PyTree: TypeAlias = Any
"""Tensors in nested tuples, lists and mappings: what a batch is made of."""


def tree_map(function: Callable[[Tensor], Tensor], tree: PyTree) -> PyTree:
    """``tree`` with every tensor replaced; what is no tensor stays.

    >>> tree_map(lambda t: t + 1, {"x": (torch.zeros(1), "name")})
    {'x': (tensor([1.]), 'name')}
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: tree_map(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [tree_map(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def tensors_in(tree: PyTree) -> list[Tensor]:
    """All tensors of a tree, in order."""
    found: list[Tensor] = []
    tree_map(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]
    return found


def leaves(tree: PyTree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree that is no container, with the indices that lead to it.

    >>> [(path, leaf.ndim) for path, leaf in leaves((torch.zeros(1), {"mask": torch.zeros(1, 1)}))]
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
        yield from leaves(value, f"{path}[{key!r}]")


def _filled(tree: PyTree, tensors: Iterable[Tensor]) -> PyTree:
    """``tree`` with these tensors in place of its own, in order."""
    own = iter(tensors)
    return tree_map(lambda _: next(own), tree)


def examples_in(batch: PyTree) -> int:
    """The number of examples: the length of the first tensor of a batch.

    >>> examples_in((torch.zeros(7, 3), torch.zeros(7)))
    7
    """
    for _, leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise DataError(
        f"a batch of type {type(batch).__name__} holds no tensor with one row an example, so its size is "
        "unknown; pass batch_weight=function of a batch."
    )


def describe(batch: PyTree) -> str:
    """Shapes and dtypes of a batch, for messages.

    >>> describe((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))
    'tuple of float32 (2, 3), int64 (2,)'
    """
    shapes = [f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors_in(batch)]
    kind = "mapping" if isinstance(batch, Mapping) else type(batch).__name__
    return f"{kind} of {', '.join(shapes) or 'no tensors'}"


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors with one row an example, cut into measuring batches of any size; the last one is ragged."""

    tree: PyTree
    suggested: int | None = None
    """The batch size the data came in, if they came in batches."""

    def __len__(self) -> int:
        return examples_in(self.tree)

    def batches(self, batch_size: int | None) -> Iterator[PyTree]:
        """All rows, in order."""
        size = batch_size or len(self)
        parts = zip(*(torch.split(tensor, size) for tensor in tensors_in(self.tree)), strict=True)
        yield from (_filled(self.tree, part) for part in parts)

    def last(self, batch_size: int | None) -> PyTree:
        """The last batch, which may be the smallest."""
        size = batch_size or len(self)
        return self.take(slice((len(self) - 1) // size * size, None))

    def take(self, index: slice | Tensor) -> PyTree:
        """Some of the rows, as a batch."""
        return tree_map(lambda tensor: tensor[index], self.tree)


@dataclass(frozen=True, eq=False)
class Batches:
    """Measuring batches as they come: kept in a list, or read again at every pass."""

    source: Iterable[PyTree]

    def batches(self, batch_size: int | None) -> Iterator[PyTree]:
        """Every batch; ``batch_size`` must be ``None``, as these cannot be cut."""
        none = True
        kept = [(generator, generator.get_state()) for generator in _generators(self.source)]
        try:
            for batch in self.source:
                none = False
                _refuse_arrays(batch)
                yield batch
        finally:  # a training run that reads the same loader must not notice
            for generator, state in kept:
                generator.set_state(state)
        if none:
            raise DataError("the measured data are empty; an iterator can be read once, pass a list instead.")


Measured: TypeAlias = Rows | Batches


def measured(data: object, *, keep: bool = True) -> Measured:
    """What `lca_torch.Objective` measures on, from the forms data come in.

    Tensors in tuples or mappings, and data sets, are rows. A loader or another iterable of batches is read
    once and kept, as rows if its batches fit together; with ``keep=False`` it is read at every pass.

    Raises
    ------
    DataError
        If there are no data, tensors differ in length, a loader leaves out its last batch, or there are NumPy
        arrays in place of tensors.
    """
    _refuse_arrays(data)
    if isinstance(data, Tensor):
        return _rows(data)
    if isinstance(data, TensorDataset):
        return _rows(data.tensors)
    if isinstance(data, Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        return _rows(collate([data[i] for i in range(len(data))]))  # type: ignore[arg-type]
    if isinstance(data, Mapping) or (isinstance(data, tuple) and any(isinstance(t, Tensor) for t in data)):
        return _rows(data)
    if not isinstance(data, Iterable):
        raise DataError(
            f"measured data must be tensors, a data set, a DataLoader or an iterable of batches, got "
            f"{type(data).__name__}."
        )
    if isinstance(data, DataLoader):
        _check_loader(data)
    if not keep:
        if isinstance(data, Iterator):
            raise DataError("an iterator can be read only once; pass keep=True, or a list or a loader.")
        if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
            raise DataError(
                "with keep=False the loader is read at every pass and has to give the same batches each "
                "time, but it shuffles; measure on one with shuffle=False."
            )
        return Batches(data)
    return joined(list(Batches(data).batches(None)))


def _refuse_arrays(tree: PyTree) -> None:
    for path, leaf in leaves(tree):
        if isinstance(leaf, np.ndarray):
            raise DataError(
                f"the measured data{path} is a NumPy array ({leaf.dtype} {leaf.shape}); models of torch take "
                "tensors: pass torch.as_tensor(array)."
            )


def _check_loader(loader: DataLoader[Any]) -> None:
    sampler: Any = loader.batch_sampler  # the loader's own, or one that was passed
    if getattr(sampler, "drop_last", False) and len(sampler.sampler) % sampler.batch_size:
        raise DataError(
            f"the DataLoader has drop_last=True and would leave out the last of its {len(sampler.sampler)} "
            "examples; measure on a loader with drop_last=False, or on the data set itself."
        )


def _generators(source: object) -> list[torch.Generator]:
    """The generators of its own that reading a `DataLoader` would move on."""
    owners = (source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def _rows(tree: PyTree, suggested: int | None = None) -> Rows:
    lengths = {len(tensor) if tensor.ndim else None for tensor in tensors_in(tree)}
    if len(lengths) != 1 or None in lengths:
        raise DataError(
            f"all tensors of the data need one row an example and one length, got a {describe(tree)}."
        )
    if lengths == {0}:
        raise DataError("the measured data are empty.")
    return Rows(tree, suggested)


def joined(batches: list[PyTree]) -> Measured:
    """One set of rows out of batches, if they agree in structure, dtypes and shapes behind the first axis."""
    if not all(is_rows(batch) and _signature(batch) == _signature(batches[0]) for batch in batches):
        return Batches(batches)
    parts = [iter(tensors_in(batch)) for batch in batches]
    whole = tree_map(lambda _: torch.cat([next(part) for part in parts]), batches[0])
    size, *sizes = [examples_in(batch) for batch in batches]
    regular = all(n == size for n in sizes[:-1]) and all(n <= size for n in sizes)
    return _rows(whole, suggested=size if regular else None)


def is_rows(batch: PyTree) -> bool:
    """Whether all tensors of a batch have one row an example.

    >>> is_rows((torch.zeros(7, 3), torch.zeros(7))), is_rows((torch.zeros(7, 3), torch.zeros(2, 7)))
    (True, False)
    """
    tensors = tensors_in(batch)
    return bool(tensors) and all(t.ndim for t in tensors) and len({len(t) for t in tensors}) == 1


def _signature(batch: PyTree) -> str:
    return repr(tree_map(lambda t: (t.dtype, t.shape[1:]), batch))  # type: ignore[arg-type, return-value]
