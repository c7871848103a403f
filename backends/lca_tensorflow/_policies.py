"""The modes a model is measured in: batch statistics by policy, given values for variables, no randomness."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from lca.errors import NonDeterministicError
from lca.frameworks import BatchNorm, batch_norm_policies

Norm: Any = keras.layers.BatchNormalization


def layers_with_batch_statistics(
    model: keras.Model, policy: BatchNorm
) -> list[keras.layers.BatchNormalization]:
    """The normalisation layers that use the statistics of the measuring batch.

    As in training, a layer that is not trainable uses its moving statistics.
    """
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, Norm)]  # names may repeat
    chosen = batch_norm_policies(policy, {norm.name for norm in norms})
    return [norm for norm in norms if norm.trainable and chosen[norm.name] == "batch"]


@contextmanager
def batch_statistics(norms: Iterable[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Let these layers normalise as in training, while the model is called as in inference."""
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
    """Replace variables by given values, and drop what a forward pass would assign.

    Raises
    ------
    NonDeterministicError
        If the pass draws random numbers. Until the next training batch changes the seed they are the same at
        every measurement, so two evaluations would agree.
    """

    def __init__(self, values: Iterable[tuple[keras.Variable, tf.Tensor]]) -> None:
        super().__init__(list(values), collect_losses=True)

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        if update[0].name == "seed_generator_state":
            raise NonDeterministicError(
                "random numbers are drawn while measuring, so the loss is not a function of the weights; is "
                "dropout called with training=True, or noise added without asking `training`?"
            )
        super().add_update(update)
