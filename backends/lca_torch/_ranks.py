"""`Ranks`: the gradients of the ranks of data-parallel training, as those of micro-batches."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lca_torch._process_group import MeasuringRanks


class Ranks:
    """Keeps this rank's own gradient, before `DistributedDataParallel` averages it, and exchanges it.

    A hook on each parameter reads what a backward pass adds to its gradient on this rank, and changes
    nothing. A gradient that was zeroed starts anew. Memory: the own gradient, and those of all ranks during
    the exchange.

    Parameters
    ----------
    parameters
        The parameters in the order of θ.
    measuring
        The ranks.

    Attributes
    ----------
    reached
        For each rank, the positions of the parameters that its gradients of the last exchange have reached;
        empty before the exchange.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], measuring: MeasuringRanks) -> None:
        self._parameters, self._measuring = parameters, measuring
        self._own: list[Tensor | None] = [None] * len(parameters)
        self.reached: Sequence[frozenset[int]] = ()
        self._hooks = [
            parameter.register_hook(partial(self._add, i))  # type: ignore[no-untyped-call]
            for i, parameter in enumerate(parameters)
            if parameter.requires_grad
        ]

    def _add(self, which: int, grad: Tensor) -> None:
        added, own = grad.detach().to_dense() if grad.is_sparse else grad.detach(), self._own[which]
        accumulates = own is not None and _not_zero(self._parameters[which].grad)
        self._own[which] = own.add_(added) if own is not None and accumulates else added.clone()

    def marks(self) -> list[Tensor]:
        """The running sums, rank by rank, of the gradients divided by the number of ranks, (K,) each.

        The last one is the average. Every rank must call it.

        Raises
        ------
        LCAError
            If a rank does not call it, or has told of an error.
        """
        mine = [which for which, own in enumerate(self._own) if own is not None]
        told = self._measuring.gather("the gradients of the ranks", mine)
        self.reached = list(map(frozenset, told))
        with torch.inference_mode(False), torch.no_grad():
            pairs = zip(self._own, self._parameters, strict=True)
            vector = torch.cat(
                [(p.new_zeros(p.shape) if own is None else own).reshape(-1) for own, p in pairs]
            )
            total, marks = torch.zeros_like(vector), []
            for gradient in self._measuring.of_all(vector):
                total = torch.add(total, gradient, alpha=1 / self._measuring.count)
                marks.append(total)
        return marks

    def clear(self) -> None:
        """The update has been made; the next gradient begins."""
        self._own, self.reached = [None] * len(self._parameters), ()

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def _not_zero(grad: Tensor | None) -> bool:
    """Whether a gradient to add to exists; after a skipped update only this rank's own one is left over."""
    return grad is not None and bool((grad.to_dense() if grad.is_sparse else grad).any())
