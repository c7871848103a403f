"""`Tracker`: measures a training loop that somebody else wrote, around its updates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.frameworks import PyTree
from lca.objective import Objective as AnyObjective
from lca.summary import RunViews
from lca.tracking import MakeViews, OnError, RecordTo, Schedule, Session
from lca.views import View
from lca_tensorflow.updates import Updates


class Tracker:
    """Allocates the loss change of every update of ``optimizer`` inside a ``with`` block.

    In an eager loop nothing else is needed: the tracker listens to ``optimizer.apply``, which
    ``apply_gradients`` calls as well. What runs inside a `tf.function` it cannot hear; there, wrap the call:
    ``with tracker.step(): train_step(x, y)``. Training with and without a tracker gives the same numbers, bit
    for bit. Accumulated gradients, and a step that a `LossScaleOptimizer` skips, are no step.

    Parameters
    ----------
    model, optimizer
        What is being trained, and the Keras optimizer that makes the steps.
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name.
    estimator, every, views, on_error, record
        As in `lca.tracking.Session`: default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If optimizer, objective and model do not belong together, or under a distribution strategy.

    Notes
    -----
    Memory beyond the estimator's: θ at both ends of a step, on its own device.

    Examples
    --------
    >>> from lca_tensorflow import Objective
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> x, y, loss = tf.eye(2), tf.ones([2, 1]), keras.losses.MeanSquaredError()
    >>> optimizer = keras.optimizers.SGD(0.1)
    >>> with Tracker(model, optimizer, Objective(model, loss, (x, y))) as tracker:
    ...     for _ in range(3):
    ...         with tf.GradientTape() as tape:
    ...             value = loss(y, model(x, training=True))
    ...         optimizer.apply(tape.gradient(value, model.trainable_weights), model.trainable_weights)
    >>> summary = tracker.summary()["train"]
    >>> summary["steps"], summary["lca_total"] < 0
    (3, True)
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        objective: AnyObjective | Mapping[str, AnyObjective],
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: MakeViews = RunViews.of,
        on_error: OnError = "warn",
        record: RecordTo | None = None,
    ) -> None:
        _check_kinds(model, optimizer, objective)
        self._measurement = Session(
            objective, estimator, every=every, views=views, on_error=on_error, record=record
        )
        self._updates = Updates(model, optimizer, self._measurement, in_loop=True)
        self._optimizer = optimizer
        self._listening = self._in_step = False
        self._unseen = 0

    @property
    def steps(self) -> int:
        """Number of steps seen, measured or not."""
        return self._updates.watch.steps

    @property
    def discontinuities(self) -> int:
        """Number of measured steps that did not begin where the step before had ended."""
        return self._updates.watch.discontinuities

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name."""
        return self._measurement.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or ``None``."""
        return self._measurement.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss and each term of one, by name."""
        return self._measurement.summary()

    @property
    def skipped_steps(self) -> int:
        """Number of steps that lacked what to measure them by (`lca.tracking.Session`)."""
        return self._measurement.skipped_steps

    def batches(self, loader: Iterable[PyTree]) -> Iterator[PyTree]:
        """The batches of ``loader`` one by one, so that the tracker knows which one makes the next step.

        Several batches to one step (gradient accumulation) are its parts, told with `add`; their losses weigh
        alike. A batch that makes no update is forgotten when the next one comes.

        >>> # for x, y in tracker.batches(dataset): ...
        """
        return self._updates.loop.batches(loader)

    def micro_batches(self, batch: PyTree, n: int) -> Iterator[tuple[PyTree, float]]:
        """``batch`` cut into ``n`` parts, each with its share of the examples, to be its weight in the loss.

        The loop takes the gradient of each, and adds them up with `add`.
        """
        return self._updates.loop.micro_batches(batch, n)

    def add(self, total: Sequence[Any] | None, gradients: Sequence[Any]) -> list[Any]:
        """``total + gradients``, tensor by tensor, and the tracker knows that these are those of a part.

        ``None`` is nothing yet: an update begins. The update without each part is then found by letting the
        optimizer make it, and putting everything back, before its own. That costs an update for each part.

        >>> # total = None
        >>> # for (x, y), share in tracker.micro_batches(batch, 2):
        >>> #     with tf.GradientTape() as tape:
        >>> #         loss = share * loss_fn(y, model(x, training=True))
        >>> #     total = tracker.add(total, tape.gradient(loss, model.trainable_weights))
        >>> # optimizer.apply(total, model.trainable_weights)
        """
        return self._updates.loop.add(total, gradients)

    def scores(self, index: Any, outputs: Any, labels: Any = None) -> None:
        """How wrong the forward pass of training has just been on single examples; for probes by error.

        Parameters
        ----------
        index
            Which examples of the measured data they are, integers (n,).
        outputs
            Logits (n, C), the error being ``1 - softmax(outputs)[label]``; or, without labels, the errors
            themselves (n,).
        labels
            Classes (n,).
        """
        with self._measurement.guarded(self.steps):
            self._updates.loop.scores(index, outputs, labels)

    def _hand_over(self, grads: list[Any], variables: list[Any] | None) -> None:
        trained = self._optimizer._trainable_variables if variables is None else variables
        self._updates.loop.heard(grads, trained)
        self._updates.watch.hand_over()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Whatever moves the parameters inside is one step: a compiled training step, `train_on_batch`, ...

        Several updates inside are allocated as one segment, straight from θ before to θ after.
        """
        if not self._listening:
            raise LCAError("the tracker is not at work; put the loop into `with tracker:`.")
        self._in_step = True
        self._updates.before(others=True)
        try:
            yield
        except BaseException:
            self._updates.loop.forget()
            raise
        finally:
            self._in_step = False
        self._updates.after()

    def __enter__(self) -> "Tracker":
        if self._listening or "apply" in vars(self._optimizer):
            raise LCAError("a tracker is already at work on this optimizer; one after the other.")
        self._listening = True
        self._unseen = self._updates.count() - self._updates.made
        self._updates.begin()
        apply = self._optimizer.apply

        def heard(grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
            if self._in_step or tf.inside_function():
                return apply(grads, trainable_variables, **kwargs)
            grads = list(grads)  # an iterator can be read once, and the optimizer has to
            variables = None if trainable_variables is None else list(trainable_variables)
            with self.step():
                self._hand_over(grads, variables)
                return apply(grads, variables, **kwargs)

        object.__setattr__(self._optimizer, "apply", heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        object.__delattr__(self._optimizer, "apply")
        self._updates.loop.forget()
        self._listening = False
        unheard = self._updates.count() - self._updates.made - self._unseen
        if unheard and kind is None and self.error is None:
            with self._measurement.guarded(self.steps):
                raise LCAError(
                    f"{unheard} updates were made inside a tf.function, where they cannot be heard, and are "
                    "in no step; wrap the call: with tracker.step(): train_step(...)."
                )
        self._updates.watch.end(complete=kind is None)


def _check_kinds(model: object, optimizer: object, objective: object) -> None:
    """Raise `LCAError` if arguments are of the wrong kind, above all in another order."""
    measured = objective.values() if isinstance(objective, Mapping) else [objective]
    wrong = [o for o in measured if isinstance(o, type) or not isinstance(o, AnyObjective)]
    for what, given, right in (
        ("model", model, isinstance(model, keras.Model)),
        ("optimizer", optimizer, isinstance(optimizer, keras.optimizers.Optimizer)),
        ("objective", wrong[0] if wrong else None, not wrong),
    ):
        if not right:
            raise LCAError(
                f"the {what} is of type {type(given).__name__}; the order is Tracker(model, optimizer, "
                "objective), with a keras.Model, one keras.optimizers.Optimizer (each of several gets a "
                "Tracker of its own), and an Objective or several by name."
            )
