"""`ParameterVector`: θ read in place from the parameters of a model, without a copy."""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_FLATTENED = torch._C._nn.flatten_dense_tensors  # in one call, where each reshape would be another
try:
    _MEMCMP: Any = ctypes.CDLL(None).memcmp
    _MEMCMP.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
except (AttributeError, TypeError, OSError):  # no C library in this process, as on Windows
    _MEMCMP = None


def flat(parameters: Iterable[Tensor]) -> Tensor:
    """The numbers of ``parameters`` as a new vector (K,), detached."""
    tensors = list(parameters)
    with detached():
        return _FLATTENED(tensors) if len(tensors) > 1 else tensors[0].detach().reshape(-1).clone()


class detached:  # noqa: N801 - a context, as `torch.no_grad`
    """Neither gradients nor inference mode inside; in a fifth of the time of the two contexts of torch.

    >>> with detached():
    ...     torch.is_grad_enabled()
    False
    """

    __slots__ = "_enabled", "_inference"

    def __enter__(self) -> None:
        self._inference = torch.inference_mode(False) if torch.is_inference_mode_enabled() else None
        if self._inference is not None:
            self._inference.__enter__()
        self._enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_grad_enabled(self._enabled)
        if self._inference is not None:
            self._inference.__exit__(*error)


def holds(vector: Tensor, tensors: Iterable[Tensor]) -> bool:
    """Whether a vector (K,) equals these tensors, number by number, in the same dtype and on the same device.

    >>> holds(torch.arange(3.0), [torch.zeros(1), torch.tensor([[1.0], [2.0]])])
    True
    """
    tensors, dtype, device = list(tensors), vector.dtype, vector.device
    if any([tensor.dtype is not dtype for tensor in tensors]):
        return False
    if _same_bytes(vector, tensors):
        return True  # most often, and in a fifth of the time
    if any(tensor.device != device for tensor in tensors):
        return False
    pieces = vector.detach().split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
    return not differ(
        (piece, tensor.detach().reshape(-1)) for piece, tensor in zip(pieces, tensors, strict=True)
    )


def _same_bytes(vector: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether all are on the CPU and the bytes are the same; false also where that is not known."""
    lengths = [tensor.nbytes for tensor in tensors]
    if _MEMCMP is None or sum(lengths) != vector.nbytes or not (vector.is_cpu and vector.is_contiguous()):
        return False
    at = vector.data_ptr()
    for tensor, length in zip(tensors, lengths, strict=True):
        known = tensor.is_cpu and tensor.is_contiguous()
        if not known or _MEMCMP(tensor.data_ptr(), at, length):
            return False
        at += length
    return True


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


def fill(vector: Tensor, pieces: Iterable[Tensor]) -> None:
    """Copy tensors of any dtype and device into a vector (K,), one after another.

    >>> made = torch.zeros(3)
    >>> fill(made, [torch.ones(1, dtype=torch.bfloat16), torch.tensor([[2.0], [3.0]])])
    >>> made
    tensor([1., 2., 3.])
    """
    start = 0
    for piece in pieces:
        vector[start : start + piece.numel()].copy_(piece.detach().reshape(-1))
        start += piece.numel()


class _Converted(Sequence[Tensor]):
    """Tensors in another dtype or on another device; each is converted when it is read, and not kept."""

    def __init__(self, sources: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self._sources, self._dtype, self._device = sources, dtype, device

    def __getitem__(self, which: Any) -> Any:
        return self._sources[which].to(self._device, self._dtype)

    def __len__(self) -> int:
        return len(self._sources)


class ParameterVector(Tensor):
    """A (K,) vector in the memory of a model's parameters, valid until these change.

    The engine reads it piece by piece. Any other operation works on a copy, so the vector behaves like an
    ordinary tensor, except that it cannot be changed in place.

    Parameters
    ----------
    parameters
        The tensors, one after another.
    dtype, device
        Those of the vector, if they differ from those of the parameters; a piece is then a copy, made when it
        is read.

    Attributes
    ----------
    sources
        The tensors in the memory of the model.

    Examples
    --------
    >>> weight, bias = torch.ones(2, 2), torch.zeros(1)
    >>> vector = ParameterVector([weight, bias])
    >>> vector.shape, 2 * vector
    (torch.Size([5]), tensor([2., 2., 2., 2., 0.]))
    """

    sources: list[Tensor]
    persisted: VersionedTensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls,
        parameters: Sequence[Tensor],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> "ParameterVector":
        first, size = parameters[0], sum(parameter.numel() for parameter in parameters)
        made: ParameterVector = Tensor._make_wrapper_subclass(
            cls, (size,), dtype=dtype or first.dtype, device=device or first.device
        )
        return made

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.sources = [parameter.detach() for parameter in parameters]
        self.persisted = None
        self._converted = dtype is not None or device is not None

    @property
    def pieces(self) -> Sequence[Tensor]:
        """The tensors in the dtype and on the device of the vector."""
        return _Converted(self.sources, self.dtype, self.device) if self._converted else self.sources

    @property
    def sizes(self) -> list[int]:
        """Entries of each piece."""
        return [source.numel() for source in self.sources]

    def persist(self, memory: Tensor) -> Tensor:
        """Write the numbers into ``memory`` (K,), from which this vector is read from then on."""
        with detached():
            if self._converted:
                fill(memory, self.sources)
            else:
                torch.cat([source.reshape(-1) for source in self.sources], out=memory)
        self.persisted = VersionedTensor.of(memory)
        self.sources, self._converted = [memory], False
        return memory

    def flat(self) -> Tensor:
        """The numbers as a new vector (K,)."""
        if not self._converted:
            return flat(self.sources)
        with detached():
            made = torch.empty(len(self), dtype=self.dtype, device=self.device)
            fill(made, self.sources)
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"ParameterVector({self.flat()!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = tree_map(
            lambda value: value.flat() if isinstance(value, cls) else value, (args, kwargs or {})
        )
        return func(*args, **kwargs)
