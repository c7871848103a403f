"""`LCACallback`: allocates the loss change of every update that `model.fit` makes."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import keras

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.frameworks import BatchNormPolicy
from lca.objective import Objective as AnyObjective
from lca.tracking import CallbackBase, Options
from lca.tracking._options import names_options
from lca_tensorflow._fit import Fit
from lca_tensorflow._loop import Loop
from lca_tensorflow._objective import Objective
from lca_tensorflow._tracker import Tracker


class _FitTracker(Tracker):
    """A `Tracker` that is called before and after each batch of `fit`, compiled or not."""

    _batches = 0
    _stepped = False
    _counted = True  # whether the optimizer of the model counts the updates

    def before_batch(self) -> None:
        """An update may follow."""
        self._follower.before(after_forward=False)
        if not self._counted and not self._follower.reads_theta:
            self._live.copy()

    def after_batch(self) -> None:
        """An update may have been made."""
        self._batches += 1
        # Reading the count takes longer than all else on a step that is not measured.
        made = 1 if self._one_update_a_batch else self._unseen()
        if not made and self._moved():
            self._counted = False
        steps = self.steps
        self._after(made)
        self._stepped |= self.steps > steps

    def _moved(self) -> bool:
        return (not self._counted or self._follower.reads_theta) and self._live.has_moved()

    def _attach(self) -> None:
        self._begin_counting()
        # Keras' own training step; others may update several times or not at all.
        step = getattr(self._model.train_step, "__func__", None)
        own = step is keras.Model.train_step and bool(self._model.trainable_weights)
        skips = hasattr(self._optimizer, "inner_optimizer") or getattr(
            self._optimizer, "gradient_accumulation_steps", None
        )
        self._one_update_a_batch = own and not skips

    def _detach(self) -> None:
        self._context.clear()

    def _check_run(self) -> None:
        if self._batches and not self._stepped:
            raise LCAError(
                f"no update of the model was made in {self._batches} batches; does train_step call an "
                "optimizer, with the weights of this model?"
            )

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Loop:
        if required := self._session.required_fields:
            raise LCAError(
                f"the estimator requires {', '.join(f'Step.{field}' for field in required)}, which fit does "
                "not supply; use a Tracker around a training loop of your own, or an estimator that requires "
                "no step fields: lca.Adaptive, lca.PathIntegral, or lca.estimators.SampledPathIntegral, with "
                "refresh= for samplings other than 'uniform'."
            )
        return super()._make_context(parameters)


class LCACallback(CallbackBase[_FitTracker], keras.callbacks.Callback):
    """Allocates every update of ``model.fit(..., callbacks=[LCACallback(x, y)])``.

    Each update is measured before training goes on. The model is only read: training with and without the
    callback gives the same numbers, bit for bit. Compiled training, XLA and gradient accumulation need no
    extra code; a batch without an update (accumulation, an update that a `LossScaleOptimizer` skips) is not a
    step. All that happens to the weights between the beginning and the end of a batch is part of its step,
    also updates by optimizers that only `train_step` knows.

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
        hides single updates from callbacks: ``steps_per_execution`` above 1, or a distribution strategy. If
        the compiled loss is measured and a `train_step` of the model's own does not compute it.

    Warns
    -----
    LCAWarning
        If fit weighs examples (``class_weight``, ``sample_weight``) and the measured loss does not.

    Notes
    -----
    The run begins and ends after what other callbacks do when training begins and ends
    (`keras.callbacks.BackupAndRestore`, ``restore_best_weights``, averaged weights), whatever their order.

    Every call of ``fit`` is a run of its own: read `views` or `summary` before the next one, and give each
    recorded fit a callback with a record of its own. Keras does not tell callbacks about an error in ``fit``;
    a record is then closed as incomplete when the next fit begins.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.eye(2), keras.ops.ones((2, 1))
    >>> lca_callback = LCACallback(x, y)
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[lca_callback])
    >>> lca_callback.summary()["train"]["steps"]
    3
    """

    @names_options
    def __init__(
        self,
        objective: AnyObjective | Mapping[str, AnyObjective] | Any,
        y: Any = None,
        *more: Any,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] | None = None,
        estimator: Estimator | None = None,
        **options: Unpack[Options],
    ) -> None:
        keras.callbacks.Callback.__init__(self)
        measured = objective if y is None else (objective, y)
        CallbackBase.__init__(self, measured, estimator, **options)
        if isinstance(objective, Estimator) or isinstance(y, Estimator):
            first = isinstance(objective, Estimator)
            which = "first argument is an objective or x" if first else "second argument is y"
            raise LCAError(f"the {which}; pass the estimator by name, as estimator=...")
        if more or isinstance(objective, keras.Model):
            raise LCAError(
                "the callback gets the model from fit; write LCACallback(x, y), LCACallback((x, y, "
                "sample_weight)) or LCACallback(objective), and pass everything else by name."
            )
        given = {"batch_size": batch_size, "batch_norm": batch_norm}
        self._made_with: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self._made_with and _is_objective(measured):
            raise LCAError(
                f"{' and '.join(self._made_with)} cannot change an existing objective; pass it to "
                "Objective(...)."
            )

    def on_train_begin(self, logs: Any = None) -> None:
        self._fit = Fit.of(self.model)
        self._last = _Last(self)
        if not self._fit.append(self._last):
            self._last.on_train_begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._fit.callbacks:
            self._before_batch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.tracker is not None:
            self.tracker.after_batch()

    def on_train_end(self, logs: Any = None) -> None:
        if not self._fit.callbacks:
            self._end()

    def _before_batch(self) -> None:
        if self.tracker is not None:
            self.tracker.before_batch()

    def _make_tracker(self) -> _FitTracker:
        model = self.model
        if model.steps_per_execution != 1:
            raise LCAError(
                f"with steps_per_execution={model.steps_per_execution} Keras calls callbacks only once in so "
                "many updates; use model.compile(..., steps_per_execution=1)."
            )
        objective = self._measured
        if not _is_objective(objective):
            objective = Objective(model, None, objective, **self._made_with)
        self._fit.check_weights(objective)
        return _FitTracker(model, model.optimizer, objective, self._estimator, **self._options)


class _Last(keras.callbacks.Callback):
    """Begins the run of an `LCACallback`, and each batch, and ends the run after all other callbacks have."""

    def __init__(self, callback: LCACallback) -> None:
        super().__init__()
        self._callback = callback

    def on_train_begin(self, logs: Any = None) -> None:
        self._callback._begin(self._callback._make_tracker)
        params = self._callback.params or {}  # a loop that calls the callbacks itself need not set them
        steps, epochs = params.get("steps"), params.get("epochs")
        self._callback._expect(steps and epochs and steps * epochs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._callback._before_batch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._callback._add_metrics(logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        self._callback._fit.remove(self)
        self._callback._end()


def _is_objective(measured: Any) -> bool:
    """Whether this is an objective, or several by name."""
    several = measured.values() if isinstance(measured, Mapping) else [measured]
    return all(isinstance(objective, AnyObjective) for objective in several)
