"""`ShardedLoss`: a `SharedLoss` of a model whose parameters are spread over the ranks."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lca.arrays import array_ops
from lca.errors import LayoutError, LCAError
from lca.frameworks import PyTree
from lca.objective import State
from lca_torch._distribution import reshard, sharded_modules
from lca_torch._gathering import GatheredParameters
from lca_torch._kinds import is_sharded, local_part
from lca_torch._live import ParameterVector
from lca_torch._parameters import Leaves
from lca_torch._process_group import MeasuringRanks
from lca_torch._replica import Replica
from lca_torch._shard_vector import Block, Shards, ShardVector
from lca_torch._shared_loss import SharedLoss
from lca_torch._state import checksum


class ShardedLoss(SharedLoss):
    """The loss of a model of which each rank holds shards; θ, gradients and allocations are `ShardVector` s.

    How a forward pass uses the shards is the matter of a subclass.

    Parameters
    ----------
    *args, **options
        As of `SharedLoss`.
    """

    takes_shards = True

    def __init__(self, model: nn.Module, *args: Any, ranks: MeasuringRanks, **options: Any) -> None:
        self.ranks, self._modules = ranks, sharded_modules(model)
        _require_plain(options)
        super().__init__(model, *args, ranks=ranks, **options)

    @cached_property
    def shards(self) -> Shards:
        """Which entries of θ each rank holds."""
        blocks = {name: _blocks_of(name, own, self.ranks) for name, own in self._own.items()}
        return Shards(self.layout, blocks, self.ranks)

    def check(self) -> None:
        reshard(self._modules)
        super().check()

    def _theta(self) -> ShardVector:
        return vector_of(self.parameters(), self.shards)

    def _somewhere(self) -> Tensor:
        return self.rearranged(self._theta())

    def rearranged(self, theta: Any) -> ShardVector:
        pieces = self.shards.unflatten(theta.local).values()
        rolled = [piece.reshape(-1).roll(-(piece.numel() // 3)) for piece in pieces]
        return ShardVector(torch.cat(rolled), self.shards)

    def evaluate_each(
        self,
        theta: Tensor,
        groups: Sequence[Iterable[PyTree]],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, Tensor | None]]:
        with self.ranks.exchange.telling():
            return super().evaluate_each(theta, groups, state, gradient=gradient, names=names)

    def own(self, batches: Iterable[PyTree]) -> Iterable[PyTree]:
        raise LCAError(
            "the batches of training are not measured for a sharded model; use lca.Adaptive, "
            "lca.PathIntegral or lca.estimators.SampledPathIntegral."
        )

    def by_example(self, *args: Any, **options: Any) -> Any:
        raise LCAError(
            "a sharded model is not allocated by example; measure an unsharded copy of it, made before it is "
            "sharded."
        )

    def scores(self, theta: Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        raise LCAError(
            "the errors of examples are not available for a sharded model; use sampling='uniform', or "
            "measure an unsharded copy of it, made before it is sharded."
        )

    def _checksum(self, theta: Tensor) -> int:
        """Of the tensors that every rank holds whole."""
        assert isinstance(theta, ShardVector)
        shared = [name for name, own in self._own.items() if not is_sharded(own)]
        tensors = self.shards.unflatten(theta.local)
        return sum(checksum(tensors[name]) for name in shared)

    def _leaves(self, theta: Tensor, wanted: Collection[str], copied: Collection[str] = ()) -> Leaves:
        assert isinstance(theta, ShardVector)
        return _ShardLeaves(theta, wanted)

    @abstractmethod
    def _whole(self, leaf: Tensor, name: str) -> Tensor:
        """What a forward pass gets in place of the shard of a parameter."""

    def _adapt(self, replica: Replica) -> None:
        """Let the modules of a replica gather the parameters that they read."""
        _require_unwritten(replica.model)
        places = dict[int, dict[str, str]]()
        for holder, key, name in replica.slots.of_theta():
            places.setdefault(id(holder), {})[key] = name
        found = set[str]()
        for module in replica.model.modules():
            held: Any = module._parameters
            names = places.pop(id(held), None)
            if names:
                found |= set(names.values())
                module.__dict__["_parameters"] = GatheredParameters(held, names, self._whole)
        if places:
            name = next(iter(next(iter(places.values())).values()))
            raise LayoutError(
                f"parameter {name!r} is also held outside of the parameters of its module (as by nn.RNN, or "
                "in a list or an attribute), where it cannot be gathered; measure an unsharded copy of the "
                "model, made before it is sharded."
            )
        missing = sorted(self._own.keys() - found)
        if missing:
            raise LayoutError(
                f"parameter {missing[0]!r} is whole at the moment; measure outside of the forward and "
                "backward pass of training."
            )


class _ShardLeaves(Leaves):
    """The shards of this rank as leaves of a graph, and their gradient."""

    def __init__(self, theta: ShardVector, wanted: Iterable[str]) -> None:
        local: Any = theta.shards  # divides a vector as a layout does
        super().__init__(theta.local, local, wanted, device=theta.device)
        self._shards, self._at_once = theta.shards, False  # the weight of each rank belongs into its sum

    def take_mean(self, weight: float) -> Tensor:
        return ShardVector(super().take_mean(weight), self._shards)


def vector_of(parameters: Sequence[Tensor], shards: Shards) -> ShardVector:
    """The numbers of parameters, in the order of the layout, as a new vector."""
    with torch.inference_mode(False), torch.no_grad():
        pieces = [part.reshape(-1) for part in _local_parts(parameters, shards)]
        return ShardVector(torch.cat(pieces), shards)


def _local_parts(parameters: Sequence[Tensor], shards: Shards) -> list[Tensor]:
    """What this rank holds of the parameters, in the order of the local vector."""
    named = dict(zip(shards.layout.names, parameters, strict=True))
    return [local_part(named[name]).detach() for name in shards.names]


def _blocks_of(name: str, parameter: Any, ranks: MeasuringRanks) -> list[Block]:
    """The blocks of a parameter that the ranks hold.

    Raises
    ------
    LayoutError
        If they do not divide the tensor into ranges along its axes, among just these ranks.
    """
    shape = tuple(parameter.shape)
    if not is_sharded(parameter):
        return [Block((0,) * len(shape), shape, counted=rank == 0) for rank in range(ranks.count)]
    mesh = parameter.device_mesh.mesh
    members = torch.distributed.get_process_group_ranks(ranks.group)
    if sorted(mesh.reshape(-1).tolist()) != sorted(members):
        raise LayoutError(
            f"parameter {name!r} is sharded over the ranks {mesh.reshape(-1).tolist()}, and the ranks that "
            f"measure are {members}; pass process_group= of the ranks over which the model is sharded."
        )
    blocks = []
    for member in members:
        offset, size, counted = [0] * len(shape), list(shape), True
        for place, parts, placement in zip(
            (mesh == member).nonzero()[0].tolist(), mesh.shape, parameter.placements, strict=True
        ):
            if type(placement).__name__ == "Shard" and size[placement.dim] == shape[placement.dim]:
                axis, length = placement.dim, shape[placement.dim]
                chunk = -(-length // parts)
                offset[axis] = min(place * chunk, length)
                size[axis] = min(chunk, length - offset[axis])
            elif placement.is_replicate():
                counted = counted and place == 0
            else:
                raise _unknown(name, parameter)
        blocks.append(Block(tuple(offset), tuple(size), counted))
    if blocks[ranks.rank].shape != tuple(local_part(parameter).shape):
        raise _unknown(name, parameter)
    return blocks


def _unknown(name: str, parameter: Any) -> LayoutError:
    return LayoutError(
        f"parameter {name!r} is divided as {parameter.placements}, which is not followed; measure an "
        "unsharded copy of the model, made before it is sharded."
    )


def _require_plain(options: Mapping[str, Any]) -> None:
    """Refuse options that are not offered for sharded models."""
    given = {
        "compile=True": options.get("compile"),
        "precision=": options.get("precision") is not None,
        "vectors='host'": options.get("vectors") == "host",
    }
    for option, wanted in given.items():
        if wanted:
            raise LCAError(f"{option} is not available for a sharded model; omit it.")


def _require_unwritten(model: nn.Module) -> None:
    """Refuse modules that write into their parameters in a forward pass."""
    for name, module in model.named_modules():
        if getattr(module, "max_norm", None) is not None:
            raise LCAError(
                f"{name} ({type(module).__name__} with max_norm) changes its parameter in place, so the loss "
                "is not a differentiable function of theta; take max_norm out."
            )


def shards_of(losses: Sequence[Any]) -> Shards | None:
    """The shards that the losses of a run are measured on; ``None`` if they are those of an unsharded copy.

    Raises
    ------
    LCAError
        If some are of the one and some of the other.
    """
    sharded = [loss for loss in losses if isinstance(loss, ShardedLoss)]
    if 0 < len(sharded) < len(losses):
        raise LCAError(
            "some of the losses are of the sharded model, and others of an unsharded copy; make all of "
            "them from one of the two."
        )
    return sharded[0].shards if sharded else None


class LiveShards:
    """`lca.tracking.LiveTheta` of sharded parameters: the shards of this rank.

    Parameters
    ----------
    parameters
        The parameters in the order of θ.
    shards
        Which entries of θ each rank holds.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], shards: Shards) -> None:
        self._parameters, self._shards = parameters, shards

    def copy(self) -> ShardVector:
        return vector_of(self._parameters, self._shards)

    def borrow(self) -> ShardVector:
        return ShardVector(ParameterVector(_local_parts(self._parameters, self._shards)), self._shards)

    def persist(self, borrowed: ShardVector, memory: ShardVector) -> ShardVector:
        assert isinstance(borrowed.local, ParameterVector)
        return ShardVector(borrowed.local.persist(memory.local), self._shards)

    def is_at(self, theta: ShardVector) -> bool:
        return array_ops(theta).equal(self.copy(), theta)
