"""`KerasLoss`: the loss and gradient of batches of a Keras model at any θ, compiled.

The model's variables are never written: a `keras.StatelessScope` puts θ in their place for the time of a
forward pass, and catches whatever the pass would assign (moving statistics, seeds). What the graph of the
pass reads besides θ is state; the Python values that it has baked in are its configuration.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, Self, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lca._listing import listed
from lca.arrays import array_ops
from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError, LayoutError
from lca.frameworks import (
    BatchNorm,
    Frozen,
    PyTree,
    check_loss,
    check_theta,
    no_gradient,
    require_weight,
)
from lca.frameworks._by_example import joined_slopes
from lca.frameworks._split import eps_of
from lca.frameworks._training_mode import differ_in_training
from lca.objective import State
from lca.tolerances import repeat
from lca_keras._class_weight import weighted_by_class
from lca_keras._configuration import CLOCK, CONFIGURATION, Configuration, not_again
from lca_keras._losses import (
    SCALAR_HINT,
    BatchLoss,
    number_of_examples,
)
from lca_keras._parameters import (
    check_same_variables,
    flags_of,
    training,
    unique_names,
)
from lca_keras._policies import (
    Modes,
    batch_statistics,
    in_training,
    recorded_modes,
    uses_batch_statistics,
)
from lca_keras._reach import not_put_back
from lca_keras._shared_loss import SharedLoss
from lca_tensorflow._by_example import ForwardMode, along, losses_of_examples
from lca_tensorflow._data import as_tensors
from lca_tensorflow._messages import batch_errors, why_batches_matter
from lca_tensorflow._program import Compiled, Program
from lca_tensorflow._scope import TapeScope
from lca_tensorflow._scores import error_scores
from lca_tensorflow._strategy import check_outside, check_replicas, check_strategy
from lca_tensorflow._traced import inlined, trace
from lca_tensorflow._untouched import untouched
from lca_tensorflow._variables import OtherVariables
from lca_tensorflow._vectors import flat, flat_gradient, tensors_of

Sums: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Weighted loss, weight and weighted gradient of the batches so far."""


class Inputs(NamedTuple):
    """What a batch is added with: θ (K,), values of other variables by name, the batch, the sums so far."""

    theta: tf.Tensor
    values: Mapping[str, tf.Tensor]
    batch: PyTree
    sums: Sums


Wanted: TypeAlias = frozenset[str] | None
"""The tensors whose gradient is computed; ``None``: only the loss is."""


class KerasLoss(SharedLoss):
    """`SharedLoss` on TensorFlow, with the options of `lca_tensorflow.Objective`."""

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
        check_strategy(model)
        check_outside()
        super().__init__(
            model,
            loss_fn,
            batch_loss=batch_loss,
            batch_weight=batch_weight,
            class_weight=class_weight,
            batch_norm=batch_norm,
            frozen=frozen,
        )
        self._counts = self._weight is number_of_examples
        self._eagerly, self._jit = run_eagerly, jit_compile
        self._example: PyTree | None = None  # a batch, to trace with
        self._former: Program | None = None
        self._trained = set[str]()  # layers that were seen to be called in training mode
        self._zeros: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None
        self._forward: ForwardMode | None = None
        self._program = self._made(since=0)

    @property
    def traces(self) -> int:
        """How often a loss or a gradient was traced so far, for all structures and sizes of batches."""
        return len(self._program.functions)

    def begin(self, batch: PyTree) -> None:
        """Learn from a batch how the model calls its normalisation layers."""
        self._example = batch
        self._program = self._made(since=0)

    def theta(self) -> tf.Tensor:
        return flat(self.variables)

    def trainable(self) -> Collection[str]:
        return self._now().trained

    def check(self) -> None:
        self._now()

    def refresh(self) -> str:
        """Trace the loss again, and compare it with the one in use.

        Finds what `Configuration` does not see, such as an entry of a large array. Costs a trace.
        """
        program = self._now()
        if self._eagerly or self._example is None or not program.functions:
            return ""
        new = self._made(since=program.since)
        if self._same_graph(new, program):
            return ""
        if self._agree(program, new):
            return ""
        return "a value that the compiled loss has baked in, such as an entry of a large array"

    def version(self) -> object:
        return self._now()

    def same_as(self, version: object) -> bool:
        """As `SharedLoss.same_as`; false for a loss that could not be compiled."""
        assert isinstance(version, Program)
        return bool(version.functions) and self._agree(version, self._program)

    def why_batches_matter(self, batch: PyTree) -> str:
        """What may make the loss depend on its batches, for messages."""
        return why_batches_matter(self._model, batch, self._program.others.written)

    def state(self) -> State | None:
        """Variables that the loss reads besides θ, and the version of its configuration."""
        others = self._now().others
        check_replicas(self._model, others.given | others.raw)
        values = others.state()
        return {CONFIGURATION: np.array([CLOCK.now]), **values}

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
        program, state = self._program_of(state), state or {}
        wanted = frozenset(program.trained if names is None else names) if gradient else None
        wide, nothing = tf.cast(theta, self.dtype), self._nothing(gradient=gradient)
        add = self._add_eagerly if self._eagerly else self._add_compiled
        sums, whole = nothing, False  # whole: of a single batch, not multiplied by its weight
        for batch in batches:
            if whole:
                sums, whole = (*sums[:2], _times(sums[2], float(sums[1]))), False
            first = gradient and not sums[2].shape[0]
            with batch_errors(batch), program.others.at(state):
                sums = add(program, wanted, Inputs(wide, state, batch, sums))
            if first:  # the gradient of a batch of weight 0 may be NaN
                whole = float(sums[1]) > 0
                sums = sums if whole else (*sums[:2], nothing[2])
        total, weights, grad = sums
        weight = require_weight(float(weights))
        loss = float(total) / weight
        if not gradient:
            return loss, None
        mean = grad if whole else _times(grad, 1 / weight)
        return loss, mean if mean.dtype == theta.dtype else tf.cast(mean, theta.dtype)

    def _nothing(self, *, gradient: bool) -> Sums:
        """The sums over no batches; that of gradients is empty, or (K,) where XLA compiles for one length."""
        if self._zeros is None:  # kept, as to make a tensor takes as long as a small layer
            self._zeros = tf.zeros([], tf.float64), tf.zeros([0], self.dtype), tf.zeros([], self.dtype)
        zero, empty, none = self._zeros
        if self._jit and gradient:
            empty = tf.zeros([self.layout.size], self.dtype)
        return zero, zero, empty if gradient else none

    def try_out(self, theta: tf.Tensor, batch: PyTree) -> list[str]:
        """One batch; what it reads and draws is known before it is evaluated."""
        self._example, program = batch, self._now()
        with batch_errors(batch):
            unconnected = self._learn(program)
        self.evaluate(theta, [batch], gradient=False)
        if unconnected == program.trained:
            raise no_gradient(self.gradient_hint)
        return [name for name in self.layout.names if name in unconnected]

    def prepare(self, batch: PyTree) -> PyTree:
        weighted = weighted_by_class(as_tensors(batch, self.dtype), self._class_weight)
        return as_tensors(weighted, self.dtype)

    def batch_weight(self, batch: PyTree) -> float:
        if self._counts:
            return float(tf.nest.flatten(batch)[0].shape[0])
        return float(self._weight(batch))

    def scores(self, theta: tf.Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        """Not compiled."""
        if self._own_loss:
            return super().scores(theta, batches)
        check_theta(self.layout, theta, tf.Tensor)
        program, wide = self._now(), tf.cast(theta, self.dtype)
        tensors, values = tensors_of(self.layout, wide), program.others.values(program.others.given, {})
        loss = self._of(error_scores(self._loss_fn))
        with program.others.at({}), untouched(self._roots):
            found = [loss._loss(program, tensors, values, self.sample(batch, None)) for batch in batches]
        return np.asarray(tf.concat(found, 0), np.float64)

    def by_example(
        self,
        theta: tf.Tensor,
        batches: Iterable[PyTree],
        movement: GroupMovement,
        state: State | None = None,
        *,
        names: Collection[str] | None = None,
        at_once: bool = False,
    ) -> ExampleSlopes:
        """By forward-mode differentiation, compiled, for a `keras.losses.Loss`; else one gradient each."""
        kept, forward = list(batches), self._forward_of(at_once=at_once)
        check_theta(self.layout, theta, tf.Tensor)
        if forward is not None and forward.works(lambda: self._slopes_of(forward, kept[0])):
            found = [self._slopes(forward, theta, b, movement, state) for b in kept]
            eps, first = eps_of(self, theta), kept[:1]
            if forward.agrees(
                found[0].losses, lambda: self.evaluate(theta, first, state, gradient=False)[0], eps
            ):
                return joined_slopes(movement, found)
        return super().by_example(theta, kept, movement, state, names=names)

    def _forward_of(self, *, at_once: bool) -> ForwardMode | None:
        """The losses of single examples, if the loss of a batch is known to be their mean."""
        if self._forward is None and at_once and not (self._own_loss or self._eagerly):
            each = losses_of_examples(self._model, self._loss_fn)
            self._forward = None if each is None else ForwardMode(self._of(each))
        return self._forward

    def _slopes(
        self,
        forward: ForwardMode,
        theta: tf.Tensor,
        batch: PyTree,
        movement: GroupMovement,
        state: State | None,
    ) -> ExampleSlopes:
        """The losses of the examples of a batch, and their slopes.

        A slope is a directional derivative along the update of one of the groups that changed.
        """
        state, each = state or {}, forward.loss
        others, wide = each._program_of(state or None).others, tf.cast(theta, self.dtype)
        directions = [tf.cast(movement.part(g), self.dtype) for g in movement.moving]
        with batch_errors(batch), others.at(state):
            compiled = self._slopes_of(forward, batch)
            values = others.values(compiled.given, state)
            with untouched(self._roots) if others.calls_python else nullcontext():
                found = [
                    compiled.traced(wide, direction, values, batch)
                    for direction in directions or [tf.zeros_like(wide)]
                ]
        losses = np.asarray(found[0][0], np.float64)
        slopes = [np.asarray(each, np.float64) for _, each in found[: len(directions)]]
        return ExampleSlopes(losses, np.stack(slopes) if slopes else np.zeros((0, len(losses))))

    def _slopes_of(self, forward: ForwardMode, batch: PyTree) -> Compiled:
        """The losses of the examples of a batch, and their derivatives along a direction (K,), compiled."""
        each = forward.loss
        program, key = each._program_of(None), _form(batch)

        def slopes(theta: Any, direction: Any, values: Any, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
            pieces = tensors_of(self.layout, theta), tensors_of(self.layout, direction)
            return along(lambda tensors: each._loss(program, tensors, values, batch), *pieces)

        while key not in (functions := forward.functions_of(program)):
            given = program.others.given
            values = {name: tf.TensorSpec(v.shape, v.dtype) for name, v in given.items()}
            vector = tf.TensorSpec((self.layout.size,), self.dtype)
            with untouched(self._roots):
                traced = trace(slopes, (vector, vector, values, specs(batch)), jit_compile=self._jit)
            if not program.others.admit(traced, each._seen):
                functions[key] = Compiled(traced, tuple(values), frozenset())
        return functions[key]

    def _of(self, batch_loss: BatchLoss) -> Self:
        other = copy.copy(self)
        other._batch_loss, other._former, other._forward = batch_loss, None, None
        other._program = self._program.emptied(self._others())
        return other

    def _read_besides_theta(self) -> Mapping[str, keras.Variable]:
        return self._program.others.given

    # --- programs: the loss as its Python objects were at one time ----------------------------------------

    def _now(self) -> Program:
        """The program of the present configuration."""
        check_outside()
        if not self._program.configuration.same():
            check_same_variables(self._model, self._measured, self._known)
            self._program = self._next(self._program)
        self.mixes_examples = uses_batch_statistics(self._program.modes)
        return self._program

    def _program_of(self, state: State | None) -> Program:
        """The program that held when this state was read."""
        now, former = self._now(), self._former
        when = now.since if state is None or CONFIGURATION not in state else int(state[CONFIGURATION][0])
        if when >= now.since:
            return now
        if former is not None and when >= former.since and not self._eagerly:
            return former
        raise not_again(self._changed)

    def _next(self, old: Program) -> Program:
        """The program after a change; the old one if the graph is the same, as most changes do not matter."""
        changed = ", ".join(dict.fromkeys(old.configuration.changed()))
        new = self._made(since=old.since)
        if self._example is None or not old.functions:
            return new
        if self._same_graph(new, old) and new.modes == old.modes:
            old.configuration, old.trained = new.configuration, new.trained
            return old
        if self._first_loss(new) != self._first_loss(old):
            new.since, self._former, self._changed = CLOCK.tick(), old, changed
        return new

    def _same_graph(self, new: Program, old: Program) -> bool:
        """Whether both compute the loss of the first batch in the same way from the same variables."""
        before, compiled = old.first(), self._function(new, None, self._example)
        given = [new.others.given[name] for name in compiled.given]
        return compiled.traced.same_as(before.traced) and _identical(given, before, old)

    def _made(self, since: int) -> Program:
        configuration = Configuration(self._roots, [flags_of(self._known)])
        trains = training(self._model, self.variables)
        trained = frozenset(n for n, trains in zip(self.layout.names, trains, strict=True) if trains)
        program = Program(configuration, trained, self._modes(), self._others(), since)
        self.mixes_examples = uses_batch_statistics(program.modes)
        return program

    def _others(self) -> OtherVariables:
        own = {id(v) for v in self.variables}
        others = [v for v in self._model.variables if id(v) not in own]
        names = zip(unique_names(self._model, others), others, strict=True)
        return OtherVariables(self.variables, {id(variable): name for name, variable in names})

    def _modes(self) -> Modes:
        """How training calls the normalisation layers: found by tracing a pass in training mode."""
        found = self._training_pass() if self._norms else None
        return found[0] if found else [(norm, [True]) for norm in self._norms]

    def _training_pass(self) -> tuple[Modes, TapeScope] | None:
        """How a pass in training mode calls the normalisation layers, and the scope with its updates.

        ``None`` if it raises an error, does not call the model, or no batch is known.
        """
        if self._example is None:
            return None
        scope = TapeScope([], random=True)

        def training(batch: PyTree) -> tf.Tensor:
            with scope:
                return self._batch_loss(self._model, batch)

        with recorded_modes(self._model, self._norms) as recorded:
            try:
                with untouched(self._roots, drawing=True):
                    trace(training, (specs(self._example),))
            except Exception:  # the loss itself is tried out next, and its error says more
                return None
        return (recorded.modes, scope) if recorded.called else None

    def _updated_in_training(self) -> frozenset[int] | None:
        found = self._training_pass()
        return found and found[1].updated

    def differ_in_training(self, choices: Sequence[Collection[str]]) -> Sequence[bool]:
        """As `ModelLoss.differ_in_training`, evaluated eagerly; normalisation layers stay as measured."""
        self.untold_in_training = listed(not_put_back(self._roots))
        if self._example is None or self.untold_in_training:
            return super().differ_in_training(choices)
        program = self._now()
        norms = [norm for norm, _ in program.modes]

        def loss_with(batch: PyTree, names: Collection[str]) -> float:
            modes = in_training(self._model, names, self._trained) if names else nullcontext()
            with (
                untouched(self._roots, drawing=True),
                program.others.at({}),
                batch_statistics(program.modes),
                modes,
                TapeScope([], random=True, unmoved=norms),
            ):
                return float(inlined(self._batch_loss)(self._model, batch))

        return differ_in_training(
            loss_with,
            self._example,
            choices,
            eps=max(float(np.finfo(self.dtype).eps), self.precision_eps or 0.0),
            out_of_memory=(tf.errors.ResourceExhaustedError,),
        )

    def _first_loss(self, program: Program) -> float:
        """The loss of the first batch at the present weights under a program."""
        with program.others.at({}):
            total, weights, _ = self._add_compiled(program, None, self._inputs(gradient=False))
        return float(total / weights)

    def _agree(self, one: Program, other: Program) -> bool:
        """Whether the loss of the first batch is the same under both programs, up to rounding."""
        a, b = self._first_loss(one), self._first_loss(other)
        return a == b or abs(a - b) <= repeat(max(abs(a), abs(b)), float(np.finfo(self.dtype).eps))

    def _inputs(self, *, gradient: bool) -> Inputs:
        """The first batch, at the present weights."""
        return Inputs(flat(self.variables), {}, self._example, self._nothing(gradient=gradient))

    # --- one batch ----------------------------------------------------------------------------------------

    def _learn(self, program: Program) -> frozenset[str]:
        """Find what the loss of the first batch reads; returns the tensors that train and get no gradient."""
        batch = self._example
        if not self._eagerly:
            self._function(program, None, batch)
            return self._function(program, program.trained, batch).unconnected
        with suppress(DataError):  # of a loss that runs only eagerly no graph can be read
            self._function(program, None, batch)
        unconnected: set[str] = set()
        with untouched(self._roots), tf.GradientTape() as tape:
            self._add(program, program.trained, unconnected, self._inputs(gradient=True))
        if not program.functions:
            program.others.learn(self._seen, tape.watched_variables())
        return frozenset(unconnected)

    def _add_compiled(self, program: Program, wanted: Wanted, inputs: Inputs) -> Sums:
        compiled = self._function(program, wanted, inputs.batch)
        values = program.others.values(compiled.given, inputs.values)
        with untouched(self._roots) if program.others.calls_python else nullcontext():
            found: Sums = compiled.traced(*inputs._replace(values=values))
            return found

    def _add_eagerly(self, program: Program, wanted: Wanted, inputs: Inputs) -> Sums:
        values = program.others.values(program.others.given, inputs.values)
        with untouched(self._roots):
            return self._add(program, wanted, set(), inputs._replace(values=values))

    def _function(self, program: Program, wanted: Wanted, batch: PyTree) -> Compiled:
        """The function that adds one batch, traced once for batches of all sizes."""
        key = (wanted, *_form(batch))
        if key not in program.functions:
            if program is self._former:
                raise not_again(self._changed)
            program.functions[key] = self._compiled(program, wanted, batch)
        return program.functions[key]

    def _compiled(self, program: Program, wanted: Wanted, batch: PyTree) -> Compiled:
        theta, number = tf.TensorSpec((self.layout.size,), self.dtype), tf.TensorSpec((), tf.float64)
        sums = number, number, tf.TensorSpec(() if wanted is None else (None,), self.dtype)
        while True:
            unconnected: set[str] = set()
            given = tuple(program.others.given)
            values = {name: tf.TensorSpec(v.shape, v.dtype) for name, v in program.others.given.items()}

            def add(*inputs: Any, unconnected: set[str] = unconnected) -> Sums:
                return self._add(program, wanted, unconnected, Inputs(*inputs))

            with untouched(self._roots):
                traced = trace(add, (theta, values, specs(batch), sums), jit_compile=self._jit)
            self.precision_eps = max(self.precision_eps or 0.0, traced.eps)
            if not program.others.admit(traced, self._seen):
                return Compiled(traced, given, frozenset(unconnected))

    def _add(self, program: Program, wanted: Wanted, unconnected: set[str], inputs: Inputs) -> Sums:
        """Add a batch; ``unconnected`` receives the names of the tensors that get no gradient."""
        theta, values, batch, (total, weights, grad) = inputs
        weight = tf.cast(self._weight(batch), tf.float64)
        tensors = tensors_of(self.layout, theta)
        if wanted is None:
            loss = self._loss(program, tensors, values, batch)
        else:
            chosen = {n: t for n, t in zip(self.layout.names, tensors, strict=True) if n in wanted}
            scaled = self._scale != 1.0
            with tf.GradientTape(persistent=scaled, watch_accessed_variables=False) as tape:
                tape.watch(list(chosen.values()))
                loss = self._loss(program, tensors, values, batch)

            def differentiated(scale: float) -> tf.Tensor:
                found = tape.gradient(loss, chosen, scale * tf.ones_like(loss) if scale != 1.0 else None)
                unconnected.update(name for name, gradient in found.items() if gradient is None)
                vector = flat_gradient(tensors, [found.get(name) for name in self.layout.names])
                return vector / scale if scale != 1.0 else vector

            gradient = differentiated(self._scale)
            if scaled:  # if it overflows: without the scale
                fits = tf.reduce_all(tf.math.is_finite(gradient))
                gradient = tf.cond(fits, lambda: gradient, lambda: differentiated(1.0))
            grad = _added(grad, gradient, lambda g: self._weighted(tf.cast(weight, theta.dtype), g))
        check_loss(_of_rows(loss, self._example), SCALAR_HINT)
        return total + self._weighted(weight, tf.cast(loss, tf.float64)), weights + weight, grad

    def _weighted(self, weight: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """Weight times value; 0 for a weight of 0, also where the value is NaN, as a mean over nothing is."""
        product = weight * value
        return product if self._counts else tf.where(weight > 0, product, tf.zeros_like(product))

    def _loss(
        self, program: Program, tensors: list[tf.Tensor], values: Mapping[str, tf.Tensor], batch: PyTree
    ) -> tf.Tensor:
        given = [*zip(self.variables, tensors, strict=True)]
        given += [(program.others.given[name], value) for name, value in values.items()]
        unmoved = [norm for norm, _ in program.modes]
        traced = tf.inside_function() or bool(program.functions)  # whose graph says whether draws count
        with batch_statistics(program.modes), TapeScope(given, random=traced, unmoved=unmoved) as scope:
            loss = self._batch_loss(self._model, batch)
        self._seen = scope.variables
        if isinstance(loss, tf.Tensor) and loss.shape.rank is None:  # of Python functions and tables
            loss = tf.ensure_shape(loss, [])
        return loss


def _added(total: tf.Tensor, gradient: tf.Tensor, weighted: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """``total + weighted(gradient)``; the gradient itself if the total is empty."""
    if total.shape[0] is None:
        return tf.cond(tf.size(total) > 0, lambda: total + weighted(gradient), lambda: gradient)
    return total + weighted(gradient) if total.shape[0] else gradient


def _times(vector: tf.Tensor, factor: float) -> tf.Tensor:
    return array_ops(vector).scaled(vector, factor)


def _of_rows(loss: Any, batch: PyTree) -> Any:
    """A loss that is not a scalar with the length it has for this batch, which a message may name."""
    if isinstance(loss, tf.Tensor) and loss.shape.rank and loss.shape[0] is None:
        loss.set_shape([tf.nest.flatten(batch)[0].shape[0], *loss.shape[1:]])
    return loss


def _identical(given: list[keras.Variable], before: Compiled, program: Program) -> bool:
    """Whether a function of ``program`` was given these variables."""
    return list(map(id, given)) == [id(program.others.given[name]) for name in before.given]


def _form(batch: PyTree) -> tuple[Any, ...]:
    """What functions of a batch are compiled for: all but its number of rows."""
    if type(batch) is tuple and all(isinstance(x, tf.Tensor) for x in batch):  # most are, and this is faster
        return tuple, *((x.dtype, tuple(x.shape)[1:]) for x in batch)
    structure = str(tf.nest.map_structure(lambda _: 0, batch))
    return structure, *((x.dtype, tuple(x.shape[1:])) for x in tf.nest.flatten(batch))


def specs(batch: PyTree) -> PyTree:
    """The tensors of a batch as specs, for any number of rows."""
    return tf.nest.map_structure(lambda row: tf.TensorSpec((None, *row.shape[1:]), row.dtype), batch)
