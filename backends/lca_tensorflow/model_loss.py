"""`ModelLoss`: from a Keras model and the loss of a batch to ``(θ, batches) -> loss, gradient``, compiled.

The model's variables are never written: a `keras.StatelessScope` puts θ in their place for the time of a
forward pass, and catches whatever the pass would assign (moving statistics, seeds).
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from lca.errors import DataError, LayoutError, LCAError
from lca.layout import Layout
from lca.objective import State
from lca_tensorflow.data import PyTree
from lca_tensorflow.parameters import (
    Frozen,
    check_theta,
    flat_gradient,
    layout_of,
    parameters_of,
    tensors_of,
    training,
    unique_names,
)
from lca_tensorflow.policies import BatchNormPolicy, Scope, batch_statistics, layers_with_batch_statistics

BatchLoss: TypeAlias = Callable[[keras.Model, PyTree], tf.Tensor]
Sums: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Weighted loss, weight and weighted gradient of the batches so far."""


class ModelLoss:
    """The mean loss of any batches at any θ; the options are those of `lca_tensorflow.Objective`."""

    def __init__(
        self,
        model: keras.Model,
        batch_loss: BatchLoss,
        *,
        batch_weight: Callable[[PyTree], Any],
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy],
        frozen: Frozen,
        jit_compile: bool,
        run_eagerly: bool,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self.variables = list(parameters_of(model, frozen).values())
        self.dtype: str = self.variables[0].dtype
        self._model = model
        self._batch_loss, self.batch_weight = batch_loss, batch_weight
        self._norms = layers_with_batch_statistics(model, batch_norm)
        self._trains = training(model, frozen)
        own = {id(v) for v in self.variables}
        unused = {id(v) for norm in self._norms for v in (norm.moving_mean, norm.moving_variance)}
        others = [v for v in model.variables if id(v) not in own and "float" in v.dtype]
        self._buffers = {
            name: v
            for name, v in zip(unique_names(model, others), others, strict=True)
            if id(v) not in unused
        }
        self._eagerly, self._jit = run_eagerly, jit_compile
        self._compiled: dict[object, Any] = {}  # tf.functions

    @property
    def mixes_examples(self) -> bool:
        """Whether the loss of an example depends on the batch it is measured in (batch statistics)."""
        return bool(self._norms)

    @property
    def traces(self) -> int:
        """How often a loss or a gradient was traced so far, for all structures and sizes of batches."""
        return sum(function.experimental_get_tracing_count() for function in self._compiled.values())

    def of(self, batch_loss: BatchLoss) -> "ModelLoss":
        """Another loss of a batch, all else as here."""
        other = copy.copy(self)
        other._batch_loss, other._compiled = batch_loss, {}
        return other

    def state(self) -> State | None:
        """A copy of the variables besides θ that the loss depends on."""
        return {name: tf.identity(v.value) for name, v in self._buffers.items()} or None

    def evaluate(
        self, theta: tf.Tensor, batches: Iterable[PyTree], state: State | None = None, *, gradient: bool
    ) -> tuple[float, tf.Tensor | None]:
        """Mean loss over the batches, summed in float64, and its gradient (K,) if asked for.

        A float64 model takes float32 parameters as well, and computes in float64; not the other way round.
        """
        check_theta(self.layout, theta)
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
            sums = self._add(arguments, gradient)(*arguments)
        total, weights, grad = sums
        if not float(weights) > 0:
            raise DataError("the measured batches weigh 0 together; pass a batch_weight that is positive.")
        mean = tf.cast(grad / tf.cast(weights, grad.dtype), theta.dtype) if gradient else None
        return float(total / weights), mean

    def each(self, theta: tf.Tensor, batches: Iterable[PyTree], function: BatchLoss) -> list[tf.Tensor]:
        """What ``function`` says of the model at θ and each batch; not compiled."""
        check_theta(self.layout, theta)
        tensors, state = tensors_of(self.layout, tf.cast(theta, self.dtype)), dict(self.state() or {})
        return [self.of(function)._loss(tensors, state, batch) for batch in batches]

    def try_out(self, theta: tf.Tensor, batch: PyTree) -> list[str]:
        """One batch, not compiled, everything checked; the trainable tensors that get no gradient from it."""
        tensors = tensors_of(self.layout, theta)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            try:
                loss = self._loss(tensors, dict(self.state() or {}), batch)
            except LCAError:
                raise
            except Exception as error:
                raise DataError(
                    f"the loss of the first measuring batch raised {type(error).__name__}: {error}"
                    + ("; the other way round, (x, y), it would fit." if self._fits_swapped(batch) else "")
                ) from error
        check_loss(loss)
        grads = tape.gradient(loss, tensors)
        if all(grad is None for grad in grads):
            raise LCAError(
                "the loss does not depend on any weight of the model; is it computed with stop_gradient, or "
                "converted to NumPy on the way?"
            )
        found = zip(self.layout.names, grads, self._trains, strict=True)
        return [name for name, grad, trainable in found if trainable and grad is None]

    def _fits_swapped(self, batch: PyTree) -> bool:
        """Whether a batch (y, x) that raised has a loss as (x, y)."""
        if not isinstance(batch, tuple) or len(batch) != 2:
            return False
        try:
            values = [v.value for v in self.variables]
            check_loss(self._loss(values, dict(self.state() or {}), batch[::-1]))
        except Exception:  # whatever a model raises
            return False
        return True

    def _add(self, arguments: tuple[Any, ...], gradient: bool) -> Any:
        """The addition of one batch, traced once for batches of all sizes."""
        function = self._add_gradient if gradient else self._add_loss
        if self._eagerly:
            return function
        batch = arguments[2]
        structure = str(tf.nest.map_structure(lambda _: 0, batch))
        key = (gradient, structure, *((x.dtype, tuple(x.shape[1:])) for x in tf.nest.flatten(batch)))
        if key not in self._compiled:
            theta, state, rows, sums = tf.nest.map_structure(tf.TensorSpec.from_tensor, arguments)
            rows = tf.nest.map_structure(lambda row: tf.TensorSpec((None, *row.shape[1:]), row.dtype), rows)
            # TensorFlow counts tracings by code, and warns of many; by a partial it counts each on its own.
            self._compiled[key] = tf.function(
                partial(function),
                input_signature=(theta, state, rows, sums),
                jit_compile=self._jit,
                autograph=False,
            )
        return self._compiled[key]

    def _add_loss(self, theta: tf.Tensor, state: State, batch: PyTree, sums: Sums) -> Sums:
        total, weights, grad = sums
        weight = tf.cast(self.batch_weight(batch), tf.float64)
        loss = self._loss(tensors_of(self.layout, theta), state, batch)
        return total + weight * tf.cast(loss, tf.float64), weights + weight, grad

    def _add_gradient(self, theta: tf.Tensor, state: State, batch: PyTree, sums: Sums) -> Sums:
        total, weights, grad = sums
        weight = tf.cast(self.batch_weight(batch), tf.float64)
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
        with batch_statistics(self._norms), Scope(mapping):
            return self._batch_loss(self._model, batch)


def check_loss(loss: object) -> None:
    """Raise `LCAError` unless ``loss`` is a floating-point scalar."""
    if not isinstance(loss, tf.Tensor) or not loss.dtype.is_floating:
        raise LCAError(f"the loss must be a floating-point tensor, got {type(loss).__name__}.")
    if loss.shape.rank:
        raise LCAError(
            f"the loss must be a scalar, got shape {tuple(loss.shape)}; use reduction='sum_over_batch_size'."
        )
