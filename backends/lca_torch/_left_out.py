"""`LongLeftOut`: the products of gradients and updates without each micro-batch, block by block."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from math import fsum

import torch
from torch import Tensor, nn

from lca._micro_batches import LeftOut, mean_without
from lca.arrays import array_ops
from lca.step import MicroBatch
from lca_torch._arrays import block_size
from lca_torch._live import detached
from lca_torch._optimizers import updates_by_blocks, updates_without


class LongLeftOut(LeftOut):
    """`LeftOut` for vectors that do not fit the cache.

    What is computed from the sums of gradients, θ and the state of the optimizer has the length of a block;
    between two blocks nothing is written but the sum of their products. Compared with vectors of length K,
    this takes a quarter of the time and four to five vectors less.

    Parameters
    ----------
    optimizer, parameters
        As in `updates_without`.
    sums
        The sum (K,) of the gradients up to the end of each micro-batch.
    factors
        The factor of the gradient of each micro-batch.
    weights
        As in `updates_without`.
    multiple
        The gradients that the loop takes, divided by those of the mean over examples.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        sums: Sequence[Tensor],
        *,
        factors: Sequence[float],
        weights: Sequence[float],
        multiple: float,
    ) -> None:
        self.weights = weights
        self._optimizer, self._parameters = optimizer, parameters
        self._sums, self._factors, self._multiple = sums, factors, multiple

    def __getitem__(self, which):  # type: ignore[no-untyped-def]
        return self._all[which]

    @cached_property
    def _all(self) -> tuple[MicroBatch, ...]:
        gradients = self._gradients(self._sums)
        updates = updates_without(self._optimizer, self._parameters, gradients, self.weights)
        return tuple(map(MicroBatch, self._measured(gradients), updates, self.weights))

    def products_sum(self) -> tuple[Tensor, float]:
        last = len(self.weights) - 1
        relative = [weight / self.weights[0] for weight in self.weights]
        values, sizes = torch.empty_like(self._sums[0]), []
        ops, most = array_ops(values), 2 * block_size(values)
        with detached():
            for block, update in updates_by_blocks(self._optimizer, self._parameters, most):
                if update is None:
                    values[block] = 0
                    continue
                gradients = self._gradients([total[block] for total in self._sums])
                means = (mean_without(m, gradients, self.weights) for m in range(last + 1))
                updates = [update(mean, m == last) for m, mean in enumerate(means)]
                products = zip(relative, self._measured(gradients), updates, strict=True)
                values[block], size = ops.products_sum(list(products), updates[0], updates[0], overwrite=True)
                sizes.append(size)
        return values, fsum(sizes)

    def _gradients(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the micro-batches as the loop takes them, new tensors, from their sums."""
        first, *others = self._factors
        differences = (after - before for before, after in pairwise(sums))
        return [
            sums[0] * first,
            *(own.mul_(factor) for own, factor in zip(differences, others, strict=True)),
        ]

    def _measured(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients of the mean over the examples that count."""
        return gradients if self._multiple == 1 else [g * (1 / self._multiple) for g in gradients]
