"""θ as a torch tensor: the reductions that the engine needs, summed in float64 on the tensor's own device."""

from collections.abc import Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from lca.vectors import vector_ops

_CPU_BLOCK, _DEVICE_BLOCK = 2**16, 2**24
"""Entries a reduction works on at a time: on a CPU a few blocks fit the cache; elsewhere one launch is one
block of 64 MiB. Either way no temporary has length K."""


class TorchOps:
    """`lca.vectors.VectorOps` for torch tensors. Each scalar that comes back waits for the device once."""

    def total(self, vector: Tensor) -> float:
        return _sum(part.sum(dtype=torch.float64) for (part,) in _blocks(vector))

    def abs_total(self, vector: Tensor) -> float:
        return _sum(_abs_sum(part) for (part,) in _blocks(vector))

    def between(self, start: Tensor, end: Tensor, s: float) -> Tensor:
        return torch.lerp(start, end, s)

    def mass(self, vector: Tensor, start: Tensor, end: Tensor) -> float:
        return _sum(_abs_sum((b - a).mul_(v)) for v, a, b in _blocks(vector, start, end))

    def times_movement(self, vector: Tensor, start: Tensor, end: Tensor) -> Tensor:
        for v, a, b in _blocks(vector, start, end):
            v.mul_(b - a)
        return vector

    def scaled(self, vector: Tensor, factor: float) -> Tensor:
        return vector.mul_(factor)

    def add_scaled(self, total: Tensor, factor: float, vector: Tensor) -> Tensor:
        return total.add_(vector, alpha=factor)

    def all_finite(self, vector: Tensor) -> bool:
        return bool(torch.isfinite(vector).all().item())

    def eps(self, vector: Tensor) -> float:
        return float(torch.finfo(vector.dtype).eps)

    def to_numpy(self, vector: Tensor) -> np.ndarray:
        numbers: np.ndarray = vector.detach().cpu().numpy()
        return numbers

    def snapshot(self, vector: Tensor) -> tuple[Tensor, int]:
        # torch counts changes in place, so nothing is copied. Writes through ``.data`` it does not count.
        return vector, vector._version

    def unchanged(self, snapshot: object, vector: Tensor) -> bool:
        assert isinstance(snapshot, tuple)
        return snapshot[0] is vector and snapshot[1] == vector._version


def _blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = _CPU_BLOCK if vectors[0].device.type == "cpu" else _DEVICE_BLOCK
    return zip(*(torch.split(vector.detach(), size) for vector in vectors), strict=True)


def _abs_sum(vector: Tensor) -> Tensor:
    return vector.abs().sum(dtype=torch.float64)  # not vector_norm, which adds up one by one: 40 eps in 2^16


def _sum(parts: Iterator[Tensor]) -> float:
    # One by one: a list of all would keep every block's memory from being used for the next one.
    return float(reduce(torch.add, parts).item())


_OPS = TorchOps()
vector_ops.register(Tensor, lambda vector: _OPS)
