"""`updates_without`: the updates that a Keras optimizer would make without each micro-batch."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca._micro_batches import mean_without
from lca.errors import LCAError
from lca_tensorflow._parameters import flat


class DryRun:
    """Dry runs of an optimizer: apply it to a gradient, record the movement, restore everything.

    So the movement contains all that the optimizer does: schedules, decay and exceptions from it, clipping,
    constraints, averages. Afterwards the variables and the state of the optimizer are the same, bit for bit.

    Parameters
    ----------
    optimizer
        The Keras optimizer, before its update.
    trained
        The variables that the update is applied to.
    theta
        The variables of θ, in order.
    """

    def __init__(
        self, optimizer: Any, trained: Sequence[keras.Variable], theta: Sequence[keras.Variable]
    ) -> None:
        self._optimizer, self._trained, self._theta = optimizer, trained, theta
        if not optimizer.built:  # as the update itself would do
            optimizer.build(trained)

    def update(self, gradient: tf.Tensor, moving: Sequence[bool]) -> tf.Tensor:
        """The movement (K,) for a gradient (K,).

        Parameters
        ----------
        gradient
            In the order of θ.
        moving
            For each of the trained variables, whether it has a gradient.
        """
        pieces = tf.split(gradient, [int(np.prod(v.shape)) for v in self._theta])
        by_variable = {id(v): tf.reshape(g, v.shape) for g, v in zip(pieces, self._theta, strict=True)}
        pairs = [
            (by_variable[id(v)], v)
            for v, moves in zip(self._trained, moving, strict=True)
            if moves and id(v) in by_variable
        ]
        touched = [*self._optimizer.variables, *self._trained]
        before, start = [tf.identity(variable.value) for variable in touched], flat(self._theta)
        try:
            self._optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
            return flat(self._theta) - start
        finally:
            for variable, value in zip(touched, before, strict=True):
                variable.assign(value)


def updates_without(
    dry_run: DryRun, gradients: Sequence[tf.Tensor], weights: Sequence[float], moving: Sequence[bool]
) -> list[tf.Tensor]:
    """Δ^{(−m)} (K,) for each micro-batch m (`lca.reference.leave_one_out`); one dry run each.

    Parameters
    ----------
    dry_run
        Of the optimizer, before its update.
    gradients
        g_m (K,), one for each micro-batch.
    weights
        The fraction of the batch that each micro-batch is.
    moving
        As in `DryRun.update`.
    """
    return [dry_run.update(mean_without(m, gradients, weights), moving) for m in range(len(gradients))]


def check_unscaled(optimizer: Any) -> None:
    """Raise `LCAError` if the gradients passed to the optimizer are not those of its next update."""
    if hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "loss_scale_factor", None):
        raise LCAError(
            f"a {type(optimizer).__name__} is given scaled gradients, but estimators on batches require "
            "those of the loss; use an optimizer without loss scaling, or an estimator that requires no "
            "gradient (lca.estimators.SampledPathIntegral)."
        )
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise LCAError(
            "the optimizer accumulates gradients itself, so no single call passes the gradient of an update; "
            "accumulate in the loop with tracker.add(total, gradients)."
        )
