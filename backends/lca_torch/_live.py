"""`ParameterVector`: θ read in place from the parameters of a model, without a copy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_FAST = torch.float32, torch.float64


def flat(parameters: Iterable[Tensor]) -> Tensor:
    """The numbers of ``parameters`` as a new vector (K,), detached."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])


def holds(vector: Tensor, tensors: Iterable[Tensor]) -> bool:
    """Whether a vector (K,) equals these tensors, number by number, in the same dtype and on the same device.

    >>> holds(torch.arange(3.0), [torch.zeros(1), torch.tensor([[1.0], [2.0]])])
    True
    """
    tensors = [tensor.detach() for tensor in tensors]
    if any((tensor.dtype, tensor.device) != (vector.dtype, vector.device) for tensor in tensors):
        return False
    if vector.device.type == "cpu" and vector.dtype in _FAST:
        numbers, at = vector.detach().numpy(), 0
        for tensor in tensors:
            piece = tensor.numpy().reshape(-1)
            if not (piece == numbers[at : at + piece.size]).all():  # 5 times as fast as torch.equal
                return False
            at += piece.size
        return True
    pieces = vector.detach().split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
    return not differ(zip(pieces, (tensor.reshape(-1) for tensor in tensors), strict=True))


def differ(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether the tensors of any pair differ; synchronises with their device once."""
    return bool(torch.stack([(a != b).any() for a, b in pairs]).any().item())


@dataclass(frozen=True, eq=False)
class VersionedTensor:
    """A tensor and its version, the number of in-place changes that torch has counted."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> "VersionedTensor":
        return cls(tensor, tensor._version)

    def holds(self, tensor: Tensor) -> bool:
        """Whether this is the same tensor, unchanged."""
        return tensor is self.tensor and tensor._version == self.version


class ParameterVector(Tensor):
    """A (K,) vector in the memory of a model's parameters, valid until these change.

    The engine reads it piece by piece. Any other operation works on a copy, so the vector behaves like an
    ordinary tensor, except that it cannot be changed in place.

    >>> weight, bias = torch.ones(2, 2), torch.zeros(1)
    >>> vector = ParameterVector([weight, bias])
    >>> vector.shape, 2 * vector
    (torch.Size([5]), tensor([2., 2., 2., 2., 0.]))
    """

    pieces: list[Tensor]
    persisted: VersionedTensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, parameters: Sequence[Tensor]) -> "ParameterVector":
        first, size = parameters[0], sum(parameter.numel() for parameter in parameters)
        made: ParameterVector = Tensor._make_wrapper_subclass(
            cls, (size,), dtype=first.dtype, device=first.device
        )
        return made

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.pieces = [parameter.detach() for parameter in parameters]
        self.persisted = None

    @property
    def sizes(self) -> list[int]:
        """Entries of each piece."""
        return [piece.numel() for piece in self.pieces]

    def persist(self, memory: Tensor) -> Tensor:
        """Write the numbers into ``memory`` (K,), from which this vector is read from then on."""
        with torch.inference_mode(False), torch.no_grad():
            torch.cat([piece.reshape(-1) for piece in self.pieces], out=memory)
        self.persisted = VersionedTensor.of(memory)
        self.pieces = [memory]
        return memory

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"ParameterVector({flat(self.pieces)!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = tree_map(
            lambda value: flat(value.pieces) if isinstance(value, cls) else value, (args, kwargs or {})
        )
        return func(*args, **kwargs)
