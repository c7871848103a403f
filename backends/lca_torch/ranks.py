"""`Ranks`: the shares that the ranks of data-parallel training have in a gradient, as parts of the batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LCAError


class Ranks:
    """Keeps this rank's own gradient, which `DistributedDataParallel` averages away, and exchanges it.

    A hook on each parameter sees what backward passes add to its gradient on this rank before anything is
    averaged; it changes nothing. What comes to a gradient that was zeroed begins a new one. Memory: the own
    gradient, and those of all ranks while they are exchanged.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Any = None) -> None:
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            raise LCAError(
                "there are no ranks yet: call torch.distributed.init_process_group first, and "
                "tracker.ranks() on every rank."
            )
        self._parameters, self._group = parameters, group
        self._own: list[Tensor | None] = [None] * len(parameters)
        self.count = distributed.get_world_size(group)
        self._hooks = [
            parameter.register_hook(partial(self._add, i))  # type: ignore[no-untyped-call]
            for i, parameter in enumerate(parameters)
            if parameter.requires_grad
        ]

    def _add(self, which: int, grad: Tensor) -> None:
        added, own = grad.detach().to_dense() if grad.is_sparse else grad.detach(), self._own[which]
        goes_on = own is not None and _not_zero(self._parameters[which].grad)
        self._own[which] = own.add_(added) if own is not None and goes_on else added.clone()

    def marks(self) -> list[tuple[float, Tensor]]:
        """For each rank in order its share, and the gradient (K,) summed up to it; the last is the average.

        Waits for all ranks, every one of which has to call it.
        """
        with torch.inference_mode(False), torch.no_grad():
            pairs = zip(self._own, self._parameters, strict=True)
            mine = torch.cat([(p.new_zeros(p.shape) if own is None else own).reshape(-1) for own, p in pairs])
            every = [torch.empty_like(mine) for _ in range(self.count)]
            torch.distributed.all_gather(every, mine, group=self._group)
            total, marks = torch.zeros_like(mine), []
            for gradient in every:
                total = torch.add(total, gradient, alpha=1 / self.count)
                marks.append((1 / self.count, total))
        return marks

    def forget(self) -> None:
        """The update has been made; the next gradient begins."""
        self._own = [None] * len(self._parameters)

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def _not_zero(grad: Tensor | None) -> bool:
    """Whether there is a gradient to add to; a step that was skipped leaves ours, and not that."""
    return grad is not None and bool((grad.to_dense() if grad.is_sparse else grad).any())
