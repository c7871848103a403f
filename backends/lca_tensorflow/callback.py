"""`LCACallback`: allocates the loss change of every update that `model.fit` makes."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from lca.allocation import Estimator
from lca.errors import LayoutError, LCAError
from lca.layout import Layout
from lca.objective import Objective, State
from lca.step import Step
from lca.summary import RunViews
from lca.tracking import Measurement, OnError, Schedule
from lca.views import View
from lca_tensorflow.parameters import flat, parameters_of


class LCACallback(keras.callbacks.Callback):
    """Allocates every update of ``model.fit(..., callbacks=[LCACallback(objective)])``.

    θ is read before and after the batch, and the update is measured before training goes on. The model is
    only read: training with and without the callback gives the same numbers. Compiled training, XLA and
    gradient accumulation need nothing; a batch that makes no update (accumulation, a skipped step of a
    `LossScaleOptimizer`) is no step.

    Parameters
    ----------
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name.
    estimator, every, views, on_error
        As in `lca.tracking.Measurement`: default `lca.Adaptive`, every step, the views of `summary`, and a
        warning.

    Attributes
    ----------
    steps
        Number of updates seen, measured or not.

    Raises
    ------
    LCAError
        When fit begins, with ``steps_per_execution`` above 1 or under a distribution strategy, which hide
        single updates.

    Examples
    --------
    >>> from lca_tensorflow import Objective
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = tf.eye(2), tf.ones([2, 1])
    >>> lca_callback = LCACallback(Objective(model, None, (x, y)))
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[lca_callback])
    >>> lca_callback.summary()["train"]["steps"]
    3
    """

    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: Callable[[Layout], View] = RunViews.of,
        on_error: OnError = "warn",
    ) -> None:
        super().__init__()
        self._measurement = Measurement(objective, estimator, every=every, views=views, on_error=on_error)
        self._variables: list[keras.Variable] = []
        self.steps = 0
        self._updates = 0
        self._start: tf.Tensor | None = None
        self._end: tf.Tensor | None = None
        self._state: State | None = None

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name."""
        return self._measurement.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or ``None``."""
        return self._measurement.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss, by name."""
        return self._measurement.summary()

    def on_train_begin(self, logs: Any = None) -> None:
        if self.model.steps_per_execution != 1:
            raise LCAError(
                f"with steps_per_execution={self.model.steps_per_execution} Keras shows callbacks only every "
                "so many updates; use model.compile(..., steps_per_execution=1)."
            )
        if tf.distribute.has_strategy() or self.model._distribute_strategy is not None:
            raise LCAError(
                "models of a tf.distribute strategy are not measured; build and compile the model outside "
                "strategy.scope()."
            )
        named = parameters_of(self.model)
        [first, *_] = self._measurement.objectives.values()
        unknown = [name for name in first.layout.names if name not in named]
        if unknown:
            raise LayoutError(
                f"the objective is about {', '.join(map(repr, unknown))}, which the model has not; "
                "make it from the same model."
            )
        self._variables = [named[name] for name in first.layout.names]
        self._start = self._end = self._state = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._start = None
        self._updates = int(self.model.optimizer.iterations)
        if self._measurement.wants(self.steps):
            with self._measurement.guarded(self.steps):
                theta = flat(self._variables)
                # The very vector that the last step ended with, so that its gradient is reused.
                same = self._end is not None and bool(tf.reduce_all(theta == self._end))
                self._start = self._end if same else theta
                self._state = self._current_state()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == self._updates:
            return
        if self._start is not None:
            with self._measurement.guarded(self.steps):
                start, before, end = self._start, self._state, flat(self._variables)
                self._end, self._state = end, self._current_state()
                state = None if before is None or self._state is None else (before, self._state)
                self._measurement.measure(Step(start, end, self.steps, state=state))
        self.steps += 1

    def _current_state(self) -> State | None:
        """The state as it is now; the very object known before if nothing moved since."""
        now, known = self._measurement.state(), self._state
        if now is None or known is None:
            return now
        return known if all(bool(tf.reduce_all(now[name] == known[name])) for name in now) else now
