"""What is held still while a model is measured: batch statistics as asked for, and no random numbers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import keras
import tensorflow as tf

from lca.errors import NonDeterministicError, UnknownNameError

BatchNormPolicy: TypeAlias = Literal["batch", "frozen"]
"""Statistics a BatchNormalization layer uses: those of the measuring batch, or its moving ones."""
Norm: Any = keras.layers.BatchNormalization


def layers_with_batch_statistics(
    model: keras.Model, policy: BatchNormPolicy | Mapping[str, BatchNormPolicy]
) -> list[keras.layers.BatchNormalization]:
    """The normalisation layers that use the statistics of the measuring batch.

    A mapping names layers (the others get ``"batch"``). As in training, a layer that is not trainable uses
    its moving statistics.
    """
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, Norm)]
    named = policy if isinstance(policy, Mapping) else {}
    for name in named:
        if name not in {norm.name for norm in norms}:
            raise UnknownNameError("normalisation layer", name, [norm.name for norm in norms])
    for chosen in named.values() if isinstance(policy, Mapping) else [policy]:
        if chosen not in get_args(BatchNormPolicy):
            raise UnknownNameError("batch_norm policy", chosen, get_args(BatchNormPolicy))
    usual = "batch" if isinstance(policy, Mapping) else policy
    return [norm for norm in norms if norm.trainable and named.get(norm.name, usual) == "batch"]


@contextmanager
def batch_statistics(norms: Iterable[keras.layers.BatchNormalization]) -> Iterator[None]:
    """These layers normalise as in training, though the model is called as in inference."""
    changed = []
    try:
        for norm in norms:
            object.__setattr__(norm, "call", partial(_training_call, norm))
            changed.append(norm)
        yield
    finally:
        for norm in changed:
            object.__delattr__(norm, "call")


def _training_call(
    norm: keras.layers.BatchNormalization, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
) -> tf.Tensor:
    return type(norm).call(norm, inputs, training=True, mask=mask)


class Scope(keras.StatelessScope):
    """Given values in the place of variables; what a forward pass would assign is dropped.

    Raises
    ------
    NonDeterministicError
        If the pass draws random numbers: with the seed at rest they would be the same at every measurement
        and pass for a deterministic loss, until the next training batch moves the seed.
    """

    def __init__(self, values: Iterable[tuple[keras.Variable, tf.Tensor]]) -> None:
        super().__init__(list(values), collect_losses=True)

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        if update[0].name == "seed_generator_state":
            raise NonDeterministicError(
                "random numbers are drawn while measuring, so the loss is no function of the weights; is "
                "dropout called with training=True, or noise added without asking `training`?"
            )
        super().add_update(update)
