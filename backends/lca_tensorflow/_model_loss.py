"""`KerasLoss`: the loss and gradient of batches of a Keras model at any θ, compiled.

The model's variables are never written: a `keras.StatelessScope` puts θ in their place for the time of a
forward pass, and catches whatever the pass would assign (moving statistics, seeds).
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LayoutError
from lca.frameworks import (
    BatchNorm,
    Frozen,
    ModelLoss,
    PyTree,
    check_loss,
    check_theta,
    loss_errors,
    no_gradient,
    require_weight,
)
from lca.frameworks._loss import unweighted
from lca.layout import Layout
from lca.objective import State
from lca_tensorflow._data import as_tensors, weighted_by_class
from lca_tensorflow._examples import weights_of, with_weights
from lca_tensorflow._losses import (
    BatchLoss,
    averages_by_weight,
    data_loss,
    default_loss,
    error_scores,
    number_of_examples,
    penalty_loss,
    sum_of_weights,
)
from lca_tensorflow._parameters import (
    flat,
    flat_gradient,
    layout_of,
    parameters_of,
    tensors_of,
    training,
    unique_names,
)
from lca_tensorflow._policies import Scope, batch_statistics, layers_with_batch_statistics

Sums: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Weighted loss, weight and weighted gradient of the batches so far."""
MEAN_HINT = "use reduction='sum_over_batch_size'"


class KerasLoss(ModelLoss):
    """`lca.frameworks.ModelLoss` of a Keras model; the options are those of `lca_tensorflow.Objective`."""

    mean_hint = MEAN_HINT
    gradient_hint = "is it computed with stop_gradient, or converted to NumPy on the way?"
    sample_hint = "pass a loss_fn that takes a sample_weight, as a keras.losses.Loss does"

    def __init__(
        self,
        model: keras.Model,
        loss_fn: Any,
        *,
        batch_loss: BatchLoss | None,
        batch_weight: Callable[[PyTree], Any] | None,
        class_weight: Mapping[int, float] | None,
        batch_norm: BatchNorm,
        frozen: Frozen,
        jit_compile: bool,
        run_eagerly: bool,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self.variables = list(parameters_of(model, frozen).values())
        self.dtype: str = self.variables[0].dtype
        self._model, self._loss_fn = model, loss_fn
        self._own_loss = batch_loss is not None
        self._batch_loss = batch_loss or default_loss(loss_fn)
        self.counts_examples = batch_weight is None
        self._averages = averages_by_weight(model, loss_fn)
        self._weight = batch_weight or (sum_of_weights if self._averages else number_of_examples)
        self._class_weight = class_weight
        self._norms = layers_with_batch_statistics(model, batch_norm)
        self.mixes_examples = bool(self._norms)
        self._trains = training(model, frozen)
        self._buffers = _buffers(model, self.variables, self._norms)
        self._eagerly, self._jit = run_eagerly, jit_compile
        self._compiled: dict[object, Any] = {}  # tf.functions

    @property
    def traces(self) -> int:
        """How often a loss or a gradient was traced so far, for all structures and sizes of batches."""
        return sum(function.experimental_get_tracing_count() for function in self._compiled.values())

    def theta(self) -> tf.Tensor:
        return flat(self.variables)

    def state(self) -> State | None:
        return {name: tf.identity(v.value) for name, v in self._buffers.items()} or None

    def evaluate(
        self,
        theta: tf.Tensor,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, tf.Tensor | None]:
        """As `ModelLoss.evaluate`; a float64 model also takes float32 parameters and computes in float64."""
        check_theta(self.layout, theta, tf.Tensor)
        if theta.dtype == tf.float64 and self.dtype == "float32":
            raise LayoutError(
                "theta is float64, but the model was built in float32; use tf.cast(theta, 'float32'), or "
                "build the model under keras.config.set_floatx('float64')."
            )
        wide = tf.cast(theta, self.dtype)
        zero = tf.zeros([], tf.float64)
        sums = zero, zero, tf.zeros_like(wide) if gradient else tf.zeros([], self.dtype)
        state = dict(state or self.state() or {})
        for batch in batches:
            arguments = wide, state, batch, sums
            with loss_errors(batch, (tf.errors.ResourceExhaustedError,)):
                sums = self._add(arguments, gradient)(*arguments)
        total, weights, grad = sums
        require_weight(float(weights))
        mean = tf.cast(grad / tf.cast(weights, grad.dtype), theta.dtype) if gradient else None
        return float(total / weights), mean

    def try_out(self, theta: tf.Tensor, batch: PyTree) -> list[str]:
        """One batch, not compiled."""
        tensors = tensors_of(self.layout, theta)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            loss = self._loss(tensors, dict(self.state() or {}), batch)
        check_loss(loss, MEAN_HINT)
        grads = tape.gradient(loss, tensors)
        if all(grad is None for grad in grads):
            raise no_gradient(self.gradient_hint)
        found = zip(self.layout.names, grads, self._trains, strict=True)
        return [name for name, grad, trainable in found if trainable and grad is None]

    def prepare(self, batch: PyTree) -> PyTree:
        weighted = weighted_by_class(as_tensors(batch, self.dtype), self._class_weight)
        return as_tensors(weighted, self.dtype)

    def batch_weight(self, batch: PyTree) -> float:
        return float(self._weight(batch))

    def terms(self) -> Mapping[str, ModelLoss]:
        """``add_loss`` and regularizers are the penalty."""
        overridden = type(self._model).compute_loss is not keras.Model.compute_loss
        if self._own_loss or (self._loss_fn is None and overridden):
            return super().terms()
        return {"data": self._of(data_loss(self._loss_fn)), "penalty": self._of(penalty_loss)}

    def example_weights(self, rows: PyTree) -> np.ndarray | None:
        return weights_of(rows) if self._averages else None

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        if weight is not None and self._own_loss:
            raise unweighted(self.sample_hint)
        return with_weights(rows, weight, self.dtype, averages_by_weight=self._averages)

    def scores(self, theta: tf.Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        """Not compiled."""
        if self._own_loss:
            return super().scores(theta, batches)
        check_theta(self.layout, theta, tf.Tensor)
        tensors, state = tensors_of(self.layout, tf.cast(theta, self.dtype)), dict(self.state() or {})
        loss = self._of(error_scores(self._loss_fn))
        found = [loss._loss(tensors, state, self.sample(batch, None)) for batch in batches]
        return np.asarray(tf.concat(found, 0), np.float64)

    def _of(self, batch_loss: BatchLoss) -> "KerasLoss":
        """Another loss of a batch, all else the same."""
        other = copy.copy(self)
        other._batch_loss, other._compiled = batch_loss, {}
        return other

    def _add(self, arguments: tuple[Any, ...], gradient: bool) -> Any:
        """The function that adds one batch, traced once for batches of all sizes."""
        function = self._add_gradient if gradient else self._add_loss
        if self._eagerly:
            return function
        batch = arguments[2]
        structure = str(tf.nest.map_structure(lambda _: 0, batch))
        key = (gradient, structure, *((x.dtype, tuple(x.shape[1:])) for x in tf.nest.flatten(batch)))
        if key not in self._compiled:
            theta, state, rows, sums = tf.nest.map_structure(tf.TensorSpec.from_tensor, arguments)
            rows = tf.nest.map_structure(lambda row: tf.TensorSpec((None, *row.shape[1:]), row.dtype), rows)
            # TensorFlow counts tracings by code, and warns of many; it counts each partial on its own.
            self._compiled[key] = tf.function(
                partial(function),
                input_signature=(theta, state, rows, sums),
                jit_compile=self._jit,
                autograph=False,
            )
        return self._compiled[key]

    def _add_loss(self, theta: tf.Tensor, state: State, batch: PyTree, sums: Sums) -> Sums:
        total, weights, grad = sums
        weight = tf.cast(self._weight(batch), tf.float64)
        loss = self._loss(tensors_of(self.layout, theta), state, batch)
        return total + weight * tf.cast(loss, tf.float64), weights + weight, grad

    def _add_gradient(self, theta: tf.Tensor, state: State, batch: PyTree, sums: Sums) -> Sums:
        total, weights, grad = sums
        weight = tf.cast(self._weight(batch), tf.float64)
        tensors = tensors_of(self.layout, theta)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            loss = self._loss(tensors, state, batch)
        found = tape.gradient(loss, tensors)
        grad += tf.cast(weight, theta.dtype) * flat_gradient(tensors, found, self._trains)
        return total + weight * tf.cast(loss, tf.float64), weights + weight, grad

    def _loss(self, tensors: list[tf.Tensor], state: Mapping[str, tf.Tensor], batch: PyTree) -> tf.Tensor:
        mapping = list(zip(self.variables, tensors, strict=True))
        mapping += [(self._buffers[name], value) for name, value in state.items() if name in self._buffers]
        with (
            loss_errors(batch, (tf.errors.ResourceExhaustedError,)),
            batch_statistics(self._norms),
            Scope(mapping),
        ):
            return self._batch_loss(self._model, batch)


def _buffers(
    model: keras.Model,
    variables: Iterable[keras.Variable],
    norms: Iterable[keras.layers.BatchNormalization],
) -> dict[str, keras.Variable]:
    """The floating-point variables besides θ, without the statistics that ``norms`` do not read."""
    own = {id(v) for v in variables}
    unused = {id(v) for norm in norms for v in (norm.moving_mean, norm.moving_variance)}
    others = [v for v in model.variables if id(v) not in own and "float" in v.dtype]
    named = zip(unique_names(model, others), others, strict=True)
    return {name: variable for name, variable in named if id(variable) not in unused}
