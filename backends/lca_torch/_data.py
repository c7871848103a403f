"""Reads the measured data from tensors, a data set, a ``DataLoader`` or other batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
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
    tree_leaves,
    tree_map,
)


class TorchTensorOps(TensorOps):
    """`lca.frameworks.TensorOps` for torch; everything stays on the tensor's device.

    >>> TorchTensorOps().dtype(torch.zeros(1)), TorchTensorOps().take(torch.arange(3), np.array([2, 0]))
    ('float32', tensor([2, 0]))
    """

    def dtype(self, tensor: Tensor) -> str:
        return str(tensor.dtype).removeprefix("torch.")

    def take(self, tensor: Tensor, index: np.ndarray) -> Tensor:
        return tensor[torch.as_tensor(index, device=tensor.device)]

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def finite_rows(self, tensor: Tensor) -> np.ndarray:
        finite = torch.isfinite(tensor).reshape(len(tensor) if tensor.ndim else 1, -1).all(1)
        found: np.ndarray = finite.cpu().numpy()
        return found


_OPS = TorchTensorOps()
tensor_ops.register(Tensor, lambda tensor: _OPS)


def measured(data: object, device: torch.device, *, keep: bool = True) -> Measured:
    """The data that `lca_torch.Objective` measures on, from any form that it accepts.

    Tensors in tuples or mappings, and data sets, are rows, moved to ``device`` once. A loader or another
    iterable of batches is read once and kept, as rows if its batches fit together; with ``keep=False`` it is
    read at every pass.

    Raises
    ------
    DataError
        If there are no data, tensors differ in length, a loader drops its last batch, or there are NumPy
        arrays in place of tensors.
    """
    found = _read(data, keep=keep)
    if isinstance(found, Rows):
        return Rows(tree_map(lambda tensor: tensor.to(device), found.tree), found.came_in)
    return found


def refuse_arrays(batch: PyTree) -> PyTree:
    """``batch``, or a `DataError` that names the NumPy array in it."""
    for path, leaf in tree_leaves(batch):
        if isinstance(leaf, np.ndarray):
            raise DataError(
                f"the measured data{path} is a NumPy array ({leaf.dtype} {leaf.shape}); torch models take "
                "tensors: pass torch.as_tensor(array)."
            )
    return batch


def _read(data: object, *, keep: bool) -> Measured:
    refuse_arrays(data)
    if isinstance(data, TensorDataset):
        return all_rows(data.tensors)
    if isinstance(data, Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        return all_rows(collate([data[i] for i in range(len(data))]))  # type: ignore[arg-type]
    if isinstance(data, Tensor | Mapping) or (
        isinstance(data, tuple) and any(isinstance(entry, Tensor) for entry in data)
    ):
        return all_rows(data)
    if not isinstance(data, Iterable):
        raise DataError(
            "the measured data must be tensors, a data set, a DataLoader or an iterable of batches, got "
            f"{type(data).__name__}."
        )
    if isinstance(data, DataLoader):
        _check_loader(data, keep=keep)
    generators = _generators(data)
    return read_batches(_Undisturbed(data, generators) if generators else data, refuse_arrays, keep=keep)


def _check_loader(loader: DataLoader[Any], *, keep: bool) -> None:
    sampler: Any = loader.batch_sampler  # the loader's own, or one that was passed
    if getattr(sampler, "drop_last", False) and len(sampler.sampler) % sampler.batch_size:
        raise DataError(
            f"the DataLoader has drop_last=True and would omit the last of its {len(sampler.sampler)} "
            "examples; measure on a loader with drop_last=False, or on the data set itself."
        )
    if not keep and isinstance(loader.sampler, RandomSampler):
        raise DataError(
            "with keep=False the loader is read at every pass and has to give the same batches each time, "
            "but it shuffles; measure on one with shuffle=False."
        )


@dataclass(frozen=True)
class _Undisturbed(Iterable[PyTree]):
    """Batches of a loader; its generators go on as if it had not been read, for training may read it too."""

    source: Iterable[PyTree]
    generators: Sequence[torch.Generator]

    def __iter__(self) -> Iterator[PyTree]:
        states = [generator.get_state() for generator in self.generators]
        try:
            yield from self.source
        finally:
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)


def _generators(source: object) -> list[torch.Generator]:
    """The generators of its own that reading a `DataLoader` would advance."""
    owners = (source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]
