"""`VectorForm`: the dtype of θ, and where its copies and gradients are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lca.errors import LCAError, UnknownNameError
from lca_torch._live import ParameterVector, detached, fill, flat

Precision: TypeAlias = Literal["float32"]
"""The dtype in which a loss is measured, if not that of the model."""
Vectors: TypeAlias = Literal["device", "host"]
"""Where the vectors (K,) are: on the device of the model, or in the memory of the host."""

FULL = torch.float32, torch.float64
HALF = torch.float16, torch.bfloat16


@dataclass(frozen=True)
class VectorForm:
    """The dtype and device of θ and of all other vectors (K,) of a measurement.

    Attributes
    ----------
    dtype, device
        Those of the vectors; the parameters themselves may have others.
    pinned
        Whether the memory is page-locked, so that copies between it and a CUDA device are faster.
    """

    dtype: torch.dtype
    device: torch.device
    pinned: bool = False

    @classmethod
    def of(
        cls, parameters: Mapping[str, Tensor], precision: Precision | None = None, vectors: Vectors = "device"
    ) -> "VectorForm":
        """The form for a model with these parameters, which are on one device.

        Raises
        ------
        UnknownNameError
            If an option is not one of those that exist.
        """
        first = next(iter(parameters.values()))
        if vectors not in ("device", "host"):
            raise UnknownNameError("place of the vectors", str(vectors), ("device", "host"))
        dtype = torch.float32 if precision == "float32" else first.dtype
        if vectors == "device":
            return cls(dtype, first.device)
        return cls(dtype, torch.device("cpu"), pinned=first.device.type == "cuda")

    def is_of(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the parameters themselves are of this form."""
        return all((own.dtype, own.device) == (self.dtype, self.device) for own in parameters)

    def zeros(self, size: int) -> Tensor:
        """A vector (size,) of zeros."""
        return torch.zeros(size, dtype=self.dtype, device=self.device, pin_memory=self.pinned)

    def copy(self, parameters: Sequence[Tensor]) -> Tensor:
        """The numbers of the parameters as a new vector (K,), detached."""
        if self.is_of(parameters) and not self.pinned:
            return flat(parameters)
        with detached():
            size = sum(parameter.numel() for parameter in parameters)
            made = torch.empty(size, dtype=self.dtype, device=self.device, pin_memory=self.pinned)
            fill(made, parameters)
        return made

    def borrow(self, parameters: Sequence[Tensor]) -> ParameterVector:
        """A vector of this form that reads the parameters in place, and converts what it reads."""
        return ParameterVector(parameters, dtype=self.dtype, device=self.device)

    def holds(self, vector: Tensor, parameters: Sequence[Tensor]) -> bool:
        """Whether a vector of this form equals the parameters, number by number, once they are converted."""
        pieces = vector.split([parameter.numel() for parameter in parameters])  # type: ignore[no-untyped-call]
        return all(
            torch.equal(piece, parameter.detach().reshape(-1).to(piece.device, piece.dtype))
            for piece, parameter in zip(pieces, parameters, strict=True)
        )


def one_form(forms: Mapping[str, VectorForm]) -> VectorForm | None:
    """The form that all losses of a run share; ``None`` if there are no losses.

    Raises
    ------
    LCAError
        If they differ: estimators compute with the vectors of all losses.
    """
    (first, form), *rest = forms.items() or [("", None)]
    for name, other in rest:
        if other != form:
            raise LCAError(
                f"the losses {first!r} and {name!r} have vectors of different forms, {form} and {other}; "
                "make all objectives of a run with the same precision= and vectors=."
            )
    return form


class Cast(NamedTuple):
    """Puts the tensors that a loss reads besides θ into the precision in which it is evaluated.

    Integers stay as they are.

    Attributes
    ----------
    dtype
        What numbers in single or double precision become.
    half
        Whether numbers in half precision become that too; else they stay.
    """

    dtype: torch.dtype
    half: bool = False

    def __call__(self, tensor: Tensor, device: torch.device) -> Tensor:
        """The tensor on a device; itself if it is as it should be."""
        wanted = tensor.dtype
        if wanted is not self.dtype and (wanted in FULL or (self.half and wanted in HALF)):
            wanted = self.dtype
        if tensor.dtype is wanted and tensor.device == device:  # for every tensor of every batch
            return tensor
        return tensor.to(device, wanted)
