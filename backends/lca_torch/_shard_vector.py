"""`ShardVector`: a vector (K,) of which each rank holds the entries of its own shards, and its operations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lca.arrays import ArrayOps, Slices, WeightedProducts, WeightedVectors, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca_torch._live import ParameterVector
from lca_torch._process_group import MeasuringRanks

_MESSAGE = 4096
"""Numbers up to which a sum over the ranks travels in the messages themselves."""


@dataclass(frozen=True)
class Block:
    """The part of a tensor that one rank holds: a range along each axis.

    Attributes
    ----------
    offset, shape
        Where the range begins along each axis, and its length, which may be 0.
    counted
        Whether sums over the ranks take these entries from this rank: of several that hold them, one does.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    counted: bool = True

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def places(self) -> tuple[slice, ...]:
        """The index of the block in the tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offset, self.shape, strict=True))

    def within(self, frame: "Block") -> "Block":
        """The same block as a part of a larger one."""
        return replace(self, offset=tuple(np.subtract(self.offset, frame.offset).tolist()))


class Shards:
    """Which entries of θ each rank holds.

    A rank holds its blocks one after another in one local vector: first those that it counts in sums over the
    ranks, then those that it holds for its own evaluations only. It has the attributes of a `lca.Layout` that
    divide a vector into tensors (``names``, ``shapes``, ``sizes``, ``size``, ``unflatten``), for the local
    vector: a local tensor may be empty.

    Parameters
    ----------
    layout
        The layout of θ.
    blocks
        For each tensor of the layout the blocks of all ranks.
    ranks
        The ranks.
    """

    def __init__(self, layout: Layout, blocks: Mapping[str, Sequence[Block]], ranks: MeasuringRanks) -> None:
        self.layout, self.blocks, self.ranks = layout, blocks, ranks
        own = {name: blocks[name][ranks.rank] for name in layout.names}
        self.names = tuple(sorted(layout.names, key=lambda name: not own[name].counted))
        self.own = {name: own[name] for name in self.names}
        self.shapes = tuple(block.shape for block in self.own.values())
        self.sizes = tuple(map(prod, self.shapes))
        self.size = sum(self.sizes)
        self.counted = sum(block.size for block in self.own.values() if block.counted)
        """The entries that this rank counts, which are the first ones of its local vector."""

    def unflatten(self, local: Tensor) -> dict[str, Tensor]:
        """The tensors of a local vector by name."""
        if isinstance(local, ParameterVector) and local.persisted is None:
            return dict(zip(self.names, local.pieces, strict=True))
        parts = local.split(list(self.sizes))  # type: ignore[no-untyped-call]
        named = zip(self.names, parts, self.shapes, strict=True)
        return {name: part.view(shape) for name, part, shape in named}

    def pieces(self, local: Tensor) -> Iterator[tuple[int, Block, Tensor]]:
        """The tensors of a local vector that this rank counts: number in the layout, block and entries."""
        for name, part in self.unflatten(local).items():
            if self.own[name].counted:
                yield self._numbers[name], self.own[name], part

    def positions(self, which: int, block: Block, device: torch.device | None = None) -> Tensor:
        """Where the entries of a block of a tensor are in θ, in the shape of the block."""
        shape, found = self.layout.shapes[which], torch.tensor(self.layout.offsets[which], device=device)
        for axis, (start, size) in enumerate(zip(block.offset, block.shape, strict=True)):
            along = torch.arange(start, start + size, device=device) * prod(shape[axis + 1 :])
            found = found[..., None] + along
        return found

    def held(self, whole: np.ndarray, like: Tensor) -> Tensor:
        """The local vector of a whole one."""
        parts = []
        for name, block in self.own.items():
            which = self._numbers[name]
            start, shape = self.layout.offsets[which], self.layout.shapes[which]
            tensor = whole[start : start + self.layout.sizes[which]].reshape(shape)
            parts.append(torch.as_tensor(tensor[block.places].reshape(-1)))
        return torch.cat(parts).to(like.device, like.dtype)

    def sum(self, numbers: np.ndarray, what: str, device: torch.device) -> np.ndarray:
        """The sum of an array over the ranks in float64; every rank must call it, with the same shape."""
        numbers = np.asarray(numbers, np.float64)
        with self.ranks.exchange.telling():
            if numbers.size <= _MESSAGE:
                told = self.ranks.gather(what, numbers.reshape(-1).tolist())
                summed: np.ndarray = np.array(told, np.float64).sum(axis=0)
            else:
                self.ranks.gather(what, [])
                summed = self.ranks.add(torch.as_tensor(numbers, device=device).clone()).cpu().numpy()
        return summed.reshape(numbers.shape)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.layout.names)}


class ShardVector(Tensor):
    """A vector (K,) of θ's layout, of which this rank holds its shards in ``local``.

    It behaves as a vector of K numbers: `lca.arrays.array_ops` sums over all ranks, and gives the same result
    on each of them. So each rank must make the same calls. Arithmetic between vectors of the same shards
    needs no communication; anything else raises `LCAError`. ``numpy.asarray(vector)`` gathers all K numbers.

    Parameters
    ----------
    local
        The entries that this rank holds, in the order of ``shards``.
    shards
        Which they are.
    """

    local: Tensor
    shards: Shards
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, local: Tensor, shards: Shards) -> "ShardVector":
        made: ShardVector = Tensor._make_wrapper_subclass(
            cls, (shards.layout.size,), dtype=local.dtype, device=local.device
        )
        return made

    def __init__(self, local: Tensor, shards: Shards) -> None:
        self.local, self.shards = local, shards

    @property
    def counted(self) -> Tensor:
        """The entries that this rank counts in sums."""
        return self.local if self.shards.counted == self.shards.size else self.local[: self.shards.counted]

    @property
    def others(self) -> Tensor:
        """The entries that another rank counts."""
        return self.local[self.shards.counted :]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"ShardVector({self.local!r} of {len(self)} numbers)"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(array_ops(self).to_numpy(self), dtype)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if torch.Tag.pointwise not in func.tags and func not in _ENTRY_BY_ENTRY:
            raise LCAError(
                f"{func} of a sharded vector needs entries of other ranks; use the operations of "
                "lca.arrays.array_ops(vector), or numpy.asarray(vector), which gathers it."
            )
        vectors = [value for value in args if isinstance(value, cls)]
        found = func(*(_local(value) for value in args), **(kwargs or {}))
        written = func._schema.is_mutable
        return args[0] if written else cls(found, vectors[0].shards)


_ENTRY_BY_ENTRY = torch.ops.aten.detach.default, torch.ops.aten.clone.default


def _local(value: Any) -> Any:
    return value.local if isinstance(value, ShardVector) else value


class ShardOps(ArrayOps):
    """`lca.arrays.ArrayOps` for a `ShardVector`: those of its local entries, with sums over the ranks."""

    collective = True

    def total(self, vector: ShardVector) -> float:
        return _number(vector, array_ops(vector.local).total(vector.counted), "a total")

    def abs_total(self, vector: ShardVector) -> float:
        own = array_ops(vector.local).abs_total(vector.counted)
        return _number(vector, own, "a total of absolute values")

    def between(self, start: ShardVector, end: ShardVector, s: float) -> ShardVector:
        return ShardVector(array_ops(start.local).between(start.local, end.local, s), start.shards)

    def movement_sums(
        self, weighted: WeightedVectors, start: ShardVector, end: ShardVector
    ) -> tuple[float, float]:
        return self.movement_sums_each([weighted], start, end)[0]

    def movement_sums_each(
        self, combinations: Sequence[WeightedVectors], start: ShardVector, end: ShardVector
    ) -> list[tuple[float, float]]:
        local = [[(weight, vector.counted) for weight, vector in each] for each in combinations]
        found = array_ops(start.local).movement_sums_each(local, start.counted, end.counted)
        sums = _sum(start, found, "the sums of an allocation")
        return [(float(signed), float(absolute)) for signed, absolute in sums]

    def times_movement(self, vector: ShardVector, start: ShardVector, end: ShardVector) -> ShardVector:
        array_ops(vector.local).times_movement(vector.local, start.local, end.local)
        return vector

    def products_sum(
        self,
        weighted: WeightedProducts,
        start: ShardVector,
        end: ShardVector,
        *,
        overwrite: bool = False,
    ) -> tuple[ShardVector, float]:
        def of(part: Callable[[ShardVector], Tensor]) -> tuple[Tensor, float]:
            if not part(start).numel():
                return part(start), 0.0
            local = [(w, part(v), None if factor is None else part(factor)) for w, v, factor in weighted]
            ops = array_ops(start.local)
            found: tuple[Tensor, float] = ops.products_sum(local, part(start), part(end), overwrite=overwrite)
            return found

        values, own = of(lambda vector: vector.counted)
        if start.shards.counted < start.shards.size:
            values = torch.cat([values, of(lambda vector: vector.others)[0]])
        return ShardVector(values, start.shards), _number(start, own, "the mass of a step")

    def scaled(self, vector: ShardVector, factor: float) -> ShardVector:
        return ShardVector(array_ops(vector.local).scaled(vector.local, factor), vector.shards)

    def add_scaled(self, total: ShardVector, factor: float, vector: ShardVector) -> ShardVector:
        return ShardVector(array_ops(total.local).add_scaled(total.local, factor, vector.local), total.shards)

    def all_finite(self, vector: ShardVector) -> bool:
        finite = array_ops(vector.local).all_finite(vector.local)
        return not _number(vector, not finite, "whether all is finite")

    def vector(self, array: np.ndarray, like: ShardVector) -> ShardVector:
        return ShardVector(like.shards.held(array, like.local), like.shards)

    def to_numpy(self, array: ShardVector) -> np.ndarray:
        """All K numbers, which takes memory for them on the host of every rank."""
        if isinstance(array, np.ndarray):
            return array
        shards = array.shards
        whole = np.zeros(shards.layout.size, array_ops(array.local).to_numpy(array.local[:0]).dtype)
        for which, block, part in shards.pieces(array.local):
            places = shards.positions(which, block).reshape(-1).numpy()
            whole[places] = array_ops(array.local).to_numpy(part).reshape(-1)
        return shards.sum(whole, "a whole vector", array.device).astype(whole.dtype)

    def eps(self, vector: ShardVector) -> float:
        return array_ops(vector.local).eps(vector.local)

    def equal(self, a: ShardVector, b: ShardVector) -> bool:
        if type(a) is not type(b) or (a.dtype, a.device) != (b.dtype, b.device):
            return False
        same = array_ops(a.local).equal(a.local, b.local)
        return not _number(a, not same, "whether two vectors are equal")

    def moved(self, start: ShardVector, end: ShardVector, parts: Sequence[slice]) -> list[bool]:
        shards, found = start.shards, np.zeros(len(parts))
        pairs = zip(shards.pieces(start.local), shards.pieces(end.local), strict=True)
        for (which, block, a), (_, _, b) in pairs:
            first, changed = shards.layout.offsets[which], a != b
            for i, part in enumerate(parts):
                if part.start < first + shards.layout.sizes[which] and first < part.stop:
                    places = shards.positions(which, block, a.device)
                    inside = (places >= part.start) & (places < part.stop)
                    found[i] += bool((changed & inside).any().item())
        return [bool(n) for n in _sum(start, found, "which tensors have moved")]

    def snapshot(self, vector: ShardVector) -> object:
        return array_ops(vector.local).snapshot(vector.local)

    def unchanged(self, snapshot: object, vector: ShardVector) -> bool:
        return array_ops(vector.local).unchanged(snapshot, vector.local)

    def size(self, vector: ShardVector) -> int:
        return vector.numel()

    def sums(self, vector: ShardVector, slices: Sequence[Slices]) -> np.ndarray:
        return _sum(vector, _parts(vector, slices)[0], "sums of groups")

    def sums_and_signs(self, vector: ShardVector, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
        found = _sum(vector, _parts(vector, slices, signs=True), "sums and signs of groups")
        return found[0], found[1:].astype(np.int64)

    def magnitudes(self, vector: ShardVector, edges: np.ndarray) -> np.ndarray:
        counts = array_ops(vector.local).magnitudes(vector.counted, edges)
        return _sum(vector, counts, "a histogram").astype(np.int64)

    def take(self, vector: ShardVector, positions: np.ndarray) -> np.ndarray:
        found, wanted = np.zeros(len(positions)), np.asarray(positions)
        layout = vector.shards.layout
        for which, block, part in vector.shards.pieces(vector.local):
            first = layout.offsets[which]
            mine = np.flatnonzero((wanted >= first) & (wanted < first + layout.sizes[which]))
            shape, begin = block.shape or (1,), block.offset or (0,)
            index = np.array(np.unravel_index(wanted[mine] - first, layout.shapes[which] or (1,)))
            local = index - np.array(begin)[:, None]
            inside = ((local >= 0) & (local < np.array(shape)[:, None])).all(0)
            strides = np.array([prod(shape[axis + 1 :]) for axis in range(len(shape))])
            places = (local[:, inside] * strides[:, None]).sum(0)
            found[mine[inside]] = array_ops(vector.local).to_numpy(part).reshape(-1)[places]
        whole = _sum(vector, found, "some entries of a vector")
        return whole.astype(array_ops(vector.local).to_numpy(vector.local[:0]).dtype)

    def extremes(self, vector: ShardVector, k: int) -> tuple[np.ndarray, np.ndarray]:
        shards, k = vector.shards, min(k, vector.numel())
        places = [shards.positions(i, block).reshape(-1) for i, block, _ in shards.pieces(vector.local)]
        positions, values = torch.cat([torch.zeros(0, dtype=torch.int64), *places]), vector.counted.cpu()
        most = min(k, len(values))
        chosen = [torch.topk(values, most, largest=largest).indices for largest in (False, True)]
        own = [[values[index].double().tolist(), positions[index].tolist()] for index in chosen]
        with shards.ranks.exchange.telling():
            told = shards.ranks.gather("the largest entries", own)
        ends = []
        for i, sign in enumerate((1.0, -1.0)):
            size = np.concatenate([np.array(one[i][0], float) for one in told])
            place = np.concatenate([np.array(one[i][1], np.int64) for one in told])
            ends.append(place[np.lexsort((place, sign * size))][:k])
        return ends[0], ends[1]

    def products(self, basis: Tensor, vector: ShardVector) -> np.ndarray:
        own = basis[:, : vector.shards.counted]
        return _sum(vector, array_ops(vector.local).products(own, vector.counted), "projections")

    def native(self, array: np.ndarray, like: ShardVector) -> Any:
        """What this rank holds of a vector (K,); of a basis (n, K), a tensor with a row for each vector."""
        of_dtype = torch.as_tensor(array[:0], device=like.device)
        rows = [like.shards.held(row, of_dtype) for row in np.atleast_2d(array)]
        return ShardVector(rows[0], like.shards) if array.ndim == 1 else torch.stack(rows)

    def accumulated(self, total: ShardVector | None, vector: ShardVector) -> ShardVector:
        if total is None:
            return ShardVector(vector.local.detach().to(torch.float64, copy=True), vector.shards)
        total.local.add_(vector.local)
        return total

    def signs(self, vector: ShardVector) -> ShardVector:
        return ShardVector(vector.local.sign().to(torch.int8), vector.shards)

    def changes(
        self, counts: ShardVector, last: ShardVector, signs: ShardVector
    ) -> tuple[ShardVector, ShardVector]:
        counts.local.add_(last.local * signs.local < 0)
        known = torch.where(signs.local != 0, signs.local, last.local)
        return counts, ShardVector(known, last.shards)

    def ratio(self, vector: ShardVector, divisor: ShardVector) -> ShardVector:
        known = torch.where(divisor.local != 0, vector.local / divisor.local, 0.0)
        return ShardVector(known, vector.shards)


def _number(vector: ShardVector, own: float, what: str) -> float:
    """The sum of one number over the ranks."""
    return float(_sum(vector, [own], what)[0])


def _sum(vector: ShardVector, numbers: Any, what: str) -> np.ndarray:
    return vector.shards.sum(np.asarray(numbers, np.float64), what, vector.device)


def _parts(vector: ShardVector, slices: Sequence[Slices], *, signs: bool = False) -> np.ndarray:
    """What the entries that this rank counts contribute to each sum: sums, and numbers of signs."""
    widths = np.cumsum([0, *(part.width for part in slices)])
    found = np.zeros((3 if signs else 1, int(widths[-1])))
    layout = vector.shards.layout
    for which, block, entries in vector.shards.pieces(vector.local):
        begin = layout.offsets[which]
        end = begin + layout.sizes[which]
        kinds: list[Callable[[], Tensor]] = [lambda e=entries: e.double()]  # type: ignore[misc]
        if signs:
            kinds += [lambda e=entries: (e < 0).double(), lambda e=entries: (e > 0).double()]  # type: ignore[misc]
        for i, part in enumerate(slices):
            if part.start >= end or part.stop <= begin or not entries.numel():
                continue
            into = found[:, widths[i] : widths[i + 1]]
            if part.width == 1 and part.start <= begin and end <= part.stop:
                into += np.array([[kind().sum().item()] for kind in kinds])
                continue
            places = vector.shards.positions(which, block, entries.device).reshape(-1)
            inside = (places >= part.start) & (places < part.stop)
            slot = (places[inside] - part.start) // part.inner % part.width
            weighed = (kind().reshape(-1)[inside] for kind in kinds)
            into += np.array([torch.bincount(slot, w, part.width).cpu().numpy() for w in weighed])
    return found


_OPS = ShardOps()
array_ops.register(ShardVector, lambda vector: _OPS)
