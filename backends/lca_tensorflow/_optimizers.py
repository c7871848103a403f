"""`updates_without`: the updates that a Keras optimizer would make without each micro-batch.

`update_slope`: how the update depends on its gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca._micro_batches import mean_without
from lca.errors import LCAError
from lca_tensorflow._vectors import flat


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


def update_slope(
    optimizer: Any,
    trained: Sequence[keras.Variable],
    theta: Sequence[keras.Variable],
    gradients: Sequence[Any],
) -> tf.Tensor:
    """How the coming update depends on its gradient (K,), as `lca.reference.update_slope`.

    Parameters
    ----------
    optimizer, trained, theta
        As in `DryRun`; SGD, RMSprop, Adam or AdamW.
    gradients
        Of the trained variables; ``None`` for one that does not move.

    Raises
    ------
    LCAError
        If it is another optimizer, or an option makes it follow another formula.
    """
    check_known(optimizer)
    if not optimizer.built:
        optimizer.build(trained)
    moved = [(v, tf.convert_to_tensor(g)) for v, g in zip(trained, gradients, strict=True) if g is not None]
    slope_of = _KNOWN[type(optimizer)]
    clipped = optimizer._clip_gradients([g for _, g in moved])
    found = {}
    for (variable, gradient), seen in zip(moved, clipped, strict=True):
        norm = tf.norm(gradient)
        shrink = tf.where(norm > 0, tf.norm(seen) / norm, 1.0) if seen is not gradient else 1.0
        found[id(variable)] = tf.broadcast_to(slope_of(optimizer, variable, seen) * shrink, variable.shape)
    pieces = [found.get(id(v), tf.zeros(v.shape, v.dtype)) for v in theta]
    return tf.concat([tf.reshape(piece, [-1]) for piece in pieces], 0)


def check_known(optimizer: Any) -> None:
    """Raise `LCAError`, with the reason, if it is unknown how updates depend on their gradient."""
    kind = type(optimizer)
    options = [name for name in ("centered", "clipvalue", "use_ema") if getattr(optimizer, name, None)]
    if kind not in _KNOWN or options:
        what = f"{kind.__name__} with {options[0]}" if options else kind.__name__
        raise LCAError(
            f"how the updates of {what} depend on their gradient is unknown; train with "
            f"{' or '.join(known.__name__ for known in _KNOWN)}, without centered, clipvalue and use_ema, or "
            "use an estimator that does not require update_slope (lca.estimators.CrossFit)."
        )


def _rate(optimizer: Any, variable: keras.Variable) -> tf.Tensor:
    return tf.cast(optimizer.learning_rate, variable.dtype)


def _sgd_slope(optimizer: Any, variable: keras.Variable, gradient: tf.Tensor) -> tf.Tensor:
    """``-lr``, with Nesterov momentum ``-lr (1 + μ)``."""
    ahead = optimizer.momentum if optimizer.nesterov else 0.0
    return -_rate(optimizer, variable) * (1 + ahead)


def _rmsprop_slope(optimizer: Any, variable: keras.Variable, gradient: tf.Tensor) -> tf.Tensor:
    """``-lr / √(v + ε)``."""
    square = optimizer._velocities[optimizer._get_variable_index(variable)]
    square = optimizer.rho * square + (1 - optimizer.rho) * gradient**2
    return -_rate(optimizer, variable) / tf.sqrt(square + optimizer.epsilon)


def _adam_slope(optimizer: Any, variable: keras.Variable, gradient: tf.Tensor) -> tf.Tensor:
    """``-lr (1 - β₁) √(1 - β₂^t) / ((1 - β₁^t) (√v + ε))``."""
    index, beta1, beta2 = optimizer._get_variable_index(variable), optimizer.beta_1, optimizer.beta_2
    count = tf.cast(optimizer.iterations + 1, variable.dtype)
    square = optimizer._velocities[index]
    square = beta2 * square + (1 - beta2) * gradient**2
    if optimizer.amsgrad:
        square = tf.maximum(square, optimizer._velocity_hats[index])
    rate = -_rate(optimizer, variable) * tf.sqrt(1 - beta2**count) / (1 - beta1**count)
    return (1 - beta1) * rate / (tf.sqrt(square) + optimizer.epsilon)


_KNOWN: Mapping[type, Callable[[Any, keras.Variable, tf.Tensor], tf.Tensor]] = {
    keras.optimizers.SGD: _sgd_slope,
    keras.optimizers.RMSprop: _rmsprop_slope,
    keras.optimizers.Adam: _adam_slope,
    keras.optimizers.AdamW: _adam_slope,
}


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
