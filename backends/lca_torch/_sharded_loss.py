"""`ShardedLoss`: a `SharedLoss` of a model whose parameters are spread over the ranks."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lca.arrays import array_ops
from lca.errors import DataError, LayoutError, LCAError
from lca.frameworks import ModelLoss, PyTree, tensors_in, weight_of
from lca.objective import State
from lca_torch._distribution import reshard, sharded_modules
from lca_torch._division import Division
from lca_torch._gathering import GatheredParameters, Gathering
from lca_torch._kinds import local_part
from lca_torch._live import ParameterVector
from lca_torch._parameters import Leaves
from lca_torch._process_group import MeasuringRanks
from lca_torch._replica import Replica
from lca_torch._shard_vector import Shards, ShardVector
from lca_torch._shared_loss import Own, SharedLoss, Work
from lca_torch._state import checksum
from lca_torch._transfers import LayerTransfers


class ShardedLoss(SharedLoss):
    """The loss of a model of which each rank holds shards; θ, gradients and allocations are `ShardVector` s.

    What is evaluated is the model without the hooks of `fully_shard` (FSDP2). Each parameter is gathered when
    the forward pass reads it, and again in the backward pass; gradients are summed into the shards. So a rank
    holds the vectors of its shards, and only those parameters that the current operation needs. It holds them
    whole, or its part of them under tensor parallelism (`parallelize_module`), whose layers keep their own
    hooks, which exchange activations.

    The batches are divided as in `SharedLoss`, among teams: the ranks of one tensor parallel group evaluate
    the same. As each transfer needs every rank, teams with fewer batches evaluate their first one again,
    which counts nothing. A policy of mixed precision belongs to training: the loss is measured in the dtype
    of the shards (``autocast=`` of the objective measures in another).

    All transfers have process groups of their own, also those of the layers: if a rank fails in the middle of
    an evaluation, the others raise its error, and training can go on.

    Parameters
    ----------
    *args, **options
        As of `SharedLoss`.
    """

    takes_shards = True
    meets_in_passes = True

    def __init__(self, model: nn.Module, *args: Any, ranks: MeasuringRanks, **options: Any) -> None:
        self._modules = sharded_modules(model)
        _require_plain(options)
        super().__init__(model, *args, ranks=ranks, **options)
        division = Division(model, self._own, ranks)
        self.teams, self.team, self.leads = division.teams, division.team, division.leads
        self._forms, self._holders = division.forms, division.holders
        self._gathering = Gathering(division, ranks)
        self._layers = LayerTransfers((form.mesh for form in self._forms.values()), ranks)
        self._transfers = [self._gathering.transfers, *self._layers.all]
        self.shards = Shards(self.layout, division.held, ranks)
        """Which entries of θ each rank holds."""

    def share(self, data: Any, batch_size: int | None) -> None:
        super().share(data, batch_size)
        self._gathering.parts = 1

    def batch_weight(self, batch: PyTree) -> float:
        return 0.0 if isinstance(batch, _Idle) else super().batch_weight(batch)

    def _mine(self, batches: Iterable[PyTree], work: Work) -> Iterator[PyTree]:
        """The batches of this team, and as many as any other team has."""
        if isinstance(batches, Own):
            yield from self._of_training(list(batches))
            return
        counts, first = [0] * self.teams, None
        for batch in batches:
            if not weight_of(self, batch):
                continue  # its loss may be NaN: a mean over no tokens
            team = work.team_of(batch)
            counts[team] += 1
            first = batch if first is None else first
            if team == self.team:
                yield batch
        for _ in range(max(counts) - counts[self.team]):
            yield _Idle(first)

    def _of_training(self, pieces: Sequence[PyTree]) -> Iterator[PyTree]:
        """The pieces of a batch that only this team has, and as many as any other team has."""
        weighed = [piece for piece in pieces if weight_of(self, piece)]
        sums = [checksum(tensor) for piece in pieces for tensor in tensors_in(piece)]
        told = self.ranks.gather("a batch of training", [self.team, len(weighed), sums])
        known = dict[int, tuple[int, list[int]]]()
        for rank, (team, number, own) in enumerate(told):
            first, expected = known.setdefault(team, (rank, own))
            if own != expected:
                raise DataError(
                    f"the ranks {first} and {rank} of one tensor-parallel group have different training "
                    "batches; give them the same batch."
                )
            if not number:
                raise DataError(f"the batch of training of rank {rank} has no weight; skip it on all ranks.")
        yield from weighed
        yield from [_Idle(weighed[0])] * (max(number for _, number, _ in told) - len(weighed))

    def _summed(self, gradient: Tensor) -> Tensor:
        """The backward pass has summed over the teams; the weights are counted on every rank of a team."""
        return gradient.mul_(self.ranks.count // self.teams)

    def _evaluated(self, run: Callable[[PyTree], Tensor], batch: PyTree) -> Tensor:
        return run(batch.batch if isinstance(batch, _Idle) else batch)

    def _counts(self, batch: PyTree, weight: float) -> bool:
        return weight != 0 or isinstance(batch, _Idle)

    @contextmanager
    def _modes(self, *, gradients: bool) -> Iterator[None]:
        """Begin an evaluation on all ranks together, so that no transfer waits for a missing rank.

        If a transfer is interrupted, the error of the rank that is the cause is raised.
        """
        for transfers in self._transfers:
            transfers.require_sound()
        self.ranks.gather("an evaluation of a sharded model", None)
        try:
            with (
                super()._modes(gradients=gradients),
                self._gathering.saving(),
                self._layers.in_place(),
            ):
                yield
        except Exception:
            if self._interrupted:
                self.ranks.end(max(self._interrupted))
            raise

    @property
    def _interrupted(self) -> list[float]:
        """How long this rank has waited in transfers that were not finished."""
        return [own.waited for own in self._transfers if own.waited is not None]

    def _tried(self, error: Exception | None) -> None:
        """Raise the error of a forward pass, after which this rank would go on, unless all ranks have one."""
        if error is not None and self._interrupted:
            raise error
        try:
            self.ranks.end(None if error is None else f"{type(error).__name__}: {error}")
        except LCAError:
            if error is not None:
                raise error  # noqa: B904 - the other error is that of the ranks that wait for this one
            raise

    def _taken(self, leaf: Tensor, name: str) -> Tensor:
        """What a forward pass gets in place of the shard of a parameter."""
        made, form = self._gathering.whole(leaf, name), self._forms.get(name)
        if form is None:
            return made
        found = form.around(made)
        found.__dict__.update(leaf.__dict__)  # such as the mark of a parameter
        return found

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

    by_example = (
        ModelLoss.by_example
    )  # one gradient for each example, whose products are summed over the ranks

    def _checksums(self, theta: Tensor) -> dict[str, int]:
        assert isinstance(theta, ShardVector)
        sums = Counter[str]()
        for name, tensor in self.shards.unflatten(theta.local).items():
            if len(self._holders[name]) > 1:
                sums[str(self._holders[name])] += checksum(tensor)
        return dict(sums)

    def _leaves(self, theta: Tensor, wanted: Collection[str], copied: Collection[str] = ()) -> Leaves:
        assert isinstance(theta, ShardVector)
        return _ShardLeaves(theta, wanted)

    def _adapt(self, replica: Replica) -> None:
        """Let the modules of a replica gather the parameters that they read."""
        replica.tried = self._tried
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
                module.__dict__["_parameters"] = GatheredParameters(held, names, self._taken)
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
                f"parameter {missing[0]!r} is unsharded at the moment; measure outside of the forward and "
                "backward pass of training."
            )


@dataclass(frozen=True)
class _Idle:
    """A batch that a team evaluates only because the others need it for their transfers."""

    batch: PyTree


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
