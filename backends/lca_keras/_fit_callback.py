"""`FitCallback`: allocates the loss change of every update that `model.fit` makes, on any engine."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import keras

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.frameworks import BatchNormPolicy
from lca.objective import Objective as AnyObjective
from lca.tracking import CallbackBase, Options
from lca.tracking._options import names_options
from lca_keras._counts import Counts
from lca_keras._fit import Fit, call_of_fit
from lca_keras._tracking import FitTracker


class FitCallback(CallbackBase[Any], keras.callbacks.Callback):
    """`LCACallback` of every engine of Keras; a subclass names its objective and its tracker."""

    objective_type: ClassVar[Callable[..., AnyObjective]]
    """Makes the objective of ``(model, None, data)``."""
    tracker_type: ClassVar[type[FitTracker[Any]]]

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

    def _make_tracker(self) -> FitTracker[Any]:
        model = self.model
        if model.steps_per_execution != 1:
            raise LCAError(
                f"with steps_per_execution={model.steps_per_execution} Keras calls callbacks only once in "
                "that number of updates; use model.compile(..., steps_per_execution=1)."
            )
        objective = self._measured
        with _naming_objective(made=not _is_objective(objective)):
            if not _is_objective(objective):
                objective = self.objective_type(model, None, objective, **self._made_with)
            self._fit.check_weights(objective)
            return self.tracker_type(model, model.optimizer, objective, self._estimator, **self._options)


class _Last(keras.callbacks.Callback):
    """Begins the run of a `FitCallback`, and each batch, and ends the run after all other callbacks have."""

    def __init__(self, callback: FitCallback) -> None:
        super().__init__()
        self._callback = callback

    def on_train_begin(self, logs: Any = None) -> None:
        params = self._callback.params or {}  # a loop that calls the callbacks itself need not set them
        steps, epochs = params.get("steps"), params.get("epochs")
        model, fit = self._callback.model, self._callback._fit
        first = getattr(model, "_initial_epoch", 0) or fit.initial_epoch  # the former: of `BackupAndRestore`
        updates = int(steps * (epochs - first)) if steps and epochs else None
        resumed = model.optimizer and (first or fit.restores())
        made = Counts().made_by([model.optimizer]) if resumed else 0
        self._callback._begin(self._callback._make_tracker, updates, made, call_of_fit(model))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._callback._before_batch()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._callback._fit.whole_epochs:
            self._callback._begin_epoch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._callback._end_epoch()
        self._callback._add_metrics(logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        self._callback._fit.remove(self)
        self._callback._end()


@contextmanager
def _naming_objective(*, made: bool) -> Iterator[None]:
    """Say where an option that an error advises goes, if the callback has ``made`` the objective."""
    try:
        yield
    except LCAError as error:
        if made and "batch_weight=" in str(error):
            error.args = (
                f"{error} The callback makes the objective and takes no batch_weight; make it yourself: "
                "LCACallback(Objective(model, None, data, batch_weight=...)).",
            )
        raise


def _is_objective(measured: Any) -> bool:
    """Whether this is an objective, or several by name."""
    several = measured.values() if isinstance(measured, Mapping) else [measured]
    return all(isinstance(objective, AnyObjective) for objective in several)
