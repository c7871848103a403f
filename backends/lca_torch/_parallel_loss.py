"""`ParallelLoss`: the loss of a model under tensor parallelism, whose layers compute with their shards."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lca.frameworks import PyTree, weight_of
from lca_torch._kinds import is_sharded
from lca_torch._replica import Replica
from lca_torch._sharded_loss import ShardedLoss
from lca_torch._shared_loss import Work


class ParallelLoss(ShardedLoss):
    """The loss of a model under tensor parallelism (`parallelize_module`, `DTensor` parameters).

    Every rank evaluates every batch, as in training: the layers compute with their shards, and their own
    hooks exchange activations. So nothing is gathered, and the gradient of a shard needs no sum.

    The transfers are those of the model, in its own process group. Before an evaluation the ranks wait for
    each other; a rank that fails in the middle of one leaves the others to the time limit of that group.
    """

    def _adapt(self, replica: Replica) -> None:
        super()._adapt(replica)
        self._forms = {name: _form(own) for name, own in self._own.items() if is_sharded(own)}

    def _mine(self, batches: Iterable[PyTree], work: Work) -> Iterator[PyTree]:
        for batch in batches:
            work.batches += 1
            if weight_of(self, batch):
                yield batch

    def _summed(self, gradient: Tensor) -> Tensor:
        return gradient.mul_(self.ranks.count)  # as many times as the weights are counted

    @contextmanager
    def _modes(self, seed: int, *, gradients: bool) -> Iterator[None]:
        self.ranks.gather("an evaluation of a model under tensor parallelism", None)
        with super()._modes(seed, gradients=gradients):
            yield

    def _whole(self, leaf: Tensor, name: str) -> Tensor:
        if name not in self._forms:
            return leaf
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 - not in every torch

        with torch.inference_mode(False):
            made: Tensor = DTensor.from_local(leaf, run_check=False, **self._forms[name])
        made.__dict__.update(leaf.__dict__)  # such as the mark of a parameter
        return made


def _form(parameter: Any) -> dict[str, Any]:
    """How a parameter is divided, as `DTensor.from_local` takes it."""
    return {
        "device_mesh": parameter.device_mesh,
        "placements": parameter.placements,
        "shape": parameter.shape,
        "stride": parameter.stride(),
    }
