"""`Followed`: copies of tensors that move during a run, made anew only when they have moved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lca.errors import LCAError
from lca_torch._live import differ

UNCOPIED = 256 << 20
"""Bytes of tensors that are copied, whatever the size of θ; of a base larger than that, checksums are."""


@dataclass
class Followed:
    """The tensors that a loss reads besides θ and the batch, as they are now.

    The version counters of tensors miss fused optimizers and writes through ``.data``. Therefore
    values are compared, which reads every tensor once. Frozen tensors that together are large (the base of
    adapters) are not copied: a checksum says whether they moved, and if so there is no way back.

    Attributes
    ----------
    sources
        How to get each tensor, by name.
    """

    sources: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    _copies: dict[str, Tensor] = field(default_factory=dict)
    _sums: dict[str, int] = field(default_factory=dict)

    def follow(self, sources: Mapping[str, Callable[[], Tensor]], limit: int) -> None:
        """Follow these tensors from now on; frozen ones of more than ``limit`` bytes in all by checksum."""
        self.sources = dict(sources)
        self._copies = {name: copy for name, copy in self._copies.items() if name in sources}
        now = {name: get() for name, get in sources.items()}
        total = sum(t.numel() * t.element_size() for t in now.values())
        large = total > limit
        self._sums = {
            name: checksum(tensor)
            for name, tensor in now.items()
            if large and tensor.numel() * tensor.element_size() > limit // 256
        }

    def read(self) -> dict[str, Tensor]:
        """A copy of each tensor; the copy of the last call if it has not moved since.

        Raises
        ------
        LCAError
            If a tensor moved that was too large to be copied.
        """
        if not self.sources:  # as for most small models, at every step
            return {}
        now = {name: get() for name, get in self.sources.items()}
        self._require_same(now)
        pairs = {n: (t, self._copies[n]) for n, t in now.items() if n in self._copies and n not in self._sums}
        moved = _moved(pairs)
        for name, tensor in now.items():
            if name in self._sums:
                self._copies[name] = tensor
            elif name not in pairs or name in moved:
                self._copies[name] = tensor.detach().clone()
        return dict(self._copies)

    def _require_same(self, now: Mapping[str, Tensor]) -> None:
        for name, before in self._sums.items():
            if name in now and checksum(now[name]) != before:
                raise LCAError(
                    f"{name}, which the loss reads but which is not in theta, has moved; it was taken for "
                    "frozen and is too large to be copied at every step. Make a new objective and tracker "
                    "from here on, with frozen='zero' if it trains."
                )


def _moved(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> set[str]:
    """The names of tensors that differ from their copies, in form or in value; NaN equals NaN."""
    alike = {name: pair for name, pair in pairs.items() if _form(pair[0]) == _form(pair[1])}
    host = {name: pair for name, pair in alike.items() if pair[0].device.type == "cpu"}
    others = {name: pair for name, pair in alike.items() if name not in host}
    moved = pairs.keys() - alike.keys() | {name for name, pair in host.items() if not _same(*pair)}
    if others and differ(others.values()):
        moved |= {name for name, pair in others.items() if differ([pair])}
    return moved


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype in (torch.float32, torch.float64) and a.layout is torch.strided:
        x, y = a.detach().numpy(), b.numpy()
        return np.array_equal(x, y) or np.array_equal(x, y, equal_nan=True)  # 5 times as fast as torch.equal
    if a.layout is not torch.strided:
        return torch.equal(a.to_dense(), b.to_dense())
    return torch.equal(a, b)


def checksum(tensor: Tensor) -> int:
    """A number that changes when the tensor does; reads it once, without a copy.

    >>> checksum(torch.zeros(3)) == checksum(torch.ones(3))
    False
    """
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(bits).sum(dtype=torch.int64))
