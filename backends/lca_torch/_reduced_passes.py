"""`ReducedPasses`: whether only some backward passes of an update are reduced over processes."""

from math import isfinite

import torch
from torch import Tensor, nn

from lca.tolerances import summed

_SIDE = 32
"""The number of entries of a gradient that are compared along each dimension."""


class ReducedPasses:
    """Compares what each backward pass computes on this process with what it leaves in ``.grad``.

    `torch.nn.parallel.DistributedDataParallel` leaves the mean over the processes there, and under
    ``no_sync()`` what this process has computed. Compared are entries of the gradient that a pass reaches
    first; they are read when the passes are over, so that no pass waits for a device.

    Examples
    --------
    >>> weight, passes = nn.Parameter(torch.ones(2)), ReducedPasses()
    >>> for after in (1.0, 3.0):  # without the other processes, the second pass would leave 1 + 1
    ...     passes.begins(weight, torch.ones(2))
    ...     weight.grad = torch.full((2,), after)
    ...     passes.ended()
    >>> passes.differ()
    True
    """

    def __init__(self) -> None:
        self._pending: tuple[nn.Parameter, Tensor, Tensor] | None = None
        self._passes: list[tuple[Tensor, float]] = []

    def begins(self, own: nn.Parameter, added: Tensor | None) -> None:
        """A pass is about to add this to the gradient of a parameter."""
        computed, before = _some(added), _some(own.grad)
        self._pending = None
        if computed is not None and (before is not None or own.grad is None):
            self._pending = own, computed, computed if before is None else before + computed

    def ended(self) -> None:
        """The pass is over."""
        if self._pending is None:
            return
        own, computed, expected = self._pending
        found, self._pending = _some(own.grad), None
        if found is not None:
            sizes = [each.abs().amax() for each in (found - expected, found, computed)]
            self._passes.append((torch.stack(sizes), torch.finfo(found.dtype).eps))

    def clear(self) -> None:
        """An update begins: forget the passes before it."""
        self._passes = []

    def differ(self) -> bool:
        """Whether some passes have left what they computed, and others something else."""
        kinds = set()
        for sizes, eps in self._passes:
            off, size, computed = sizes.tolist()
            reduced = off > summed(size, eps)
            if isfinite(off) and (reduced or computed):  # a pass that computes 0 leaves what was there
                kinds.add(reduced)
        return len(kinds) > 1


def _some(grad: Tensor | None) -> Tensor | None:
    """A copy of the first entries of a gradient; ``None`` if it is missing, empty or sparse."""
    if grad is None or grad.layout is not torch.strided or not grad.numel():
        return None
    return grad.detach()[(slice(_SIDE),) * grad.ndim].clone()
