"""`LCACallback`: allocates the loss change of every update that `model.fit` makes."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from lca.allocation import Estimator
from lca.errors import LCAError, LCAWarning
from lca.frameworks import BatchNormPolicy
from lca.objective import Objective as AnyObjective
from lca.summary import RunViews
from lca.tracking import MakeViews, OnError, RecordTo, Schedule, Session, check_options
from lca.views import View
from lca_tensorflow.objective import Objective
from lca_tensorflow.updates import Updates


class LCACallback(keras.callbacks.Callback):
    """Allocates every update of ``model.fit(..., callbacks=[LCACallback(x, y)])``.

    θ is read before and after the batch, and the update is measured before training goes on. The model is
    only read: training with and without the callback gives the same numbers. Compiled training, XLA and
    gradient accumulation need nothing; a batch that makes no update (accumulation, a skipped step of a
    `LossScaleOptimizer`) is no step.

    Parameters
    ----------
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name; or the data, in any form that `Objective` takes, whose compiled loss is to be measured.
    y
        The targets, if ``objective`` is the inputs.
    batch_size, batch_norm
        As in `Objective`, which is made of the data with them; not with an objective that is there already.
    estimator, every, views, on_error, record
        As in `lca.tracking.Session`: default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record. ``on_error`` holds for what goes wrong when fit begins, too.

    Notes
    -----
    Every call of ``fit`` starts afresh; read `views` or `summary` before the next one, and give each fit that
    is to be recorded a callback with a record of its own. What fit cannot be
    measured with is an error as ``on_error`` says: ``steps_per_execution`` above 1 and distribution
    strategies, which hide single updates, and a `train_step` with optimizers of its own, for which there is
    `Tracker`.

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

    def __init__(
        self,
        objective: AnyObjective | Mapping[str, AnyObjective] | Any,
        y: Any = None,
        *more: Any,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] | None = None,
        estimator: Estimator | None = None,
        every: Schedule = 1,
        views: MakeViews = RunViews.of,
        on_error: OnError = "warn",
        record: RecordTo | None = None,
    ) -> None:
        super().__init__()
        check_options(every, on_error)
        if isinstance(y, Estimator):
            raise LCAError("the second argument is y; pass estimator=... by name.")
        if more or isinstance(objective, keras.Model):
            raise LCAError(
                "fit tells the callback which model it is; write LCACallback(x, y), or LCACallback((x, y, "
                "sample_weight)), or LCACallback(objective), and pass all else by name."
            )
        self._measured: Any = objective if y is None else (objective, y)
        given = {"batch_size": batch_size, "batch_norm": batch_norm}
        self._made_with: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self._made_with and self._objectives_given():
            raise LCAError(
                f"{' and '.join(self._made_with)} cannot change an objective that is there already; pass it "
                "to Objective(...)."
            )
        self._options: dict[str, Any] = {
            "every": every,
            "views": views,
            "on_error": on_error,
            "record": record,
        }
        self._estimator = estimator
        self._failed: Exception | None = None
        self._measurement: Session | None = None
        self._updates: Updates | None = None
        self._batches = 0

    @property
    def steps(self) -> int:
        """Number of updates seen in this fit, measured or not."""
        return 0 if self._updates is None else self._updates.watch.steps

    @property
    def discontinuities(self) -> int:
        """Number of measured updates that did not begin where the one before had ended."""
        return 0 if self._updates is None else self._updates.watch.discontinuities

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name; empty before the fit has begun."""
        return {} if self._measurement is None else self._measurement.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or kept it from beginning, or ``None``."""
        return self._failed if self._measurement is None else self._measurement.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss and each term of one, by name.

        Raises
        ------
        LCAError
            If no step was measured, or ``views`` are not the default ones.
        """
        if self._measurement is None:
            why = f"{type(self._failed).__name__}: {self._failed}" if self._failed else "no fit has begun."
            raise LCAError(f"no step was measured: {why}")
        return self._measurement.summary()

    def on_train_begin(self, logs: Any = None) -> None:
        self._measurement = self._updates = self._failed = None
        self._batches = 0
        try:
            measurement = self._make_measurement()
            self._updates = Updates(self.model, self.model.optimizer, measurement)
        except Exception as error:
            if self._options["on_error"] == "raise":
                raise
            self._failed = error
            warnings.warn(
                f"measuring did not begin, training goes on: {type(error).__name__}: {error}",
                LCAWarning,
                stacklevel=3,
            )
        else:
            self._measurement = measurement
            self._updates.begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._updates is not None:
            self._updates.before()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if self._updates is not None:
            self._updates.after()

    def on_train_end(self, logs: Any = None) -> None:
        if self._updates is None or self._measurement is None:
            return
        if self._batches and not self.steps:
            with self._measurement.guarded(0):
                raise LCAError(
                    f"model.optimizer made no update in {self._batches} batches; if train_step has "
                    "optimizers of its own, put a Tracker around a loop of your own."
                )
        self._updates.watch.end()

    def _make_measurement(self) -> Session:
        if self.model.steps_per_execution != 1:
            raise LCAError(
                f"with steps_per_execution={self.model.steps_per_execution} Keras shows callbacks only every "
                "so many updates; use model.compile(..., steps_per_execution=1)."
            )
        return Session(self._objectives(), self._estimator, **self._options)

    def _objectives(self) -> AnyObjective | Mapping[str, AnyObjective]:
        if self._objectives_given():
            return self._measured  # type: ignore[no-any-return]
        return Objective(self.model, None, self._measured, **self._made_with)

    def _objectives_given(self) -> bool:
        measured = self._measured
        if isinstance(measured, Mapping):
            return all(isinstance(m, AnyObjective) for m in measured.values())
        return isinstance(measured, AnyObjective)
