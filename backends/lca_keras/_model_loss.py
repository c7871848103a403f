"""`KerasLoss`: the loss and gradient of batches of a Keras model at any θ, on PyTorch and JAX.

The model's variables are never written: in a `keras.StatelessScope`, which `keras.Model.stateless_call` uses
as well, θ takes their place for the time of a forward pass, and what the pass would assign is dropped. The
Keras variables that it reads besides θ are state; the Python values that it reads are its configuration.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import keras
import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LayoutError, LCAError
from lca.frameworks import (
    BatchNorm,
    Frozen,
    PyTree,
    check_loss,
    check_theta,
    loss_errors,
    no_gradient,
    require_weight,
    weight_of,
)
from lca.objective import State
from lca.tolerances import repeat
from lca_keras._class_weight import weighted_by_class
from lca_keras._configuration import CLOCK, CONFIGURATION, Configuration, not_again
from lca_keras._data import as_tensors
from lca_keras._engine import LossOf, Tensor, Tensors, engine
from lca_keras._losses import (
    SCALAR_HINT,
    BatchLoss,
    number_of_examples,
    of_outputs,
)
from lca_keras._parameters import (
    check_same_variables,
    flags_of,
    training,
    unique_names,
)
from lca_keras._policies import (
    Modes,
    Scope,
    batch_statistics,
    recorded_modes,
    uses_batch_statistics,
)
from lca_keras._precision import EPS, results_in
from lca_keras._shared_loss import SharedLoss
from lca_keras._untouched import HostGenerators, drawn_error, kept
from lca_keras._vectors import flat, replaced, tensors_of
from lca_keras._version import Version, Wanted


class KerasLoss(SharedLoss):
    """`SharedLoss` on PyTorch and JAX."""

    terms_hint = (
        'lca.Sum({"data": objective, "penalty": Objective(model, None, data, batch_loss=function of model '
        "and batch)})"
    )

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
    ) -> None:
        self._engine, self._model = engine(), model
        _refuse_distribution()
        self._attach()
        super().__init__(
            model,
            loss_fn,
            batch_loss=batch_loss,
            batch_weight=batch_weight,
            class_weight=class_weight,
            batch_norm=batch_norm,
            frozen=frozen,
        )
        _refuse_narrowed(self.variables[0], self.dtype)
        for layer in model._flatten_layers(include_self=False):
            if not layer._layers:  # a model inside a model computes nothing itself
                self._computes_in(layer.compute_dtype)
        self._others: dict[str, keras.Variable] = {}  # that the loss reads besides θ
        self._last: dict[str, Tensor] = {}  # their values when the state was read last
        self._point: tuple[Vector, dict[str, Tensor], PyTree] | None = None  # where versions are compared
        self._loss_there = math.nan
        self._fingerprint: str | None = None
        self._version = self._made(0, None)

    def begin(self, batch: PyTree) -> None:
        """Learn from a batch how the model calls its normalisation layers."""
        self._version = self._made(0, batch)

    def theta(self) -> Vector:
        self._attach()
        return flat([self._engine.read(variable) for variable in self.variables])

    def trainable(self) -> Collection[str]:
        return [self.layout.names[i] for i in self._now().trained]

    def check(self) -> None:
        self._now()

    def refresh(self) -> str:
        """Compare the loss of the first batch with its earlier value: finds what `Configuration` misses.

        Costs a forward pass of a measuring batch, or, where losses are compiled, a trace.
        """
        now = self._now()
        if self._point is None or self._is_as_before(self._made(now.since, self._point[2])):
            return ""
        return "a value that the loss has from outside, such as an entry of a large array"

    def version(self) -> object:
        return self._now()

    def same_as(self, version: object) -> bool:
        if self._point is None:
            return True
        assert isinstance(version, Version)
        point = self.theta(), self._values({}), self._point[2]
        return self._agree(self._loss_at(version, point), self._loss_at(self._version, point))

    def state(self) -> State | None:
        """Keras variables that the loss reads besides θ, and the version of its configuration."""
        self._now()
        self._last = {name: self._copy(name) for name in self._others}
        return {CONFIGURATION: np.array([CLOCK.now]), **self._last}

    def evaluate(
        self,
        theta: Vector,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Vector | None]:
        """As `ModelLoss.evaluate`; a float64 model also takes float32 parameters and computes in float64."""
        wide, version = self._wide(theta), self._version_of(state)
        chosen = tuple(i for i, name in enumerate(self.layout.names) if names is None or name in names)
        wanted = (version.trained if names is None else chosen) if gradient else None
        ops, total = array_ops(wide), None
        losses, weights = [], []
        with self._undisturbed(version):
            for batch in batches:
                if not (weight := weight_of(self, batch)):
                    continue
                with loss_errors(batch, self._engine.PASSED_ON):
                    loss, grad = self._of_batch(version, wanted, wide, state or {}, batch)
                    losses.append(weight * float(loss))
                weights.append(weight)
                if gradient:
                    total = ops.scaled(grad, weight) if total is None else ops.add_scaled(total, weight, grad)
        weight = require_weight(math.fsum(weights))
        mean = None if total is None else keras.ops.cast(ops.scaled(total, 1 / weight), theta.dtype)
        return math.fsum(losses) / weight, mean

    def try_out(self, theta: Vector, batch: PyTree) -> list[str]:
        """One batch: what it reads is learned, and where versions of the loss are compared."""
        self.evaluate(theta, [batch], gradient=False)
        version, values, wide = self._now(), self._values({}), self._wide(theta)
        tensors, live = tensors_of(self.layout, wide), map(self._engine.read, self.variables)
        with self._undisturbed(version), loss_errors(batch, self._engine.PASSED_ON):
            unreached = self._engine.unreached(
                lambda given: self._loss(version, replaced(tensors, given), values, batch),
                {i: tensors[i] for i in version.trained},
                dict(enumerate(live)),
            )
        if unreached == set(version.trained):
            raise no_gradient(self.gradient_hint)
        self._point = wide, {n: self._engine.copy(value) for n, value in values.items()}, batch
        self._loss_there, self._fingerprint = self._at_point(version), self._fingerprint_of(version)
        return [self.layout.names[i] for i in version.trained if i in unreached]

    def prepare(self, batch: PyTree) -> PyTree:
        weighted = weighted_by_class(as_tensors(batch, self.dtype), self._class_weight)
        return as_tensors(weighted, self.dtype)

    def batch_weight(self, batch: PyTree) -> float:
        return float(self._weight(batch))

    def scores(self, theta: Vector, batches: Iterable[PyTree]) -> np.ndarray:
        """Not compiled."""
        if self._own_loss:
            return super().scores(theta, batches)
        version, tensors = self._now(), tensors_of(self.layout, self._wide(theta))
        with self._undisturbed(version):
            found = [self._scores(version, tensors, self.sample(batch, None)) for batch in batches]
        return np.asarray(np.concatenate(found), np.float64)

    def _of(self, batch_loss: BatchLoss) -> Self:
        other = copy.copy(self)
        other._batch_loss, other._others, other._last, other._point = batch_loss, {}, {}, None
        other._version = replace(self._version, functions={})
        return other

    def _read_besides_theta(self) -> Mapping[str, keras.Variable]:
        return self._others

    # --- versions: the loss as its Python objects were at one time ----------------------------------------

    def _now(self) -> Version:
        """The version of the present configuration."""
        self._attach()
        old = self._version
        if not old.configuration.same():
            check_same_variables(self._model, self._measured, self._known)
            new = self._made(old.since, None if self._point is None else self._point[2])
            if self._point is not None and not self._is_as_before(new):
                self._changed = ", ".join(dict.fromkeys(old.configuration.changed()))
                new.since, self._loss_there = CLOCK.tick(), self._at_point(new)
                self._fingerprint = self._fingerprint_of(new)
            self._version = new
        self.mixes_examples = uses_batch_statistics(self._version.modes)
        return self._version

    def _version_of(self, state: State | None) -> Version:
        """The present version, if it held when this state was read."""
        now = self._now()
        if state is not None and CONFIGURATION in state and int(state[CONFIGURATION][0]) < now.since:
            raise not_again(self._changed)
        return now

    def _made(self, since: int, batch: PyTree | None) -> Version:
        configuration = Configuration(self._roots, [flags_of(self._known)])
        trained = tuple(i for i, trains in enumerate(training(self._model, self.variables)) if trains)
        unknown: Modes = [(norm, [True]) for norm in self._norms]
        version = Version(configuration, trained, unknown, since)
        if self._norms and batch is not None:
            version.modes = self._modes(version, batch) or unknown
        return version

    def _modes(self, version: Version, batch: PyTree) -> Modes | None:
        """How training calls the normalisation layers: found by a pass in training mode."""
        found = self._training_pass(version, batch)
        return found and found[0]

    def _training_pass(self, version: Version, batch: PyTree) -> tuple[Modes, Scope] | None:
        """How a pass in training mode calls the normalisation layers, and the scope with its updates.

        ``None`` if it raises an error, or does not call the model.
        """
        scope = Scope([], random=True)
        with recorded_modes(self._model, self._norms) as recorded:
            try:
                with self._undisturbed(version, drawing=True), scope:
                    self._engine.traced(lambda: self._batch_loss(self._model, batch))
            except Exception:  # the loss itself is tried out next, and its error says more
                return None
        return (recorded.modes, scope) if recorded.called else None

    def _updated_in_training(self) -> frozenset[int] | None:
        found = None if self._point is None else self._training_pass(self._version, self._point[2])
        return found and found[1].updated

    def _is_as_before(self, version: Version) -> bool:
        """Whether the loss of the first batch, at the initial weights, is unchanged."""
        fingerprint = self._fingerprint_of(version)
        if fingerprint is not None and fingerprint == self._fingerprint:
            return True
        return self._agree(self._loss_there, self._at_point(version))

    def _agree(self, before: float, now: float) -> bool:
        """Whether two losses of the same batch are the same, up to rounding."""
        eps = max(EPS[self.dtype], self.precision_eps or 0.0)
        return before == now or abs(before - now) <= repeat(max(abs(before), abs(now)), eps)

    def _at_point(self, version: Version) -> float:
        assert self._point is not None
        return self._loss_at(version, self._point)

    def _loss_at(self, version: Version, point: tuple[Vector, dict[str, Tensor], PyTree]) -> float:
        with self._undisturbed(version):
            return float(self._of_batch(version, None, *point)[0])

    def _fingerprint_of(self, version: Version) -> str | None:
        assert self._point is not None
        theta, values, batch = self._point
        with self._undisturbed(version):
            return self._engine.fingerprint(self._function(version, None), theta, values, batch)

    @contextmanager
    def _undisturbed(self, version: Version, *, drawing: bool = False) -> Iterator[None]:
        """Put back what the forward pass writes in Python and draws; without ``drawing``, that is refused."""
        host, drawn = HostGenerators.now(version.configuration.parts), ""
        with kept(version.configuration.parts), self._engine.private_generators() as moved:
            try:
                yield
                drawn = host.drawn() or (keras.backend.backend() if moved() else "")
            finally:
                host.restore()
        if drawn and not drawing:
            raise drawn_error(drawn)

    # --- one batch ----------------------------------------------------------------------------------------

    def _of_batch(
        self, version: Version, wanted: Wanted, theta: Vector, state: State, batch: PyTree
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient; evaluated again if it is found to read another variable, which is then given."""
        while True:
            known = len(self._others)
            found = self._function(version, wanted)(theta, self._values(state), batch)
            if len(self._others) == known:
                return found

    def _function(self, version: Version, wanted: Wanted) -> Callable[..., tuple[Tensor, Tensor]]:
        """The loss and the gradient of a batch, compiled once for each size of batch."""
        if wanted not in version.functions:
            version.functions[wanted] = self._engine.compiled(partial(self._evaluated, version, wanted))
        return version.functions[wanted]

    def _evaluated(
        self, version: Version, wanted: Wanted, theta: Vector, values: Mapping[str, Tensor], batch: PyTree
    ) -> tuple[Tensor, Tensor]:
        tensors = tensors_of(self.layout, theta)

        def loss(given: Tensors) -> Tensor:
            return self._loss(version, replaced(tensors, given), values, batch)

        if wanted is None:
            return self._engine.value(lambda: loss({}), gradients=self.differentiates_inside), theta[:0]

        wrt = {i: tensors[i] for i in wanted}
        if self._scale == 1.0:
            return self._differentiated(loss, wrt, tensors)

        def scaled(scale: float) -> tuple[Tensor, Tensor]:
            def times(given: Tensors) -> Tensor:
                return scale * keras.ops.cast(loss(given), self.dtype)

            found, grad = self._differentiated(times, wrt, tensors)
            return found / scale, grad / scale

        found = scaled(self._scale)
        fits = keras.ops.all(keras.ops.isfinite(found[1]))  # else it overflows: without the scale
        either: tuple[Tensor, Tensor] = keras.ops.cond(fits, lambda: found, lambda: scaled(1.0))
        return either

    def _differentiated(self, loss: LossOf, wrt: Tensors, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A loss and its gradient (K,), which is 0 for the tensors that are not among ``wrt``."""
        found, grads = self._engine.differentiate(loss, wrt)
        zeros = keras.ops.zeros_like
        return found, flat(zeros(t) if (g := grads.get(i)) is None else g for i, t in enumerate(tensors))

    def _loss(
        self, version: Version, tensors: list[Tensor], values: Mapping[str, Tensor], batch: PyTree
    ) -> Tensor:
        with self._scope(version, tensors, values):
            loss = self._batch_loss(self._model, batch)
        check_loss(loss, SCALAR_HINT)
        self._computes_in(loss.dtype)
        return loss

    def _computes_in(self, dtype: Any) -> None:
        """A part of the loss has this dtype, by a mixed-precision policy or what Keras casts it to."""
        eps = EPS.get(keras.backend.standardize_dtype(dtype), 0.0) if dtype else 0.0
        if eps > max(EPS[self.dtype], self.precision_eps or 0.0):
            self.precision_eps = eps

    @contextmanager
    def _scope(self, version: Version, tensors: list[Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
        """Variables have these values; others that are read are learned."""
        given = [*zip(self.variables, tensors, strict=True)]
        given += [(self._others[name], value) for name, value in values.items()]
        unmoved = [norm for norm, _ in version.modes]
        policies = batch_statistics(version.modes), results_in(self.dtype)
        with policies[0], policies[1], Scope(given, unmoved=unmoved) as scope:
            yield
        if new := [v for v in scope.variables.values() if id(v) not in version.passed]:
            self._learn(version, new)

    def _learn(self, version: Version, read: list[keras.Variable]) -> None:
        """These variables were read: they are state, but for metrics and what only an update reads."""
        norms = [norm for norm, flags in version.modes if norm.trainable and all(flags)]
        unused = {id(v) for part in (*norms, *self._model.metrics) for v in part.variables}
        found = [v for v in read if id(v) not in unused]
        version.passed |= {id(v): v for v in read if id(v) in unused}
        names = unique_names(self._model, [*self._others.values(), *found])
        self._others |= dict(zip(names[len(self._others) :], found, strict=True))

    def _scores(self, version: Version, tensors: list[Tensor], batch: PyTree) -> np.ndarray:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        ops, n = keras.ops, number_of_examples(batch)
        with loss_errors(batch, self._engine.PASSED_ON), self._scope(version, tensors, self._values({})):
            outputs: Any = None

            def forward() -> Tensor:
                nonlocal outputs
                outputs = self._model(x, training=False)
                return keras.tree.flatten(outputs)[0]

            self._engine.value(forward, gradients=False)
            parts = dict(enumerate(keras.tree.flatten(outputs)))
            _, grads = self._engine.differentiate(
                lambda given: of_outputs(
                    self._loss_fn,
                    self._model,
                    y,
                    keras.tree.pack_sequence_as(outputs, [*given.values()]),
                    weight,
                ),
                parts,
            )
            each = [ops.sum(ops.reshape(ops.abs(g), (n, -1)), 1) for g in grads.values() if g is not None]
        found: np.ndarray = ops.convert_to_numpy(sum(each) * n / 2)
        return found

    # --- values -------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        self._engine.attach(self._model)

    def _values(self, state: State) -> dict[str, Tensor]:
        """The values of the other variables: of this state, or of now."""
        live = self._others.items()
        return {n: state[n] if n in state else self._engine.read(v) for n, v in live}

    def _copy(self, name: str) -> Tensor:
        """The value of another variable as it is now; the same tensor if it has not moved."""
        now, last = self._engine.read(self._others[name]), self._last.get(name)
        return last if last is not None and array_ops(now).equal(now, last) else self._engine.copy(now)

    def _wide(self, theta: Vector) -> Vector:
        """θ in the dtype of the model."""
        check_theta(self.layout, theta, self._engine.KIND)
        if keras.backend.standardize_dtype(theta.dtype) == "float64" and self.dtype == "float32":
            raise LayoutError(
                "theta is float64, but the model was built in float32; cast it to float32, or build the "
                "model under keras.config.set_floatx('float64')."
            )
        return keras.ops.cast(theta, self.dtype)


def _refuse_distribution() -> None:
    if keras.distribution.distribution() is not None:
        raise LCAError(
            "a keras.distribution places the variables on several devices, and θ is one vector on one "
            "device; train without it: keras.distribution.set_distribution(None)."
        )


def _refuse_narrowed(variable: keras.Variable, dtype: str) -> None:
    """Raise if JAX stores a float64 model in float32, as it does without ``jax_enable_x64``."""
    found = keras.backend.standardize_dtype(variable.value.dtype)
    if found != dtype:
        raise LayoutError(
            f"the model was built in {dtype}, but its numbers are {found}; call "
            "jax.config.update('jax_enable_x64', True) before it is built."
        )
