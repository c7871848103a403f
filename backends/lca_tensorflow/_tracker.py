"""`Tracker`: measures a training loop in Keras, around the updates of its optimizer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca.objective import Objective as AnyObjective
from lca.tracking import ModelTracker
from lca_tensorflow._loop import Loop
from lca_tensorflow._objective import Objective
from lca_tensorflow._parameters import flat, parameters_of


class Tracker(ModelTracker[Loop]):
    """Allocates the loss change of every update of ``optimizer`` inside a ``with`` block.

    In an eager loop nothing else is needed: the tracker intercepts ``optimizer.apply``, which
    ``apply_gradients`` calls too. It cannot see updates inside a `tf.function`; there, wrap the call:
    ``with tracker.step(): train_step(x, y)``. Training with and without a tracker gives the same numbers, bit
    for bit. A call that only accumulates gradients, and an update that a `LossScaleOptimizer` skips, are not
    steps.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the Keras optimizer that updates it.
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name.
    estimator, every, views, on_error, record
        As in `lca.tracking.TrackerBase`: by default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, the three do not belong together, or the model
        was built under a distribution strategy.

    Notes
    -----
    Estimators on training batches (`lca.estimators.CrossFit` and others) require step fields: the gradient,
    from the eager call of ``optimizer.apply``, and the rest from a loop over `batches` or `micro_batches`,
    and from calls of `add` and `scores`.

    Memory beyond the estimator's: copies of θ at both ends of a step, on its own device.

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

    _types = keras.Model, keras.optimizers.Optimizer
    _type_names = "keras.Model", "keras.optimizers.Optimizer"
    _advice = {
        "batch": "loop over tracker.batches(dataset)",
        "gradient": "call optimizer.apply eagerly and not inside tracker.step(), so that the tracker sees it",
        "micro_batches": "loop over tracker.micro_batches(batch, M), or over several batches of "
        "tracker.batches(dataset), and add up their gradients with tracker.add",
        "scores": "call tracker.scores(index, outputs, labels) at every step, or give the estimator "
        "refresh=n",
    }
    _in_step = False
    _made = 0  # updates that were seen

    def add(self, total: Sequence[Any] | None, gradients: Sequence[Any]) -> list[Any]:
        """Return ``total + gradients``, tensor by tensor, and record the gradients of a micro-batch.

        A ``total`` of ``None`` is zero and begins an update. If the estimator requires micro-batches, the
        update without each of them is found by a dry run of the optimizer before its own update, which costs
        one update for each micro-batch.

        >>> # total = None
        >>> # for (x, y), weight in tracker.micro_batches(batch, 2):
        >>> #     with tf.GradientTape() as tape:
        >>> #         loss = weight * loss_fn(y, model(x, training=True))
        >>> #     total = tracker.add(total, tape.gradient(loss, model.trainable_weights))
        >>> # optimizer.apply(total, model.trainable_weights)
        """
        return self._context.add(total, gradients)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Everything inside that updates parameters is one step: a compiled function, `train_on_batch`, ...

        Several updates inside are allocated as one segment, straight from θ before to θ after.
        """
        if not self._active:
            raise LCAError("tracker.step() was called outside `with tracker:`; put the loop inside it.")
        self._in_step = True
        before = self._count()
        self._follower.before()
        try:
            yield
        except BaseException:
            self._context.clear()
            raise
        finally:
            self._in_step = False
        self._after(self._count() - before)

    def _count(self) -> int:
        """How many updates the optimizer has made so far."""
        return int(self._optimizer.iterations)

    def _after(self, made: int) -> None:
        """``made`` updates may have been made since `RunFollower.before`; none is not a step."""
        self._made += made
        if made:
            self._follower.after()
        self._context.clear()

    def _attach(self) -> None:
        if "apply" in vars(self._optimizer):
            raise LCAError("another tracker is in use on this optimizer; use one after the other.")
        self._made_before = self._count() - self._made
        apply = self._optimizer.apply

        def tracked_apply(grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
            if self._in_step or tf.inside_function():
                return apply(grads, trainable_variables, **kwargs)
            grads = list(grads)  # an iterator can be read only once, and the optimizer reads it too
            variables = None if trainable_variables is None else list(trainable_variables)
            with self.step():
                trained = self._optimizer._trainable_variables if variables is None else variables
                self._context.apply(grads, trained)
                self._follower.collect_fields()
                return apply(grads, variables, **kwargs)

        object.__setattr__(self._optimizer, "apply", tracked_apply)

    def _detach(self) -> None:
        object.__delattr__(self._optimizer, "apply")
        super()._detach()

    def _check_run(self) -> None:
        unseen = self._count() - self._made - self._made_before
        if unseen:
            raise LCAError(
                f"{unseen} updates were made inside a tf.function, where the tracker cannot see them, and "
                "belong to no step; wrap the call: with tracker.step(): train_step(...)."
            )

    def _named_parameters(self, model: keras.Model) -> dict[str, keras.Variable]:
        if model._distribute_strategy is not None or tf.distribute.has_strategy():
            raise LCAError(
                "models of a tf.distribute strategy are not measured; build and compile the model outside "
                "strategy.scope()."
            )
        return parameters_of(model)

    def _parameters_of(self, objective: AnyObjective) -> dict[str, keras.Variable]:
        if not isinstance(objective, Objective):
            return {}
        return dict(zip(objective.layout.names, objective.variables, strict=True))

    def _owned(self) -> Iterable[keras.Variable]:
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        return inner._trainable_variables or ()

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Loop:
        return Loop(parameters, self._optimizer, self._requested)

    def _live_theta(self, parameters: Sequence[keras.Variable]) -> "_LiveTheta":
        return _LiveTheta(parameters)


class _LiveTheta:
    """`lca.tracking.LiveTheta` of variables; eager tensors never change, so every read is a copy."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables = variables

    def copy(self) -> tf.Tensor:
        return flat(self._variables)

    borrow = copy

    def persist(self, borrowed: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        return borrowed

    def is_at(self, theta: tf.Tensor) -> bool:
        return self.equal(flat(self._variables), theta)

    def equal(self, a: tf.Tensor, b: tf.Tensor) -> bool:
        return bool(tf.reduce_all(a == b))
