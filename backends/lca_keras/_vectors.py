"""θ and gradients as vectors (K,) of the engine, and cut into the tensors of a layout."""

from collections.abc import Iterable

import keras

from lca.arrays import Vector
from lca.layout import Layout
from lca_keras._engine import Tensor, Tensors


def flat(tensors: Iterable[Tensor]) -> Vector:
    """A new vector (K,) with the numbers of tensors."""
    return keras.ops.concatenate([keras.ops.reshape(tensor, (-1,)) for tensor in tensors])


def tensors_of(layout: Layout, theta: Vector) -> list[Tensor]:
    """θ (K,) cut into tensors of the layout's shapes."""
    ends = zip(layout.offsets, layout.sizes, layout.shapes, strict=True)
    return [keras.ops.reshape(theta[start : start + size], shape) for start, size, shape in ends]


def replaced(tensors: list[Tensor], given: Tensors) -> list[Tensor]:
    """The tensors, with others in place of those that are ``given`` by number."""
    return [given.get(i, tensor) for i, tensor in enumerate(tensors)]
