"""`Gradients`: the gradients of training, read from the parameters of a model as vectors (K,)."""

from collections.abc import Collection, Iterator, Sequence
from operator import and_, attrgetter, call, eq, is_
from typing import Any, TypeAlias
from weakref import ref

import torch
from torch import Tensor, nn

from lca._micro_batches import LeftOut
from lca.errors import LCAError
from lca_torch._arrays import block_size
from lca_torch._left_out import LongLeftOut
from lca_torch._live import flat, holds
from lca_torch._optimizers import update_slope, updates_without
from lca_torch._process_group import MeasuringRanks, processes
from lca_torch._ranks import Ranks
from lca_torch._reduced_passes import ReducedPasses
from lca_torch._update_check import UpdateCheck

Versions: TypeAlias = tuple[list[Any], list[int]]
"""Which tensors the gradients are and how often each was written to; keeps none of them alive."""
Places: TypeAlias = tuple[list[int], list[int]]
"""Where the parameters are and how often each was written to."""
ELSE = "or use an estimator that requires no gradient of training (lca.estimators.SampledPathIntegral)."
"""The end of an error about gradients that cannot be used."""
_COUNT = attrgetter("_version")


class Gradients:
    """Reads ``.grad``, which is never written, and what the optimizer makes of a gradient.

    Parameters
    ----------
    parameters
        The measured parameters in the order of the vectors.

    Attributes
    ----------
    unknown
        Positions of the parameters whose ``.grad`` also holds something else than the gradients of this
        update, and counts as 0.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.unknown: set[int] = set()
        self._reduced = ReducedPasses()

    def leaves(self) -> Sequence[Tensor]:
        """For each parameter the leaf of the graph whose gradient a backward pass computes."""
        return self.parameters

    def read(self) -> Tensor:
        """The gradients that the parameters have now, a new vector (K,); 0 for one without gradient."""
        return flat(self._dense())

    def equal(self, vector: Tensor) -> bool:
        """Whether the gradients are these numbers (K,)."""
        return holds(vector, self._dense())

    def moved(self, vector: Tensor) -> bool:
        """Whether the gradients are these numbers (K,) in other memory, as that of buckets made anew.

        `DistributedDataParallel` makes them anew once, with ``gradient_as_bucket_view`` also the gradients.
        """
        return self.equal(vector)

    def nonzero(self) -> set[int]:
        """Positions of the parameters that have a gradient other than 0."""
        return {which for which, grad in enumerate(self._grads()) if _not_zero(grad)}

    def versions(self) -> Versions:
        """The versions of the gradients now."""
        grads = self._grads()
        return [_nothing if grad is None else ref(grad) for grad in grads], self._counts(grads)

    def unchanged(self, before: Versions | None) -> bool:
        """Whether no gradient has been written to, created or removed since `versions` was ``before``."""
        return before is not None and all(self._each_unchanged(before))

    def changed(self, before: Versions) -> set[int]:
        """Positions of the gradients that were written to, created or removed since then."""
        return {which for which, same in enumerate(self._each_unchanged(before)) if not same}

    def places(self) -> Places:
        """Where the parameters are and how often each was written to."""
        return list(map(Tensor.data_ptr, self.parameters)), list(map(_COUNT, self.parameters))

    def begin(self, unknown: set[int]) -> None:
        """The gradients begin anew, with something else in those of ``unknown``."""
        self.unknown = unknown
        self._reduced.clear()

    def pass_begins(self, first: int, added: Tensor | None) -> None:
        """A backward pass is about to add to the gradients, first this to that of the parameter ``first``."""
        if processes() > 1:
            self._reduced.begins(self.parameters[first], added)

    def pass_ended(self, reached: Collection[int]) -> None:
        """The pass of a micro-batch has ended; raises `LCAError` if it did not add what it computed."""
        self._reduced.ended()

    def require_alike(self) -> None:
        """Raise `LCAError` if some passes were reduced over the ranks and others were not."""
        if self._reduced.differ():
            raise LCAError(
                "some backward passes of this update have added to .grad what they computed, and others have "
                "left something else there, such as the mean over the ranks, so the gradients of the "
                "micro-batches are unknown. DistributedDataParallel reduces the last pass only under "
                "no_sync(), which accelerate, Fabric, Lightning and the Trainer of Hugging Face call where "
                "they accumulate. Call tracker.ranks(), with CrossFit(world_size), which takes the batches "
                "of the ranks as micro-batches; reduce every pass (accelerate: "
                "GradientAccumulationPlugin(sync_each_batch=True)); or use lca.estimators.LaggedCrossFit, "
                "which requires the gradient of the whole update only."
            )

    def theta(self) -> Tensor:
        """The parameters themselves, a new vector."""
        return flat(self._local())

    def is_at(self, theta: Tensor) -> bool:
        """Whether the parameters are what `theta` returned."""
        return holds(theta, self._local())

    def moved_from(self, theta: Tensor) -> set[int]:
        """Positions of the parameters that are not what `theta` returned."""
        local = self._local()
        pieces = theta.split([own.numel() for own in local])  # type: ignore[no-untyped-call]
        return {which for which, own in enumerate(local) if not holds(pieces[which], [own])}

    def without(self, vector: Tensor, which: Collection[int]) -> Tensor:
        """A vector (K,) with 0 for the parameters at these positions."""
        if not which:
            return vector
        pieces = vector.split([own.numel() for own in self.parameters])  # type: ignore[no-untyped-call]
        return torch.cat([p.new_zeros(p.shape) if i in which else p for i, p in enumerate(pieces)])

    def agreed(self, weights: Sequence[float], known: bool) -> tuple[Sequence[float], bool]:
        """The weights of the micro-batches of an update, and whether they are known, for all processes."""
        return weights, known

    def of_ranks(self, measuring: MeasuringRanks) -> Ranks:
        """The gradients of the ranks of data-parallel training; see `lca_torch.Tracker.ranks`."""
        return Ranks(self.parameters, measuring)

    def update_slope(self, optimizer: torch.optim.Optimizer, gradient: Tensor) -> Tensor | float:
        """As `lca_torch._optimizers.update_slope`."""
        return update_slope(optimizer, self.parameters, gradient)

    def updates_without(
        self, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], weights: Sequence[float]
    ) -> list[Tensor]:
        """As `lca_torch._optimizers.updates_without`."""
        return updates_without(optimizer, self.parameters, gradients, weights)

    def check_of(self, optimizer: torch.optim.Optimizer, gradient: Tensor) -> UpdateCheck | None:
        """Compares the coming update with its formula; ``None`` if it cannot be compared."""
        return UpdateCheck(optimizer, self.parameters, gradient)

    def left_out(
        self,
        optimizer: torch.optim.Optimizer,
        sums: Sequence[Tensor],
        *,
        factors: Sequence[float],
        weights: Sequence[float],
        multiple: float,
    ) -> LeftOut | None:
        """`LongLeftOut` of these gradients; ``None`` if vectors are short."""
        if len(sums[0]) <= 2 * block_size(sums[0]):
            return None
        return LongLeftOut(
            optimizer, self.parameters, sums, factors=factors, weights=weights, multiple=multiple
        )

    def _local(self) -> Sequence[Tensor]:
        """What this process holds of each parameter."""
        return self.parameters

    def _known_grads(self) -> list[Tensor | None]:
        grads = self._grads()
        for which in self.unknown:
            grads[which] = None
        return grads

    def _grads(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.parameters]

    def _dense(self) -> list[Tensor]:
        """The gradients, each in the dtype of its parameter; 0 for one without gradient."""
        grads = self._known_grads()
        return [
            grad if grad is not None and grad.dtype is own.dtype and not grad.is_sparse else _dense(own, grad)
            for grad, own in zip(grads, self.parameters, strict=True)
        ]

    def _each_unchanged(self, before: Versions) -> Iterator[bool]:
        """For each parameter whether its gradient has not been written to, created or removed."""
        (held, counts), grads = before, self._grads()
        return map(and_, map(is_, map(call, held), grads), map(eq, counts, self._counts(grads)))

    def _counts(self, grads: Sequence[Tensor | None]) -> list[int]:
        """How often each gradient was written to; -1 for one that is missing."""
        return [-1 if grad is None else grad._version for grad in grads]


def _nothing() -> None:
    """In place of a reference to a gradient that is missing."""


def _dense(parameter: nn.Parameter, grad: Tensor | None) -> Tensor:
    """The gradient of a parameter in its dtype; 0 if it has no gradient."""
    if grad is None:
        return torch.zeros_like(parameter)
    dense = grad.to_dense() if grad.is_sparse else grad
    return dense if dense.dtype is parameter.dtype else dense.to(parameter.dtype)


def _not_zero(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.to_dense() if grad.is_sparse else grad).any())
