"""`TorchOps`: the array operations for torch tensors, with sums in float64 on the tensor's own device."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import mul
from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import dasum, sasum
from torch import Tensor

from lca.arrays import ArrayOps, Slices, WeightedProducts, WeightedVectors, array_ops
from lca_torch._live import ParameterVector, VersionedTensor, flat

_BLAS = {torch.float32: sasum, torch.float64: dasum}
_CPU_BLOCK, _DEVICE_BLOCK = 2**16, 2**24
"""Entries a reduction works on at a time: on a CPU a few blocks fit the cache; elsewhere one launch is one
block of 64 MiB. Either way no temporary has length K."""


class TorchOps(ArrayOps):
    """`lca.arrays.ArrayOps` for torch tensors; on a CPU, the reductions are NumPy's, in the tensor's memory.

    Each returned scalar waits for the device once.

    >>> TorchOps().abs_total(torch.tensor([1.0, -2.0]))
    3.0
    """

    def total(self, vector: Tensor) -> float:
        return _sum(part.sum(dtype=torch.float64) for (part,) in _blocks(vector))

    def abs_total(self, vector: Tensor) -> float:
        return _sum(_abs_total(part) for (part,) in _blocks(vector))

    def between(self, start: Tensor, end: Tensor, s: float) -> Tensor:
        point = torch.empty_like(start)
        for into, a, b in _blocks(point, start, end):
            torch.lerp(a, b, s, out=into)
        return point

    def movement_sums(self, weighted: WeightedVectors, start: Tensor, end: Tensor) -> tuple[float, float]:
        signed, absolute = _movement_sums(weighted, start, end).tolist()
        return signed, absolute

    def movement_sums_each(
        self, combinations: Sequence[WeightedVectors], start: Tensor, end: Tensor
    ) -> list[tuple[float, float]]:
        found = torch.stack([_movement_sums(weighted, start, end) for weighted in combinations]).tolist()
        return [(signed, absolute) for signed, absolute in found]

    def times_movement(self, vector: Tensor, start: Tensor, end: Tensor) -> Tensor:
        for v, a, b in _blocks(vector, start, end):
            v.mul_(b - a)
        return vector

    def products_sum(
        self, weighted: WeightedProducts, start: Tensor, end: Tensor, *, overwrite: bool = False
    ) -> tuple[Tensor, float]:
        weights, vectors, factors = zip(*weighted, strict=True)
        given = [factor for factor in factors if factor is not None]
        total = factors[0] if overwrite and factors[0] is not None else torch.empty_like(vectors[0])
        last = max([k for k, factor in enumerate(factors) if factor is None], default=-1)
        of_step = () if last < 0 else (start, end)
        sizes: list[tuple[float, Any]] = []
        for into, *parts in _blocks(total, *vectors, *given, *of_step):
            own = iter(parts[len(weights) :])
            movement = torch.sub(parts[-1], parts[-2], out=None if last else into) if of_step else into
            for k, (weight, vector) in enumerate(zip(weights, parts, strict=False)):
                other = movement if factors[k] is None else next(own)
                # The movement is used once more than its last product in none.
                into_factor = k == last or (overwrite and factors[k] is not None)
                product = torch.mul(vector, other, out=other if into_factor else None if k else into)
                sizes.append((abs(weight), _abs_sum(product)))
                if k:
                    into.add_(product, alpha=weight)
                elif weight != 1:
                    into.mul_(weight)
        return total, _weighted_sum(sizes)

    def scaled(self, vector: Tensor, factor: float) -> Tensor:
        return vector.mul_(factor)

    def add_scaled(self, total: Tensor, factor: float, vector: Tensor) -> Tensor:
        return total.add_(vector, alpha=factor)

    def all_finite(self, vector: Tensor) -> bool:
        return bool(torch.isfinite(vector).all().item())

    def eps(self, vector: Tensor) -> float:
        return float(torch.finfo(vector.dtype).eps)

    def vector(self, array: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)

    def to_numpy(self, array: Tensor | np.ndarray) -> np.ndarray:
        if isinstance(array, np.ndarray):
            return array
        array = array.detach().cpu()
        small = array.dtype in (torch.bfloat16, torch.float16)  # NumPy has no bfloat16, and no fast float16
        numbers: np.ndarray = (array.float() if small else array).numpy()
        return numbers

    def equal(self, a: Tensor, b: Tensor) -> bool:
        if type(a) is not type(b) or (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return False
        return torch.equal(a, b) or (a.is_floating_point() and torch.equal(_numbers(a), _numbers(b)))

    def moved(self, start: Tensor, end: Tensor, parts: Sequence[slice]) -> list[bool]:
        if not parts:
            return []
        pairs = zip(_cut(start, parts), _cut(end, parts), strict=True)
        flags: list[bool] = torch.stack([(a != b).any() for a, b in pairs]).tolist()
        return flags

    def snapshot(self, vector: Tensor) -> object:
        # torch counts changes in place, so nothing is copied. Writes through ``.data`` it does not count.
        return vector if isinstance(vector, ParameterVector) else VersionedTensor.of(vector)

    def unchanged(self, snapshot: object, vector: Tensor) -> bool:
        if isinstance(snapshot, ParameterVector):
            snapshot = snapshot.persisted
        return isinstance(snapshot, VersionedTensor) and snapshot.holds(vector)


class TorchDeviceOps(TorchOps):
    """`TorchOps` with the reductions on the tensor's own device, which must support float64.

    >>> TorchDeviceOps().sums(torch.arange(6.0), [Slices(0, 1, 2, 2), Slices(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    def size(self, vector: Tensor) -> int:
        return vector.numel()

    def sums(self, vector: Tensor, slices: Sequence[Slices]) -> np.ndarray:
        parts = (vector.detach()[part.start : part.stop].view(part.shape) for part in slices)
        return self.to_numpy(torch.cat([piece.sum((0, 2), dtype=torch.float64) for piece in parts]))

    def sums_and_signs(self, vector: Tensor, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
        found = self.to_numpy(_sums_and_signs(vector, slices))
        return found[0], found[1:].astype(np.int64)

    def magnitudes(self, vector: Tensor, edges: np.ndarray) -> np.ndarray:
        return self.to_numpy(_magnitudes(vector, edges)).reshape(2, -1)

    def sums_signs_and_magnitudes(
        self, vector: Tensor, slices: Sequence[Slices], edges: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of_slices, bins = _sums_and_signs(vector, slices), _magnitudes(vector, edges)
        found = self.to_numpy(torch.cat([of_slices.reshape(-1), bins]))  # counts are exact in float64
        sums, *signs = found[: of_slices.numel()].reshape(3, -1)
        counts = found[of_slices.numel() :].reshape(2, -1)
        return sums, np.array(signs).astype(np.int64), counts.astype(np.int64)

    def take(self, vector: Tensor, positions: np.ndarray) -> np.ndarray:
        return self.to_numpy(vector.detach()[torch.as_tensor(positions, device=vector.device)])

    def extremes(self, vector: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        smallest, largest = (torch.topk(vector.detach(), k, largest=large).indices for large in (False, True))
        return self.to_numpy(smallest), self.to_numpy(largest)

    def products(self, basis: Tensor, vector: Tensor) -> np.ndarray:
        total = torch.zeros(len(basis), dtype=torch.float64, device=vector.device)
        size = max(1, _DEVICE_BLOCK // len(basis))
        for directions, part in zip(
            torch.split(basis, size, dim=1), torch.split(vector.detach(), size), strict=True
        ):
            total += directions.to(torch.float64) @ part.to(torch.float64)
        return self.to_numpy(total)

    def native(self, array: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(array, device=like.device)

    def accumulated(self, total: Tensor | None, vector: Tensor) -> Tensor:
        return vector.detach().to(torch.float64, copy=True) if total is None else total.add_(vector.detach())

    def signs(self, vector: Tensor) -> Tensor:
        return vector.detach().sign().to(torch.int8)

    def changes(self, counts: Tensor, last: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        counts += last * signs < 0
        return counts, torch.where(signs != 0, signs, last)

    def ratio(self, vector: Tensor, divisor: Tensor) -> Tensor:
        return torch.where(divisor != 0, vector.detach() / divisor, 0.0)


def _blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The vectors in pieces: cut every so often, and where a long parameter ends.

    Short parameters that follow on each other are put together, as each piece costs some calls. Pieces of
    flat vectors are views, to be written to.
    """
    most = block_size(vectors[0])
    scattered = [vector for vector in vectors if type(vector) is ParameterVector]
    if not scattered and vectors[0].numel() <= 2 * most:  # as often for small models
        yield vectors
        return
    runs = runs_of(scattered[0].sizes if scattered else [len(vectors[0])], most)
    for parts in zip(*(_parts(vector, runs) for vector in vectors), strict=True):
        yield from zip(*(torch.split(part, most) for part in parts), strict=True)


def block_size(vector: Tensor) -> int:
    """How many entries are worked on at a time, on the device of this vector."""
    return _CPU_BLOCK if vector.device.type == "cpu" else _DEVICE_BLOCK


def runs_of(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Sizes one after another, as many together as stay within ``most``.

    >>> runs_of([2, 1, 9, 1, 1], 4)
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


def _cut(vector: Tensor, parts: Sequence[slice]) -> Iterable[Tensor]:
    """These parts of a vector; a part that is one piece of a `ParameterVector` is not copied."""
    if isinstance(vector, ParameterVector):
        ends = np.cumsum(vector.sizes).tolist()
        places = {(end - size, end): i for i, (size, end) in enumerate(zip(vector.sizes, ends, strict=True))}
        if all((part.start, part.stop) in places for part in parts):
            return (vector.pieces[places[part.start, part.stop]].reshape(-1) for part in parts)
        vector = vector.flat()
    return (vector.detach()[part] for part in parts)


def _numbers(tensor: Tensor) -> Tensor:
    """The tensor with its NaN, which equal nothing, replaced; and where they were."""
    return torch.stack([tensor.nan_to_num(0.0, torch.inf, -torch.inf), tensor.isnan().to(tensor.dtype)])


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0].reshape(-1) if len(pieces) == 1 else flat(pieces)


def _movement_sums(weighted: WeightedVectors, start: Tensor, end: Tensor) -> Tensor:
    """`ArrayOps.movement_sums` as a tensor (2,), without synchronising host and device."""
    weights, vectors = zip(*weighted, strict=True)
    sums: list[Tensor] = []
    for a, b, first, *rest in _blocks(start, end, *vectors):
        part = weights[0] * first
        for weight, other in zip(weights[1:], rest, strict=True):
            part.add_(other, alpha=weight)
        part.mul_(b - a)
        sums += [part.sum(dtype=torch.float64), part.abs_().sum(dtype=torch.float64)]
    return torch.stack(sums).view(-1, 2).sum(0)


def _sums_and_signs(vector: Tensor, slices: Sequence[Slices]) -> Tensor:
    """The sum of each slice and its numbers of negative and positive entries, shape (3, sums).

    In float64, which represents the counts exactly.
    """
    pieces = [vector.detach()[part.start : part.stop].view(part.shape) for part in slices]
    sums = torch.cat([piece.sum((0, 2), dtype=torch.float64) for piece in pieces])
    below = torch.cat([(piece < 0).sum((0, 2)) for piece in pieces])
    above = torch.cat([(piece > 0).sum((0, 2)) for piece in pieces])
    return torch.stack([sums, below, above])


def _magnitudes(vector: Tensor, edges: np.ndarray) -> Tensor:
    """`ArrayOps.magnitudes` as integers in one row, without synchronising host and device."""
    columns = len(edges) + 1
    limits = torch.as_tensor(edges, device=vector.device)
    counts = torch.zeros(2 * columns + 1, dtype=torch.int64, device=vector.device)
    for part in torch.split(vector.detach(), _DEVICE_BLOCK):
        bins = torch.bucketize(part.abs().to(torch.float64), limits, right=True)
        bins += columns * (part > 0)
        bins.masked_fill_(part == 0, 2 * columns)
        counts += torch.bincount(bins, minlength=len(counts))
    return counts[:-1]


def _abs_total(vector: Tensor) -> Tensor:
    return vector.abs().sum(dtype=torch.float64)  # not vector_norm, which adds up one by one: 40 eps in 2^16


def _abs_sum(product: Tensor) -> Any:
    """``Σ|p|`` in the dtype of p if that is precise enough: on a CPU a number, elsewhere a tensor."""
    if product.is_cpu and product.dtype in _BLAS:
        return _BLAS[product.dtype](product.numpy())  # reads it once, and writes nothing
    precise = product.dtype in (torch.float32, torch.float64)
    return product.abs().sum(dtype=None if precise else torch.float64)


def _weighted_sum(sizes: Sequence[tuple[float, Any]]) -> float:
    """``Σ w s`` of numbers, or of tensors on one device, which is waited for once."""
    weights, sums = zip(*sizes, strict=True)
    if isinstance(sums[0], Tensor):
        sums = tuple(torch.stack(sums).tolist())
    return math.fsum(map(mul, weights, sums))


def _sum(parts: Iterator[Tensor]) -> float:
    # One by one: a list of all would keep every block's memory from being used for the next one.
    return float(reduce(torch.add, parts).item())


_CPU, _DEVICE = TorchOps(), TorchDeviceOps()
# Apple's GPUs have no float64, so their vectors are copied to the CPU.
array_ops.register(Tensor, lambda vector: _CPU if vector.device.type in ("cpu", "mps") else _DEVICE)
