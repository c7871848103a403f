"""`KerasRun`: a case in Keras. The truth is found in the world of the gradient, put back for a moment.

TensorFlow cannot be forked, so all variables, and the Python attributes that the case names, are copied: in
`fit` before each batch; in other loops before each update, but variables of the model that never train are
those that the update before left, since the forward pass of the batch read those. After the step they are put
back, the loss is evaluated along the step, and everything is restored. That this run trains as the plain one
does is checked like everything else.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.eager import context

from lca_tensorflow import LCACallback, Tracker
from validation.wild.case import Mode
from validation.wild.loop import SHARP, NoTracker, Run
from validation.wild.oracle import Tensors, Truth, allocate, between


class KerasRun(Run):
    """See `Run`."""

    def __init__(self, mode: Mode, estimator: Any = SHARP) -> None:
        super().__init__(mode, estimator)
        keras.utils.clear_session()  # or layers would be numbered on from the run before
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        tf.config.run_functions_eagerly(False)
        keras.utils.set_random_seed(0)
        tf.random.set_global_generator(tf.random.Generator.from_seed(0))

    @contextmanager
    def measuring(
        self,
        model: keras.Model,
        optimizer: Any,
        objective: Callable[[], Any],
        loss: Callable[[], tf.Tensor],
        world: Sequence[Any] = (),
        **options: Any,
    ) -> Iterator[Any]:
        """``with Tracker(model, optimizer, objective())``, or what the part of this run needs instead.

        Parameters
        ----------
        model, optimizer, options
            As in `lca_tensorflow.Tracker`.
        objective
            Makes the objective.
        loss
            The measured loss, by calling the user's own model on all data.
        world
            What the loss reads besides the model's variables: models, variables, ``(object, attribute)``.
        """
        if self.mode == "plain":
            yield NoTracker()
        elif self.mode == "oracle":
            optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
            oracle = _Oracle(model, loss, world)
            self.outcome.truth = oracle.truth
            with oracle.following(optimizers):
                yield NoTracker(oracle.step)
        else:
            options.setdefault("estimator", self.estimator)
            made = objective()
            self.outcome.tracker = tracker = Tracker(model, optimizer, made, **options)
            self.plant(made, lambda: tracker.steps)
            with tracker:
                yield tracker

    def callbacks(
        self, *measured: Any, loss: Callable[[], tf.Tensor], world: Sequence[Any] = (), **options: Any
    ) -> list[keras.callbacks.Callback]:
        """``[LCACallback(*measured, **options)]`` for `fit`, or what the part of this run needs instead."""
        if self.mode == "plain":
            return []
        if self.mode == "oracle":
            return [_OracleCallback(self, loss, world)]
        options.setdefault("estimator", self.estimator)
        self.outcome.tracker = callback = LCACallback(*measured, **options)
        make = callback._make_tracker

        def planted() -> Any:
            tracker = make()
            self.plant(tracker._session.objectives, lambda: tracker.steps)
            return tracker

        callback._make_tracker = planted
        return [callback]


class _OracleCallback(keras.callbacks.Callback):
    def __init__(self, run: KerasRun, loss: Callable[[], tf.Tensor], world: Sequence[Any]) -> None:
        super().__init__()
        self._run, self._loss, self._of = run, loss, world

    def on_train_begin(self, logs: Any = None) -> None:
        self._oracle = _Oracle(self.model, self._loss, self._of)
        self._run.outcome.truth = self._oracle.truth
        self._oracle.begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._oracle.before(forward_is_over=False)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._oracle.after()

    def on_train_end(self, logs: Any = None) -> None:
        self._oracle.end()


class _Oracle:
    """Follows the updates of a model."""

    def __init__(self, model: keras.Model, loss: Callable[[], tf.Tensor], world: Sequence[Any]) -> None:
        self._model, self._loss = model, loss
        self._pairs = [entry for entry in world if isinstance(entry, tuple)]
        self._others = [entry for entry in world if not isinstance(entry, tuple)]
        self._compiled: dict[Any, Any] = {}
        self._inside = False
        self.truth = Truth()

    def begin(self) -> None:
        self._world = self._snapshot()
        self.truth.loss_start = self._at(self._world)

    def end(self) -> None:
        self.truth.loss_end = self._at(self._snapshot())

    def before(self, *, forward_is_over: bool = True) -> None:
        self._start = _theta(self._model)
        left, self._world = self._world, self._snapshot()
        if forward_is_over:
            variables, values, attributes = self._world
            own = {id(v) for layer in self._model._flatten_layers() for v in layer._non_trainable_variables}
            before = {id(v): value for v, value in zip(left[0], left[1], strict=True)}
            values = [
                before.get(id(v), value) if id(v) in own else value
                for v, value in zip(variables, values, strict=True)
            ]
            self._world = variables, values, attributes

    def after(self) -> None:
        end, now = _theta(self._model), self._snapshot()
        if all(np.array_equal(end[name], self._start[name]) for name in end):
            return
        with self._in(self._world):
            moved = [n for n in end if not np.array_equal(end[n], self._start[n])]

            def evaluate(s: float) -> tuple[float, Tensors]:
                variables = parameters(self._model)
                for name, variable in variables.items():
                    variable.assign(between(self._start[name], end[name], s))
                loss, grads = self._function(moved)([variables[name].value for name in moved])
                zero = {name: np.zeros(np.shape(end[name])) for name in moved}
                return float(loss), zero | {
                    name: np.asarray(tf.convert_to_tensor(grad))
                    for name, grad in zip(moved, grads, strict=True)
                    if grad is not None
                }

            self.truth.steps.append(allocate(self._start, end, evaluate))
        self._world = now

    @contextmanager
    def step(self) -> Iterator[None]:
        """What happens inside is one update."""
        self._inside = True
        self.before()
        yield
        self._inside = False
        self.after()

    @contextmanager
    def following(self, optimizers: Sequence[Any]) -> Iterator[None]:
        """Eager updates of these optimizers."""
        self.begin()
        for optimizer in optimizers:
            object.__setattr__(optimizer, "apply", self._followed(optimizer.apply))
        try:
            yield
        finally:
            for optimizer in optimizers:
                object.__delattr__(optimizer, "apply")
            self.end()

    def _followed(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        def followed(*args: Any, **options: Any) -> Any:
            if self._inside or tf.inside_function():
                return apply(*args, **options)
            with self.step():
                return apply(*args, **options)

        return followed

    def _at(self, world: Any) -> float:
        with self._in(world):
            return float(self._function()([])[0])

    def _function(self, moved: Sequence[str] = ()) -> Any:
        """Loss and gradients, compiled once for every state of flags, Python attributes and what moved."""
        flags = tuple(layer.trainable for layer in self._model._flatten_layers())
        key = tuple(moved), flags, tuple(repr(getattr(owner, name)) for owner, name in self._pairs)
        if key not in self._compiled:

            @tf.function(reduce_retracing=True, autograph=False)
            def function(watched: list[tf.Variable]) -> Any:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    for variable in watched:
                        tape.watch(variable)
                    loss = self._loss()
                return loss, tape.gradient(loss, watched)

            self._compiled[key] = function
        return self._compiled[key]

    def _variables(self) -> list[Any]:
        found = list(self._model.variables)
        if (generator := _seeds()) is not None:
            found.append(generator.state)
        for other in self._others:
            found += other.variables if hasattr(other, "variables") else [other]
        return found

    def _snapshot(self) -> Any:
        values = [np.array(variable.numpy()) for variable in self._variables()]
        return self._variables(), values, [getattr(owner, name) for owner, name in self._pairs]

    def _put(self, world: Any) -> None:
        variables, values, attributes = world
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for (owner, name), value in zip(self._pairs, attributes, strict=True):
            if getattr(owner, name) is not value:
                setattr(owner, name, value)

    @contextmanager
    def _in(self, world: Any) -> Iterator[None]:
        """Within, everything is as it was then; generators of seeds are not moved either."""
        now, generator, seeds = self._snapshot(), context.context()._rng, _seeds()
        states = random.getstate(), generator.getstate()
        self._put(world)
        try:
            yield
        finally:
            self._put(now)
            random.setstate(states[0])
            generator.setstate(states[1])
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, seeds)


def _seeds() -> Any:
    """The generator of Keras' unseeded operations, which exists once one was used."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def parameters(model: keras.Model) -> dict[str, Any]:
    """Weights that were made to be trained, whether or not they are; named by their paths."""
    named: dict[str, Any] = {}
    meant = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    for variable in model.variables:
        if id(variable) in meant:
            path = variable.path.removeprefix(f"{model.name}/").replace("/", ".")
            same = sum(name == path or name.startswith(f"{path}#") for name in named)
            named[f"{path}#{same}" if same else path] = variable
    return {name.replace("#", "_"): variable for name, variable in named.items()}


def _theta(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: np.array(v.numpy(), np.float64) for name, v in parameters(model).items()}
