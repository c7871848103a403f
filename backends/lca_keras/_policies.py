"""The modes a model is measured in: batch statistics by policy, given values for variables, no randomness."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import keras
from keras.src.backend.common import global_state

from lca.errors import NonDeterministicError
from lca.frameworks import BatchNorm, batch_norm_policies

Norm: Any = keras.layers.BatchNormalization
Modes: TypeAlias = list[tuple[Any, list[bool]]]
"""Normalisation layers with the value of ``training`` at each of their calls in a forward pass."""


def layers_with_batch_statistics(
    model: keras.Model, policy: BatchNorm
) -> list[keras.layers.BatchNormalization]:
    """The normalisation layers that use the statistics of the measuring batch where training does."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, Norm)]  # names may repeat
    chosen = batch_norm_policies(policy, {norm.name for norm in norms})
    return [norm for norm in norms if chosen[norm.name] == "batch"]


@dataclass
class Recorded:
    """How a forward pass has called the normalisation layers, and whether it has called the model itself."""

    modes: Modes
    called: bool = False


@contextmanager
def recorded_modes(model: keras.Model, norms: Iterable[Any]) -> Iterator[Recorded]:
    """Call ``model`` as in training, and record how it calls these layers.

    A frozen part may be called with ``training=False`` inside the model, so the layers alone do not say it.
    """
    recorded = Recorded([(norm, []) for norm in norms])
    with ExitStack() as stack:
        stack.enter_context(_called_by(model, _in_training(model, recorded)))
        for norm, flags in recorded.modes:
            stack.enter_context(_called_by(norm, _recording(norm, flags)))
        yield recorded


def layers_with_modes(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The model and its layers, if their calls take ``training``, by name; equal names are numbered."""
    found = dict[str, keras.layers.Layer]()
    for layer in model._flatten_layers():
        if layer._call_has_context_arg.get("training"):
            others = sum(other.name == layer.name for other in found.values())
            found[f"{layer.name}[{others}]" if others else layer.name] = layer
    return found


@contextmanager
def in_training(model: keras.Model, names: Collection[str], trained: set[str]) -> Iterator[None]:
    """Call ``model`` as in training, but of `layers_with_modes` only these; the others as in inference.

    ``trained`` receives the names of those that are called with ``training=True``. If the model has a mode
    that is not among ``names``, it cannot pass its mode on: those that are ``trained`` are called so.
    """
    layers = layers_with_modes(model)
    alone = any(layer is model for name, layer in layers.items() if name not in names)
    with ExitStack() as stack:
        for name, layer in layers.items():
            if not alone and name in names:
                stack.enter_context(_called_by(layer, _noting(layer, partial(trained.add, name))))
            else:
                stack.enter_context(_called_by(layer, _switched(layer, on=name in names and name in trained)))
        stack.enter_context(_called_by(model, _in_training(model, Recorded([]))))
        yield


@contextmanager
def batch_statistics(modes: Modes) -> Iterator[None]:
    """Let these layers normalise as in training, while the model is called as in inference."""
    with ExitStack() as stack:
        for norm, flags in modes:
            if any(flags):
                stack.enter_context(_called_by(norm, _replaying(norm, flags)))
        yield


def uses_batch_statistics(modes: Modes) -> bool:
    """Whether a layer that is trainable is called as in training; one that is not uses moving statistics."""
    return any(norm.trainable and any(flags) for norm, flags in modes)


@contextmanager
def _called_by(layer: Any, call: Callable[..., Any]) -> Iterator[None]:
    before = vars(layer).get("call")
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(layer, "call")
        else:
            object.__setattr__(layer, "call", before)


def _in_training(model: keras.Model, recorded: Recorded) -> Callable[..., Any]:
    call = model.call

    def in_training(*args: Any, **kwargs: Any) -> Any:
        recorded.called = True
        global_state.get_global_attribute("current_call_ctx").set_value("training", True)
        if model._call_has_context_arg.get("training"):
            kwargs["training"] = True
        return call(*args, **kwargs)

    return in_training


def _recording(norm: Any, flags: list[bool]) -> Callable[..., Any]:
    call = norm.call

    def recording(*args: Any, **kwargs: Any) -> Any:
        flags.append(bool(kwargs.get("training")))
        return call(*args, **kwargs)

    return recording


def _noting(layer: Any, note: Callable[[], None]) -> Callable[..., Any]:
    call = layer.call

    def noting(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training"):
            note()
        return call(*args, **kwargs)

    return noting


def _switched(layer: Any, *, on: bool) -> Callable[..., Any]:
    call = layer.call

    def switched(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs | {"training": on})

    return switched


def _replaying(norm: Any, flags: list[bool]) -> Callable[..., Any]:
    call, made = norm.call, 0

    def replaying(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        return call(*args, **kwargs | {"training": flags[min(made, len(flags)) - 1]})

    return replaying


def is_seed(variable: keras.Variable) -> bool:
    """Whether a variable is the state of a generator of random numbers."""
    return bool(variable.name == "seed_generator_state")


def random_error() -> NonDeterministicError:
    """The error for a loss that depends on random numbers of Keras."""
    return NonDeterministicError(
        "random numbers are drawn while measuring, so the loss is not a function of the weights; is dropout "
        "called with training=True, or noise added without asking `training`?"
    )


class Scope(keras.StatelessScope):
    """Replace variables by given values, and drop what a forward pass would assign.

    Parameters
    ----------
    values
        Variables with their values.
    random
        Whether random numbers may be drawn.
    unmoved
        Layers whose own variables stay as they are within the pass, also for what reads them later in it.

    Attributes
    ----------
    variables
        The Keras variables that were read and have no value here, by the id of the engine's tensor.
    updated
        The ids of the Keras variables that were updated.

    Raises
    ------
    NonDeterministicError
        If the pass draws random numbers. Until the next training batch changes the seed they are the same at
        every measurement, so two evaluations would agree.
    """

    def __init__(
        self,
        values: Iterable[tuple[keras.Variable, Any]],
        *,
        random: bool = False,
        unmoved: Iterable[Any] = (),
    ) -> None:
        super().__init__(list(values), collect_losses=True)
        self._random = random
        self._unmoved = {id(variable) for layer in unmoved for variable in layer.non_trainable_variables}
        self.variables: dict[int, keras.Variable] = {}
        self.updated = frozenset[int]()

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is None:
            self.variables[id(variable._value)] = variable
        return value

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        if is_seed(update[0]) and not self._random:
            raise random_error()
        self.updated |= {id(update[0])}
        if id(update[0]) not in self._unmoved:
            super().add_update(update)
