"""The engine that Keras runs on: its type of tensors, and what a loss needs of it."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

import keras

from lca.errors import LCAError

Tensor: TypeAlias = Any
"""A tensor of the engine."""
Tensors: TypeAlias = Mapping[int, Tensor]
"""Tensors by a number of their own."""
LossOf: TypeAlias = Callable[[Tensors], Tensor]
MEASURED = ("torch", "jax")
_TENSORS = {
    "tensorflow": ("tensorflow", ("Tensor", "Variable")),
    "torch": ("torch", ("Tensor",)),
    "jax": ("jax", ("Array",)),
}


class Engine(Protocol):
    """What `lca_keras` needs of an engine beyond `keras.ops`: a module, ``_torch`` or ``_jax``."""

    KIND: type
    """The type of its tensors."""
    PASSED_ON: tuple[type[Exception], ...]
    """Errors that are not those of a batch: out of memory."""

    def attach(self, model: keras.Model) -> None:
        """Let the variables of the model hold the values that training has reached."""

    def read(self, variable: keras.Variable) -> Tensor:
        """The value of a variable; a later update may overwrite it."""

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy that nothing overwrites."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function of tensors, compiled where the engine does that."""

    def compiles_training(self, model: keras.Model) -> bool:
        """Whether the training step of the model keeps the Python values with which it was traced."""

    def traced(self, function: Callable[[], Tensor]) -> None:
        """Run a function for what its Python code does; nothing is computed where the engine can do that."""

    def fingerprint(self, function: Callable[..., Any], *inputs: Any) -> str | None:
        """The same for two compiled functions that compute the same; ``None`` if nothing is compiled."""

    def value(self, function: Callable[[], Tensor], *, gradients: bool) -> Tensor:
        """``function()``, with gradients enabled or not."""

    def differentiate(self, loss: LossOf, tensors: Tensors) -> tuple[Tensor, Mapping[int, Tensor | None]]:
        """The loss at these tensors, and its gradient for each; ``None`` for one that it does not reach."""

    def unreached(self, loss: LossOf, tensors: Tensors, live: Tensors) -> set[Hashable]:
        """The numbers of the tensors that no gradient reaches.

        Raises
        ------
        LCAError
            If the loss reads parameters past the values that replace them: one of ``live``, or others.
        """

    def enable_float64(self) -> None:
        """Let float64 be float64 in this process, where that has to be asked for."""

    def private_generators(self) -> AbstractContextManager[Callable[[], bool]]:
        """Restore the engine's global generators at the end; yields whether they have moved."""


def tensor_types() -> tuple[type, ...]:
    """The types of the tensors of the engine that Keras runs on.

    >>> isinstance(keras.ops.ones(2), tensor_types())
    True
    """
    module, names = _TENSORS.get(keras.backend.backend(), ("numpy", ("ndarray",)))
    return tuple(getattr(import_module(module), name) for name in names)


def engine() -> Engine:
    """The engine that Keras runs on.

    Raises
    ------
    LCAError
        If Keras runs on another engine than PyTorch or JAX.
    """
    name = keras.backend.backend()
    if name not in MEASURED:
        fix = (
            "import lca_tensorflow, which measures it"
            if name == "tensorflow"
            else "set KERAS_BACKEND=torch or KERAS_BACKEND=jax before Keras is imported"
        )
        raise LCAError(
            f"Keras runs on {name!r} here (KERAS_BACKEND, or keras.json), and lca_keras measures Keras on "
            f"PyTorch and JAX; {fix}."
        )
    return cast(Engine, import_module(f"lca_keras._{name}"))
