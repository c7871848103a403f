"""`updates_without`: the updates that a Keras optimizer would make without each micro-batch.

`update_slope`: how the update depends on its gradient.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from lca._micro_batches import mean_without
from lca.errors import LCAError, NonDeterministicError
from lca.tolerances import summed
from lca.tracking._optimizers import within
from lca_keras._counts import held, trained_by
from lca_keras._reach import held_by, is_long, opaque_in, reached
from lca_keras._untouched import kept
from lca_tensorflow._untouched import untouched
from lca_tensorflow._vectors import flat, gradient_of

_NO_DRY_RUN = (
    "use an estimator that requires no such update: lca.estimators.NextBatch(lca.RIGHT), SampledPathIntegral"
)
_LARGE = 2.0**20  # times a gradient, far beyond what clipping leaves as it is


class DryRun:
    """Dry runs of an optimizer: apply it to a gradient, record the movement, restore everything.

    So the movement contains all that the optimizer does: schedules, decay and exceptions from it, clipping,
    constraints, averages. Afterwards the variables, and all that the user's code in the optimizer holds or
    refers to, are the same, bit for bit; what it writes elsewhere (files, ``os.environ``) is not seen.

    Parameters
    ----------
    optimizer
        The Keras optimizer, before its update.
    trained
        The variables that the update is applied to.
    theta
        The variables of θ, in order.

    Raises
    ------
    LCAError
        If the optimizer holds what cannot be restored, such as a table of TensorFlow.
    """

    def __init__(
        self, optimizer: Any, trained: Sequence[keras.Variable], theta: Sequence[keras.Variable]
    ) -> None:
        self._optimizer, self._trained, self._theta = optimizer, trained, theta
        self._owned = frozenset(map(id, theta))
        if not optimizer.built:  # as the update itself would do
            optimizer.build(trained)
        optimizers = list(within([optimizer], held))
        self._roots = [
            *((type(one).__name__, part) for one in optimizers for part in (one, one._learning_rate)),
            *((variable.path, variable.constraint) for variable in trained),
        ]
        for name, value in opaque_in(self._roots):
            raise LCAError(
                f"{name} in {type(optimizer).__name__} is a {type(value).__name__}, whose contents cannot be "
                f"restored after a dry run of the optimizer. Keep the state in numbers, arrays, variables or "
                f"lists of numbers; or {_NO_DRY_RUN}."
            )
        self._users = [part for _, part in reached(self._roots).values()]
        states, self._arrays = _states_in(self._users)
        unbuilt = [one for one in optimizers if not one.built]
        lists = [value for one in unbuilt for value in vars(one).values() if isinstance(value, (list, dict))]
        self._unbuilt = [*unbuilt, *lists]
        own = [variable for one in optimizers for variable in one.variables]
        touched = [*own, *trained, *trained_by(optimizer), *states]
        self._touched = list({id(variable): variable for variable in touched}.values())

    def update(self, gradient: tf.Tensor, moving: Sequence[bool]) -> tf.Tensor:
        """The movement (K,) for a gradient (K,).

        Parameters
        ----------
        gradient
            In the order of θ.
        moving
            For each of the trained variables, whether it has a gradient.

        Raises
        ------
        LCAError
            If the optimizer draws random numbers.
        """
        pieces = tf.split(gradient, [int(np.prod(v.shape)) for v in self._theta])
        by_variable = {id(v): tf.reshape(g, v.shape) for g, v in zip(pieces, self._theta, strict=True)}
        return self._movement(
            [
                (by_variable[id(v)], v)
                for v, moves in zip(self._trained, moving, strict=True)
                if moves and id(v) in self._owned
            ]
        )

    def check(self, gradients: Sequence[Any]) -> None:
        """Raise `LCAError` if the updates of a dry run of the optimizer would be wrong.

        A dry run finds the update of θ for other gradients, such as those without a micro-batch. It is right
        if the optimizer adds up repeated rows of `tf.IndexedSlices`, and if the update of θ does not depend
        on the gradients of other variables. Either is checked where it matters, by two dry runs with
        ``gradients``, those that the optimizer is about to apply.
        """
        pairs = [(g, v) for g, v in zip(gradients, self._trained, strict=True) if g is not None]
        if any(isinstance(gradient, tf.IndexedSlices) for gradient, _ in pairs):
            self._check_sums(gradients, pairs)
        if len(inside := [(g, v) for g, v in pairs if id(v) in self._owned]) < len(pairs):
            self._check_apart(inside, pairs)

    def _check_sums(self, gradients: Sequence[Any], pairs: Sequence[tuple[Any, keras.Variable]]) -> None:
        sums = gradient_of(self._theta, gradients, self._trained)
        summed_up = self.update(sums, [gradient is not None for gradient in gradients])
        real = self._movement(pairs)
        limit = summed(float(tf.norm(flat(self._theta))), float(np.finfo(real.dtype.as_numpy_dtype).eps))
        if not float(tf.norm(summed_up - real)) <= limit:
            raise LCAError(
                f"{type(self._optimizer).__name__} does not add up rows that a tf.IndexedSlices gradient "
                "repeats, such as that of an Embedding, so its update without a part of the batch is "
                "unknown. Apply dense gradients ([tf.convert_to_tensor(g) for g in gradients]), or split "
                "the batch in the loop with tracker.micro_batches and tracker.add, which makes them dense."
            )

    def _check_apart(
        self, inside: Sequence[tuple[Any, keras.Variable]], pairs: Sequence[tuple[Any, keras.Variable]]
    ) -> None:
        outside = [v.path for _, v in pairs if id(v) not in self._owned]
        large = [(g if id(v) in self._owned else _LARGE * tf.convert_to_tensor(g), v) for g, v in pairs]
        alone, together = self._movement(inside).numpy(), self._movement(large).numpy()
        if not np.array_equal(alone, together, equal_nan=True):
            raise LCAError(
                f"the update that {type(self._optimizer).__name__} makes of the measured parameters depends "
                f"on the gradients of others, such as {outside[0]!r}, as with global_clipnorm=; so the "
                "update without a part of the batch is unknown. Measure a model of all variables that the "
                "optimizer updates, let it clip each by itself (clipnorm=), or use an estimator that needs "
                "no such update (lca.estimators.LaggedCrossFit)."
            )

    def _movement(self, pairs: Sequence[tuple[Any, keras.Variable]]) -> tf.Tensor:
        before, start = [tf.identity(variable) for variable in self._touched], flat(self._theta)
        arrays = [array.copy() for array in self._arrays]
        with self._untouched():
            try:
                self._optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
                return flat(self._theta) - start
            finally:
                for variable, value in zip(self._touched, before, strict=True):
                    variable.assign(value)
                for array, numbers in zip(self._arrays, arrays, strict=True):
                    np.copyto(array, numbers)

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Restore what the user's code writes in Python; optimizers of Keras keep all in their variables."""
        if not self._users:
            yield
            return
        try:
            with untouched(self._roots), kept(self._unbuilt):
                yield
        except NonDeterministicError as error:
            raise LCAError(
                f"{type(self._optimizer).__name__} draws random numbers or reads an iterator when it "
                f"updates, so its update without a part of the batch cannot be found; {_NO_DRY_RUN}."
            ) from error


def _states_in(parts: Sequence[Any]) -> tuple[list[keras.Variable | tf.Variable], list[np.ndarray]]:
    """The variables and arrays that the user's code holds, and states of Keras' random generators."""
    found = [value for part in parts for value in held_by(part)]
    if parts:
        found.append(global_state.get_global_attribute(GLOBAL_SEED_GENERATOR))
    for part in filter(is_long, parts):
        found += part.values() if isinstance(part, dict) else part
    states = [one.state for one in found if isinstance(one, keras.random.SeedGenerator)]
    variables = [one for one in found if isinstance(one, (keras.Variable, tf.Variable))]
    arrays = [one for one in found if isinstance(one, np.ndarray) and one.flags.writeable]
    return [*variables, *states], arrays


def updates_without(
    dry_run: DryRun, gradients: Sequence[tf.Tensor], weights: Sequence[float], moving: Sequence[bool]
) -> list[tf.Tensor]:
    """Δ^{(−m)} (K,) for each micro-batch m (`lca.reference.leave_one_out`); one dry run each.

    Parameters
    ----------
    dry_run
        The dry run of the optimizer, before its update.
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
        The gradients of the trained variables; ``None`` for one that does not move.

    Raises
    ------
    LCAError
        If it is another optimizer, or an option makes it follow another formula.
    """
    check_known(optimizer)
    if not optimizer.built:
        optimizer.build(trained)
    moved = [(v, g) for v, g in zip(trained, gradients, strict=True) if g is not None]
    slope_of = _KNOWN[type(optimizer)]
    clipped = optimizer._clip_gradients([g for _, g in moved])
    found = {}
    for (variable, gradient), seen in zip(moved, clipped, strict=True):
        shrink = 1.0 if seen is gradient else _ratio(seen, gradient)
        found[id(variable)] = tf.broadcast_to(slope_of(optimizer, variable, seen) * shrink, variable.shape)
    pieces = [found.get(id(v), tf.zeros(v.shape, v.dtype)) for v in theta]
    return tf.concat([tf.reshape(piece, [-1]) for piece in pieces], 0)


def check_known(optimizer: Any) -> None:
    """Raise `LCAError`, with the reason, if it is unknown how updates depend on their gradient."""
    kind = type(optimizer)
    options = [name for name in ("centered", "clipvalue") if getattr(optimizer, name, None)]
    if getattr(optimizer, "use_ema", False) and optimizer.ema_overwrite_frequency:  # else θ is left as it is
        options.append("ema_overwrite_frequency")
    if kind not in _KNOWN or options:
        what = f"{kind.__name__} with {options[0]}" if options else kind.__name__
        raise LCAError(
            f"how the updates of {what} depend on their gradient is unknown; train with "
            f"{' or '.join(known.__name__ for known in _KNOWN)}, without centered, clipvalue and "
            "ema_overwrite_frequency, or use an estimator that does not require update_slope "
            "(lca.estimators.NextBatch(lca.RIGHT), or CrossFit in a loop of your own)."
        )


def check_unconstrained(variables: Iterable[keras.Variable]) -> None:
    """Raise `LCAError` if a variable has a constraint, which may undo what `update_slope` tells of it."""
    for variable in variables:
        if variable.constraint is not None:
            raise LCAError(
                f"{variable.path!r} has the constraint {type(variable.constraint).__name__}, which Keras "
                "applies after each update, so how updates depend on their gradient is unknown; use an "
                "estimator that does not require update_slope: lca.estimators.NextBatch(lca.RIGHT), "
                "SampledPathIntegral, or in a loop of your own CrossFit, whose updates have constraints."
            )


def _ratio(clipped: Any, gradient: Any) -> tf.Tensor:
    norm = tf.norm(tf.convert_to_tensor(gradient))
    return tf.where(norm > 0, tf.norm(tf.convert_to_tensor(clipped)) / norm, 1.0)


def _square(gradient: Any) -> tf.Tensor:
    """As Keras' optimizers take it: rows that `tf.IndexedSlices` repeat are squared one by one."""
    if isinstance(gradient, tf.IndexedSlices):
        rows = tf.IndexedSlices(gradient.values**2, gradient.indices, gradient.dense_shape)
        return tf.convert_to_tensor(rows)
    return gradient**2


def _rate(optimizer: Any, variable: keras.Variable) -> tf.Tensor:
    return tf.cast(optimizer.learning_rate, variable.dtype)


def _sgd_slope(optimizer: Any, variable: keras.Variable, gradient: Any) -> tf.Tensor:
    """``-lr``, with Nesterov momentum ``-lr (1 + μ)``."""
    ahead = optimizer.momentum if optimizer.nesterov else 0.0
    return -_rate(optimizer, variable) * (1 + ahead)


def _rmsprop_slope(optimizer: Any, variable: keras.Variable, gradient: Any) -> tf.Tensor:
    """``-lr / √(v + ε)``."""
    square = optimizer._velocities[optimizer._get_variable_index(variable)]
    square = optimizer.rho * square + (1 - optimizer.rho) * _square(gradient)
    return -_rate(optimizer, variable) / tf.sqrt(square + optimizer.epsilon)


def _adam_slope(optimizer: Any, variable: keras.Variable, gradient: Any) -> tf.Tensor:
    """``-lr (1 - β₁) √(1 - β₂^t) / ((1 - β₁^t) (√v + ε))``."""
    index, beta1, beta2 = optimizer._get_variable_index(variable), optimizer.beta_1, optimizer.beta_2
    count = tf.cast(optimizer.iterations + 1, variable.dtype)
    square = optimizer._velocities[index]
    square = beta2 * square + (1 - beta2) * _square(gradient)
    if optimizer.amsgrad:
        square = tf.maximum(square, optimizer._velocity_hats[index])
    rate = -_rate(optimizer, variable) * tf.sqrt(1 - beta2**count) / (1 - beta1**count)
    return (1 - beta1) * rate / (tf.sqrt(square) + optimizer.epsilon)


_KNOWN: Mapping[type, Callable[[Any, keras.Variable, Any], tf.Tensor]] = {
    keras.optimizers.SGD: _sgd_slope,
    keras.optimizers.RMSprop: _rmsprop_slope,
    keras.optimizers.Adam: _adam_slope,
    keras.optimizers.AdamW: _adam_slope,
}


def check_unscaled(optimizer: Any) -> None:
    """Raise `LCAError` if the gradients passed to the optimizer are not those of its next update."""
    if hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "loss_scale_factor", None):
        raise LCAError(
            f"the optimizer {type(optimizer).__name__} is given scaled gradients, but estimators on batches "
            "require those of the loss; use an optimizer without loss scaling, or an estimator that requires "
            "no gradient (lca.estimators.SampledPathIntegral)."
        )
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise LCAError(
            "the optimizer accumulates gradients itself, so no single call passes the gradient of an update; "
            "accumulate in a loop of your own with tracker.add(total, gradients), or use an estimator that "
            "requires no gradient (lca.estimators.SampledPathIntegral)."
        )
