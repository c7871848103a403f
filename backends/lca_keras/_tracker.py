"""`Tracker`: measures a training loop that updates a Keras model on PyTorch or JAX."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError
from lca.frameworks import PyTree, tensor_ops, tensors_in
from lca.tracking._context import GRADIENT_FIELDS, LoopContext
from lca_keras._engine import engine
from lca_keras._tracking import KerasTracker, LiveVariables
from lca_keras._vectors import flat


class Fields(LoopContext):
    """The step fields of a loop: batches and scores; `Tracker` refuses those made of gradients."""

    def _joined(self, batches: Sequence[PyTree]) -> PyTree:
        parts = zip(*map(tensors_in, batches), strict=True)
        joined = [ops.concatenate(list(own)) for own in parts if (ops := tensor_ops(own[0])) is not None]
        return keras.tree.pack_sequence_as(batches[0], joined)

    def _label_errors(self, logits: Any, labels: Any) -> Any:
        chosen = keras.ops.reshape(keras.ops.convert_to_tensor(labels), (-1, 1))
        return 1 - keras.ops.take_along_axis(keras.ops.softmax(logits), chosen, 1)[:, 0]

    def _to_numpy(self, array: Any) -> np.ndarray:
        found: np.ndarray = keras.ops.convert_to_numpy(array)
        return found

    def _gradient(self) -> Vector | None:
        return None

    # Never called: `Tracker` refuses estimators that require fields made of gradients.

    def _gradient_sums(self) -> tuple[Vector, Iterable[Vector]]:
        raise NotImplementedError

    def _update_slope(self, gradient: Vector, factor: float) -> Vector:
        raise NotImplementedError

    def _updates_without(self, gradients: Sequence[Vector], weights: Sequence[float]) -> Sequence[Vector]:
        raise NotImplementedError


class Tracker(KerasTracker[Fields]):
    """Allocates the loss change of every `step` of a loop that updates the variables of a model.

    Enter ``with tracker.step():`` around each update: ``optimizer.apply``, ``train_on_batch``, or the
    assignment of new values. Training with and without a tracker gives the same numbers, bit for bit. A loop
    on JAX that passes its parameters as values takes `lca.tracking.FunctionalTracker` with
    ``pack=objective.pack``.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the Keras optimizer that updates it, or a list of those that take
        turns.
    objective
        The measured loss (`lca_keras.Objective` of this model, or a `lca.Sum` with one), or several by name.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `lca.tracking.TrackerBase`: by default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, ``model``, ``optimizer`` and ``objective`` do
        not belong together, or the estimator requires the gradients of training, which this tracker does not
        see. At the end of the block, if the optimizer has made updates outside a `step`.

    Examples
    --------
    >>> # with Tracker(model, optimizer, objective) as tracker:
    >>> #     for x, y in batches:
    >>> #         with tracker.step():
    >>> #             model.train_on_batch(x, y)
    """

    _advice = {
        "batch": "loop over tracker.batches(batches), and make one update from each batch",
        "scores": "call tracker.scores(index, outputs, labels) at every step, or give the estimator "
        "refresh=n",
    }

    def _compiles(self) -> bool:
        return engine().compiles_training(self._model)

    def _attach(self) -> None:
        self._begin_counting()

    def _after(self, made: int) -> None:
        self._follower.collect_fields()
        super()._after(made)

    def _unseen(self) -> int:
        engine().attach(self._model)
        return super()._unseen()

    def _check_run(self) -> None:
        if unseen := self._unseen():
            raise LCAError(
                f"{unseen} updates were made outside of tracker.step() and belong to no step; wrap each: "
                "with tracker.step(): optimizer.apply(...)."
            )

    def _learning_rates(self) -> Mapping[str, float]:
        inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in self._optimizers]
        return {str(i): _rate(optimizer) for i, optimizer in enumerate(inner)}

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Fields:
        required = {field.removeprefix("next_") for field in self._session.required_fields}
        if missing := sorted(GRADIENT_FIELDS & required):
            raise LCAError(
                f"the estimator requires {', '.join(f'Step.{field}' for field in missing)}, and on PyTorch "
                "and JAX the tracker of Keras sees no gradient of training; pass them to a "
                "lca.tracking.FunctionalTracker with pack=objective.pack, or use an estimator that requires "
                "none: lca.Adaptive, lca.PathIntegral or lca.estimators.SampledPathIntegral."
            )
        return Fields(self._requested)

    def _live_theta(self, parameters: Sequence[keras.Variable]) -> LiveVariables:
        used = engine()

        def now() -> Vector:
            used.attach(self._model)
            return flat([used.read(variable) for variable in parameters])

        self._live = LiveVariables(now)
        return self._live


def _rate(optimizer: Any) -> float:
    """The learning rate of the update that was just made, as the decimal that was meant."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(int(optimizer.iterations) - 1)
    return float(f"{float(keras.ops.convert_to_numpy(rate)):.7g}")
