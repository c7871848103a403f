"""`Tracker`: measures a training loop in Keras, around the updates of its optimizer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca.tracking._optimizers import warn_of_other_optimizer, within
from lca_keras._counts import held
from lca_keras._tracking import KerasTracker, LiveVariables
from lca_tensorflow._loop import Loop
from lca_tensorflow._optimizers import check_known, check_unconstrained, check_unscaled
from lca_tensorflow._rates import LearningRates
from lca_tensorflow._strategy import check_outside, check_strategy
from lca_tensorflow._tapes import computed_gradients
from lca_tensorflow._updates import Updates
from lca_tensorflow._vectors import flat

_SEEN = (
    "call optimizer.apply eagerly and not inside tracker.step(), so that the tracker sees it, and pass it a "
    "gradient of every tensor that the previous update has moved; if two optimizers each apply their part "
    "of the gradient of one tape, use lca.estimators.SampledPathIntegral"
)
_NOT_AHEAD = "none read ahead (to prefetch, wrap the dataset: tracker.batches(dataset.prefetch(1)))"


class Tracker(KerasTracker[Loop]):
    """Allocates the loss change of every update of the model inside a ``with`` block.

    In an eager loop nothing else is needed: the tracker intercepts ``optimizer.apply``, which
    ``apply_gradients`` calls too. It cannot see updates inside a `tf.function`; there, wrap the call:
    ``with tracker.step(): train_step(x, y)``. Training with and without a tracker gives the same numbers, bit
    for bit. A call that only accumulates gradients, and an update that a ``LossScaleOptimizer`` skips, are
    not steps. An update that makes others (an optimizer inside another) is one step.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the Keras optimizer that updates it, or a list of those that take
        turns. The eager updates of another optimizer, such as one made in mid-run, are steps too; the first
        warns.
    objective
        The measured loss (`lca_tensorflow.Objective` of this model, or a `lca.Sum` with one), or several by
        name.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `lca.tracking.TrackerBase`: by default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, ``model``, ``optimizer`` and ``objective`` do
        not belong together, or the model was built under a distribution strategy other than
        `tf.distribute.MirroredStrategy`.

    Notes
    -----
    Estimators on training batches (`lca.estimators.CrossFit` and others) require step fields: the gradient,
    from the eager call of ``optimizer.apply``, and the rest from a loop over `batches` or `micro_batches`,
    and from calls of `add` and `scores`. The gradient of the loss is the one that the tape computes: a loop
    that clips or averages it before ``optimizer.apply`` passes it on with `add` before that. Gradients that
    are altered without it are refused; of those that no eager tape has computed a warning says that they
    could not be compared.

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

    _advice = {
        "batch": f"loop over tracker.batches(dataset), {_NOT_AHEAD}, and make one update from each batch: "
        "if two optimizers each apply their part of a gradient, use lca.estimators.SampledPathIntegral",
        "gradient": _SEEN,
        "micro_batches": "loop over tracker.micro_batches(batch, M), or over several batches of "
        f"tracker.batches(dataset), {_NOT_AHEAD}, and add up their gradients with tracker.add",
        "update_slope": _SEEN,
        "halves": f"loop over tracker.batches(dataset), {_NOT_AHEAD}, and make each update from one batch of "
        "at least two examples, by one optimizer; with gradient accumulation use CrossFit(micro_batches=M) "
        "without own_pass, with two optimizers lca.estimators.SampledPathIntegral",
        "scores": "call tracker.scores(index, outputs, labels) at every step, or give the estimator "
        "refresh=n",
    }
    _rates: LearningRates | None = None
    _in_python = False  # whether an update in a `step` was made eagerly

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

    def _compiles(self) -> bool:
        return not (self._in_python or tf.config.functions_run_eagerly())

    def _attach(self) -> None:
        self._begin_counting()
        self._updates = Updates(self._parameters, self._around, self._see)
        self._updates.follow()
        self._tapes = ExitStack()
        if self._takes_gradients():
            self._tapes.enter_context(computed_gradients(self._context.computed))

    def _detach(self) -> None:
        self._tapes.close()
        self._updates.leave()
        super()._detach()

    @contextmanager
    def _around(
        self, optimizer: Any, grads: list[Any], variables: Sequence[keras.Variable]
    ) -> Iterator[None]:
        """An optimizer makes an eager update of the model."""
        if self._see(optimizer) and not self._in_step:
            warn_of_other_optimizer(self._follower.steps, optimizer)
        self._in_python |= self._in_step
        if self._in_step or tf.distribute.has_strategy():  # each replica makes a part of one update
            yield
            return
        before = self._counts.made_by([optimizer])
        with self._step():
            self._context.apply(optimizer, grads, variables)
            self._follower.collect_fields()
            yield
        self._after(self._counts.made_by([optimizer]) - before)

    def _see(self, optimizer: Any) -> bool:
        """Whether this optimizer updates the model and was not known; from now on it is."""
        if any(optimizer is known for known in self._known) or any(
            optimizer is known for known in within(self._known, held)
        ):
            return False
        inside = list(within([optimizer], held))
        wrapped = [one for one in self._known if any(one is part for part in inside)]
        self._known = [one for one in self._known if all(one is not part for part in wrapped)] + [optimizer]
        self._made_before += self._counts.made_by([optimizer]) - self._counts.made_by(wrapped)
        return True

    def _check_run(self) -> None:
        if unseen := self._unseen():
            raise LCAError(
                f"{unseen} updates were made inside a tf.function, or past optimizer.apply (as by "
                "optimizer.update_step), where the tracker cannot see them, and belong to no step; wrap the "
                "call: with tracker.step(): train_step(...)."
            )

    def _named_parameters(self, model: keras.Model) -> dict[str, keras.Variable]:
        check_strategy(model)
        check_outside()
        return super()._named_parameters(model)

    def _learning_rates(self) -> Mapping[str, float]:
        if self._rates is None:
            self._rates = LearningRates(self._optimizers)
        return self._rates()

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Loop:
        if self._takes_gradients():
            for optimizer in self._optimizers:
                check_unscaled(optimizer)
        if "update_slope" in self._session.required_fields:
            check_unconstrained(parameters)
            for optimizer in self._optimizers:
                check_known(optimizer)
        self._parameters = parameters
        delayed = any(field.startswith("next_") for field in self._session.required_fields)
        return Loop(parameters, self._requested, delayed=delayed)

    def _live_theta(self, parameters: Sequence[keras.Variable]) -> LiveVariables:
        self._live = LiveVariables(partial(flat, parameters))
        return self._live
