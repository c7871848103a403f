"""`LCACallback`: allocates the loss change of every update that `model.fit` makes."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca_keras._fit_callback import FitCallback
from lca_keras._reach import is_users
from lca_keras._tracking import FitTracker
from lca_tensorflow._fit_fields import FitFields
from lca_tensorflow._loop import Loop
from lca_tensorflow._objective import Objective
from lca_tensorflow._tracker import Tracker


class _FitTracker(FitTracker[Loop], Tracker):
    """A `Tracker` that is called before and after each batch of ``fit``, compiled or not."""

    _supplied = frozenset({"gradient", "update_slope"})
    _also = "; or one on the gradient alone: lca.estimators.LaggedCrossFit or NextBatch(lca.RIGHT)"
    _fields: FitFields | None = None

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Loop:
        context = super()._make_context(parameters)  # which checks the optimizer
        if not self._session.required_fields:
            return context
        self._fields = FitFields(parameters, self._requested)
        return self._fields

    def _compiles(self) -> bool:
        return not (self._model.run_eagerly or tf.config.functions_run_eagerly())

    def _attach(self) -> None:
        super()._attach()
        if self._fields is None:
            return
        if not self._one_update_a_batch:
            raise LCAError(
                "the estimator requires the gradient of training, which is found in the training step of "
                "Keras only; this model has a train_step of its own. Use a Tracker around a training loop of "
                "your own, or an estimator that requires no step fields (lca.estimators.SampledPathIntegral)."
            )
        self._fields.open(self._model, slopes="update_slope" in self._session.required_fields)

    def _detach(self) -> None:
        super()._detach()
        if self._fields is not None:
            self._fields.close()


class LCACallback(FitCallback):
    """Allocates every update of ``model.fit(..., callbacks=[LCACallback(x, y)])``.

    Each update is measured before training goes on. The model is only read: training with and without the
    callback gives the same numbers, bit for bit. Compiled training, XLA and gradient accumulation need no
    extra code; a batch without an update (accumulation, an update that a ``LossScaleOptimizer`` skips) is not
    a step. All that happens to the weights between the beginning and the end of a batch is part of its step,
    also updates by optimizers that only ``train_step`` knows.

    Parameters
    ----------
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name; or data in any form that `Objective` takes, on which the compiled loss is measured.
    y
        The targets, if ``objective`` is the inputs.
    batch_size, batch_norm
        As in `Objective`, which is made from the data with them; not allowed with an existing objective.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `Tracker`. ``on_error`` also applies to errors when fit begins.

    Raises
    ------
    LCAError
        If the arguments are invalid; and as ``on_error`` says, for the reasons of `Tracker` and for what
        hides single updates from callbacks: ``steps_per_execution`` above 1. If a Python value that the loss
        reads changes after Keras has compiled the training step, which keeps the old one. If
        the compiled loss is measured and a ``train_step`` of the model's own does not compute it.

    Warns
    -----
    LCAWarning
        If fit weighs examples (``class_weight``, ``sample_weight``) and the measured loss does not; or if the
        compiled loss is measured and a ``train_step`` of the model's own adds to it, as its source tells.

    Notes
    -----
    The run begins and ends after what other callbacks do when training begins and ends
    (`keras.callbacks.BackupAndRestore`, ``restore_best_weights``, averaged weights), whatever their order.

    A `keras.Sequential` without `keras.Input` gets its weights when the run begins, the same as in ``fit``
    alone. Other models without weights, and those with layers or initializers of your own, have to be called
    on a batch before.

    Estimators that require the gradient of training (`lca.estimators.LaggedCrossFit`, ``NextBatch(RIGHT)``)
    have the training step keep it: each update copies one vector (K,) for the gradient and one for the slope
    of the update, as long as Keras keeps the compiled step. Training stays the same, bit for bit. If an
    earlier ``fit`` has compiled the step without them, such an estimator is refused; call
    ``model.make_train_function(force=True)`` before ``fit``.

    Every call of ``fit`` is a run of its own: read `views` or `summary` before the next one, and give each
    recorded fit a callback with a record of its own. Keras does not tell callbacks about an error in ``fit``;
    a record is then closed as incomplete, with all its rows, when it is next opened, at the latest when the
    next fit that is measured begins or the process ends.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.eye(2), keras.ops.ones((2, 1))
    >>> lca_callback = LCACallback(x, y)
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[lca_callback])
    >>> lca_callback.summary()["train"]["steps"]
    3
    """

    objective_type = Objective
    tracker_type = _FitTracker

    def _make_tracker(self) -> FitTracker[Any]:
        _build(self.model, self._fit.batch_spec)
        return super()._make_tracker()


def _build(model: keras.Model, batch: Any) -> None:
    """Create the weights of a `keras.Sequential` without Input, as the first batch of ``fit`` would.

    Only where it is known that their first values are the same: those of Keras' own initializers follow from
    seeds that were drawn when the layers were made. All other models are left as they are.
    """
    layers = model._flatten_layers(include_self=False)
    if model.built or not isinstance(model, keras.Sequential) or not all(map(_begins_the_same, layers)):
        return
    with suppress(Exception):  # fit raises it again, or the model has several inputs
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        model.build(tuple(x.shape))


def _begins_the_same(layer: keras.Layer) -> bool:
    """Whether the weights of a layer begin with the same numbers, whenever they are created."""
    held = [
        value for name, value in vars(layer).items() if name.endswith("initializer") and value is not None
    ]
    return not is_users(type(layer)) and all(
        isinstance(own, keras.initializers.Initializer)
        and not is_users(type(own))
        and isinstance(getattr(own, "seed", 0), int)
        for own in held
    )
