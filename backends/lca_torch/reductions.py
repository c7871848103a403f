"""What views need from torch tensors: on a CPU through NumPy, in the same memory; elsewhere on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lca.reductions import Cut, HostReductions, Reductions, reductions

_BLOCK = 2**24
"""Entries worked on at a time where copies in float64 are needed, so that none has length K."""


class TorchReductions:
    """`lca.reductions.Reductions` for tensors on a device with float64. Each result waits for it once.

    >>> TorchReductions().sums(torch.arange(6.0), [Cut(0, 1, 2, 2), Cut(4, 1, 1, 2)])
    array([1., 5., 9.])
    """

    def size(self, vector: Tensor) -> int:
        return vector.numel()

    def sums(self, vector: Tensor, cuts: Sequence[Cut]) -> np.ndarray:
        parts = (vector.detach()[cut.start : cut.stop].view(cut.shape) for cut in cuts)
        return self.numpy(torch.cat([part.sum((0, 2), dtype=torch.float64) for part in parts]))

    def sign_counts(self, vector: Tensor, cuts: Sequence[Cut]) -> np.ndarray:
        parts = [vector.detach()[cut.start : cut.stop].view(cut.shape) for cut in cuts]
        below = torch.cat([(part < 0).sum((0, 2)) for part in parts])
        above = torch.cat([(part > 0).sum((0, 2)) for part in parts])
        return self.numpy(torch.stack([below, above]))

    def magnitudes(self, vector: Tensor, edges: np.ndarray) -> np.ndarray:
        columns = len(edges) + 1
        limits = torch.as_tensor(edges, device=vector.device)
        counts = torch.zeros(2 * columns + 1, dtype=torch.int64, device=vector.device)
        for part in torch.split(vector.detach(), _BLOCK):
            bins = torch.bucketize(part.abs().to(torch.float64), limits, right=True)
            bins += columns * (part > 0)
            bins.masked_fill_(part == 0, 2 * columns)
            counts += torch.bincount(bins, minlength=len(counts))
        return self.numpy(counts[:-1]).reshape(2, -1)

    def take(self, vector: Tensor, positions: np.ndarray) -> np.ndarray:
        return self.numpy(vector.detach()[torch.as_tensor(positions, device=vector.device)])

    def extremes(self, vector: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        smallest, largest = (torch.topk(vector.detach(), k, largest=large).indices for large in (False, True))
        return self.numpy(smallest), self.numpy(largest)

    def products(self, basis: Tensor, vector: Tensor) -> np.ndarray:
        total = torch.zeros(len(basis), dtype=torch.float64, device=vector.device)
        size = max(1, _BLOCK // len(basis))
        for directions, part in zip(
            torch.split(basis, size, dim=1), torch.split(vector.detach(), size), strict=True
        ):
            total += directions.to(torch.float64) @ part.to(torch.float64)
        return self.numpy(total)

    def native(self, array: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(array, device=like.device)

    def accumulated(self, total: Tensor | None, vector: Tensor) -> Tensor:
        return vector.detach().to(torch.float64, copy=True) if total is None else total.add_(vector.detach())

    def signs(self, vector: Tensor) -> Tensor:
        return vector.detach().sign().to(torch.int8)

    def changes(self, counts: Tensor, last: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        counts += last * signs < 0
        return counts, torch.where(signs != 0, signs, last)

    def ratio(self, vector: Tensor, divisor: Tensor) -> Tensor:
        return torch.where(divisor != 0, vector.detach() / divisor, 0.0)

    def numpy(self, array: Tensor) -> np.ndarray:
        return _to_numpy(array)


def _to_numpy(array: Tensor) -> np.ndarray:
    array = array.detach().cpu()
    small = array.dtype in (torch.bfloat16, torch.float16)  # NumPy has no bfloat16, and no fast float16
    numbers: np.ndarray = (array.float() if small else array).numpy()
    return numbers


_HOST, _DEVICE = HostReductions(_to_numpy), TorchReductions()


@reductions.register
def _(vector: Tensor) -> Reductions:
    # Apple's GPUs have no float64, so their vectors are copied.
    return _HOST if vector.device.type in ("cpu", "mps") else _DEVICE
