"""θ as a torch tensor: the reductions that the engine needs, summed in float64 on the tensor's own device."""

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from lca.vectors import Weighted, vector_ops
from lca_torch.live import Moment, ParameterVector, flat

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
        point = torch.empty_like(start)
        for into, a, b in _blocks(point, start, end):
            torch.lerp(a, b, s, out=into)
        return point

    def movement_sums(self, weighted: Weighted, start: Tensor, end: Tensor) -> tuple[float, float]:
        weights, vectors = zip(*weighted, strict=True)
        sums: list[Tensor] = []
        for a, b, first, *rest in _blocks(start, end, *vectors):
            part = weights[0] * first
            for weight, other in zip(weights[1:], rest, strict=True):
                part.add_(other, alpha=weight)
            part.mul_(b - a)
            sums += [part.sum(dtype=torch.float64), part.abs_().sum(dtype=torch.float64)]
        signed, absolute = torch.stack(sums).view(-1, 2).sum(0).tolist()
        return signed, absolute

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

    def snapshot(self, vector: Tensor) -> object:
        # torch counts changes in place, so nothing is copied. Writes through ``.data`` it does not count.
        return vector if isinstance(vector, ParameterVector) else Moment.of(vector)

    def unchanged(self, snapshot: object, vector: Tensor) -> bool:
        if isinstance(snapshot, ParameterVector):
            snapshot = snapshot.kept
        return isinstance(snapshot, Moment) and snapshot.holds(vector)


def _blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The vectors in pieces: cut every so often, and where a long parameter ends.

    Short parameters that follow on each other are put together, as each piece costs some calls. Pieces of
    flat vectors are views, to be written to.
    """
    most = _CPU_BLOCK if vectors[0].device.type == "cpu" else _DEVICE_BLOCK
    scattered = [vector for vector in vectors if isinstance(vector, ParameterVector)]
    runs = _runs(scattered[0].sizes if scattered else [len(vectors[0])], most)
    for parts in zip(*(_parts(vector, runs) for vector in vectors), strict=True):
        yield from zip(*(torch.split(part, most) for part in parts), strict=True)


def _runs(sizes: list[int], most: int) -> list[list[int]]:
    """Sizes one after another, as many together as stay within ``most``.

    >>> _runs([2, 1, 9, 1, 1], 4)
    [[2, 1], [9], [1, 1]]
    """
    runs: list[list[int]] = [[]]
    length = 0
    for size in sizes:
        if runs[-1] and length + size > most:
            runs.append([])
            length = 0
        runs[-1].append(size)
        length += size
    return runs


def _parts(vector: Tensor, runs: list[list[int]]) -> Iterable[Tensor]:
    if isinstance(vector, ParameterVector):
        pieces = iter(vector.pieces)
        return (_joined([next(pieces) for _ in run]) for run in runs)
    parts: Iterable[Tensor] = vector.detach().split([sum(run) for run in runs])  # type: ignore[no-untyped-call]
    return parts


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0].reshape(-1) if len(pieces) == 1 else flat(pieces)


def _abs_sum(vector: Tensor) -> Tensor:
    return vector.abs().sum(dtype=torch.float64)  # not vector_norm, which adds up one by one: 40 eps in 2^16


def _sum(parts: Iterator[Tensor]) -> float:
    # One by one: a list of all would keep every block's memory from being used for the next one.
    return float(reduce(torch.add, parts).item())


_OPS = TorchOps()
vector_ops.register(Tensor, lambda vector: _OPS)
