"""`GatheredLoss`: the loss of a model under `fully_shard` (FSDP2), its parameters gathered when read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lca.frameworks import PyTree, weight_of
from lca_torch._gathering import Gathering, TransferError
from lca_torch._sharded_loss import ShardedLoss
from lca_torch._shared_loss import Work


class GatheredLoss(ShardedLoss):
    """The loss of a model under `fully_shard`.

    What is evaluated is the plain model, without the hooks of FSDP. Each parameter is gathered when the
    forward pass reads it, and again in the backward pass; gradients are summed into the shards. So a rank
    holds the vectors of its shards, and whole only the parameters that an operation needs at the moment.

    The batches are divided as in `SharedLoss`. As each transfer needs every rank, ranks with fewer batches
    evaluate their first one again, which counts nothing. A policy of mixed precision belongs to training: the
    loss is measured in the dtype of the shards (``autocast=`` of the objective measures in another).
    """

    @cached_property
    def _gathering(self) -> Gathering:
        return Gathering(self.shards, self.ranks.timeout)

    def share(self, data: Any, batch_size: int | None) -> None:
        super().share(data, batch_size)
        self._gathering.parts = 1

    def batch_weight(self, batch: PyTree) -> float:
        return 0.0 if isinstance(batch, _Idle) else super().batch_weight(batch)

    def _mine(self, batches: Iterable[PyTree], work: Work) -> Iterator[PyTree]:
        """The batches of this rank, and as many as any other rank has."""
        counts, first = [0] * self.ranks.count, None
        for batch in batches:
            if not weight_of(self, batch):
                continue  # its loss may be NaN: a mean over no tokens
            rank = work.rank_of(batch)
            counts[rank] += 1
            first = batch if first is None else first
            if rank == self.ranks.rank:
                yield batch
        for _ in range(max(counts) - counts[self.ranks.rank]):
            yield _Idle(first)

    def _summed(self, gradient: Tensor) -> Tensor:
        return gradient  # in the backward pass

    def _evaluated(self, run: Callable[[PyTree], Tensor], batch: PyTree) -> Tensor:
        return run(batch.batch if isinstance(batch, _Idle) else batch)

    def _counts(self, batch: PyTree, weight: float) -> bool:
        return weight != 0 or isinstance(batch, _Idle)

    @contextmanager
    def _modes(self, seed: int, *, gradients: bool) -> Iterator[None]:
        """Begin an evaluation on all ranks together, so that no transfer waits for a missing rank."""
        self.ranks.gather("an evaluation of a sharded model", None)
        try:
            with super()._modes(seed, gradients=gradients), self._gathering.saving():
                yield
        except TransferError:
            self.ranks.last_words("an evaluation of a sharded model")
            raise

    def _whole(self, leaf: Tensor, name: str) -> Tensor:
        return self._gathering.whole(leaf, name)


@dataclass(frozen=True)
class _Idle:
    """A batch that a rank evaluates only because the others need it for their transfers."""

    batch: PyTree
