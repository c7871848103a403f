"""`Gathering`: whole parameters of a sharded model, each when a forward or backward pass reads it."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.multiprocessing.reductions import StorageWeakRef

from lca.errors import LCAError
from lca_torch._division import Division, Form
from lca_torch._kinds import local_part
from lca_torch._process_group import MeasuringRanks
from lca_torch._reads import STANDS_FOR
from lca_torch._transfers import Transfers

_FIRST = 256
"""Numbers of a shard that travel together with the number of the parameter."""


class Gathering:
    """Gathers parameters from the shards of the ranks, and sums gradients into the shards.

    Every rank must read the same parameters in the same order, as with FSDP itself. The number of the
    parameter is exchanged before it, so that others than expected are noticed.

    Parameters
    ----------
    division
        Which ranks gather from each other, and what each of them holds. A rank that gathers from no other
        takes its own shards.
    ranks
        All ranks that measure.

    Attributes
    ----------
    transfers
        The transfers of this rank.
    parts
        By how many the summed gradients are divided: 1 if each team evaluates other batches, and the number
        of teams if each evaluates all.
    """

    def __init__(self, division: Division, ranks: MeasuringRanks) -> None:
        self._division, self.transfers = division, Transfers(division.column, ranks)
        self._numbers = {name: i for i, name in enumerate(division.blocks)}
        self._first = min(_FIRST, max(block.size for each in division.blocks.values() for block in each))
        self._live: dict[int, _Known] = {}
        self.parts = division.teams

    def whole(self, leaf: Tensor, name: str) -> Tensor:
        """The tensor that a layer reads; its gradient arrives in ``leaf``, the shard of this rank."""
        if self._division.teams == 1:
            return leaf
        made: Tensor = _Gathered.apply(leaf, self, name)  # type: ignore[no-untyped-call]
        made.__dict__ = leaf.__dict__  # such as the mark of a parameter
        self._live = {key: known for key, known in self._live.items() if not known.is_gone}
        self._live[made.untyped_storage()._cdata] = _Known(made, leaf.detach(), name)
        return made

    def saving(self) -> AbstractContextManager[Any]:
        """Inside, a graph holds no whole parameters; they are gathered again in the backward pass."""
        hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        return hooks  # type: ignore[no-any-return]

    def gather(self, local: Tensor, name: str) -> Tensor:
        """The tensor of this name from the shards of the ranks, a new one."""
        blocks, shape = self._division.blocks[name], self._division.frames[name].shape
        if all(block.shape == shape for block in blocks):
            return local.clone()
        own, most = local.reshape(-1), max(block.size for block in blocks)
        rows = self._first_rows(own, self._numbers[name], name)
        if most > self._first:
            rest = own.new_zeros(most - self._first)
            rest[: max(0, len(own) - self._first)] = own[self._first :]
            others = self._exchanged(rest)
            rows = [torch.cat(pair) for pair in zip(rows, others, strict=True)]
        whole = local.new_empty(shape)
        for block, row in zip(blocks, rows, strict=True):
            whole[block.places] = row[: block.size].view(block.shape)
        return whole

    def reduce(self, grad: Tensor, name: str) -> Tensor:
        """The shard of this rank of the sum of the gradients of the ranks."""
        self._first_rows(grad.new_zeros(0), len(self._numbers) + self._numbers[name], name)
        total = grad.contiguous().clone()
        self._run(torch.distributed.all_reduce, total)
        return total[self._division.blocks[name][self._division.team].places].div(self.parts)

    def _first_rows(self, own: Tensor, number: int, name: str) -> list[Tensor]:
        """The first entries of all ranks, after checking that all begin the same transfer.

        These rows have one length for all parameters: if transfers of different lengths met, torch would end
        the process.
        """
        row = own.new_zeros(1 + self._first)
        row[0], row[1 : 1 + len(own)] = number, own[: self._first]
        rows = self._exchanged(row)
        if any(int(other[0]) != number for other in rows):
            raise self.transfers.refuse(
                f"the ranks read different parameters at the same time: this one {name!r}. A sharded model "
                "must read the same parameters in the same order, whatever the batch; measure an unsharded "
                "copy of it, made before it is sharded."
            )
        return [other[1:] for other in rows]

    def _exchanged(self, row: Tensor) -> list[Tensor]:
        rows = [torch.empty_like(row) for _ in range(self._division.teams)]
        self._run(torch.distributed.all_gather, rows, row)
        return rows

    def _run(self, collective: Callable[..., Any], *tensors: Any) -> None:
        group = self.transfers.group
        self.transfers.run(lambda: collective(*tensors, group=group, async_op=True))

    def _pack(self, tensor: Tensor) -> Any:
        detached = tensor.detach()
        local = local_part(detached)
        if type(local) is Tensor and local.layout is torch.strided:
            known = self._live.get(local.untyped_storage()._cdata)
            if known is not None and not known.is_gone:
                place = local.shape, local.stride(), int(local.storage_offset())
                return _Saved(known.leaf, known.name, *place, Form.of(detached))
        return detached, detached._version

    def _unpack(self, saved: Any) -> Tensor:
        if isinstance(saved, _Saved):
            whole = self.gather(saved.leaf, saved.name)
            local = whole.as_strided(saved.shape, saved.stride, saved.offset)
            return local if saved.form is None else saved.form.around(local)
        tensor, version = saved
        if tensor._version != version:
            raise RuntimeError(
                "a tensor that the backward pass needs has been modified in place by the forward pass"
            )
        found: Tensor = tensor
        return found


class _Known:
    """Which parameter a whole tensor is, as long as its memory is in use."""

    def __init__(self, whole: Tensor, leaf: Tensor, name: str) -> None:
        # As long as this weak reference exists, no other storage gets the same number.
        self._reference: Any = StorageWeakRef(whole.untyped_storage())  # type: ignore[no-untyped-call]
        self.leaf, self.name = leaf, name

    @property
    def is_gone(self) -> bool:
        return bool(self._reference.expired())


class _Saved(NamedTuple):
    """Stands in a graph for a gathered parameter, or a view of one."""

    leaf: Tensor
    name: str
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    form: Form | None


class _Gathered(torch.autograd.Function):
    """A whole parameter as a function of the shards."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, gathering: Gathering, name: str) -> Tensor:
        ctx.gathering, ctx.name = gathering, name
        return gathering.gather(leaf, name)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gathering.reduce(grad, ctx.name), None, None


class GatheredParameters(MutableMapping[str, Any]):
    """Replaces the dictionary of parameters of a module: reading a parameter gives the whole one.

    Parameters
    ----------
    held
        The dictionary itself, with the shards of this rank.
    names
        The names in θ of its parameters.
    whole
        Makes a whole parameter from the shard and the name.
    """

    def __init__(
        self,
        held: dict[str, Any],
        names: Mapping[str, str],
        whole: Callable[[Tensor, str], Tensor],
    ) -> None:
        self._held, self._names, self._whole = held, names, whole

    def __getitem__(self, key: str) -> Any:
        held = self._held[key]
        if key not in self._names:
            return held
        made = self._whole(held, self._names[key])
        made.__dict__[STANDS_FOR] = self._names[key]
        return made

    def __setitem__(self, key: str, value: Any) -> None:
        raise LCAError(
            f"the forward pass replaces the parameter {key!r} of a module, which is not followed for a "
            "sharded model; measure an unsharded copy of it, made before it is sharded."
        )

    __delitem__ = __setitem__  # type: ignore[assignment]

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
