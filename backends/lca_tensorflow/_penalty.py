"""`Penalty`: a term of the loss that depends on the parameters alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError, NonDeterministicError
from lca.frameworks import Frozen, PyTree, check_loss, check_theta
from lca.layout import Layout
from lca.objective import State
from lca_keras._configuration import CLOCK, CONFIGURATION, Configuration
from lca_keras._losses import MEAN_HINT
from lca_keras._parameters import layout_of, parameters_of
from lca_tensorflow._traced import Traced, trace
from lca_tensorflow._variables import OtherVariables
from lca_tensorflow._vectors import flat_gradient, tensors_of


class Penalty:
    """``R(θ)``, a function of the parameters alone: a term of its own in a `lca.Sum`; an `lca.Objective`.

    The regularizers of a model do not need it: `Objective.by_term` makes them a term. Variables that the
    function reads besides the tensors, and Python values that it captures, are its state and may change
    during a run.

    Parameters
    ----------
    model
        The model with these parameters, or a `lca.Layout`.
    function
        From a mapping of parameter tensors by name to a scalar tensor, built of TensorFlow operations, in the
        units of the loss.
    frozen
        As in `Objective`.

    Raises
    ------
    LCAError
        When it is evaluated, if the function does not return a floating-point scalar, draws random numbers,
        or reads a parameter of the model instead of the tensor that it is given.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> ridge = Penalty(model, lambda tensors: 0.5 * sum(tf.reduce_sum(t * t) for t in tensors.values()))
    >>> loss, grad = ridge.loss_and_grad(tf.constant([3.0, 4.0]))
    >>> loss, grad.numpy()
    (12.5, array([3., 4.], dtype=float32))
    """

    def __init__(
        self,
        model: keras.Model | Layout,
        function: Callable[[Mapping[str, tf.Tensor]], tf.Tensor],
        frozen: Frozen = "zero",
    ) -> None:
        self._parameters = {} if isinstance(model, Layout) else parameters_of(model, frozen)
        self.layout: Layout = model if isinstance(model, Layout) else layout_of(model, frozen)
        self._function = function
        self._former: _Version | None = None
        self._version = self._made(since=0)

    def loss(self, theta: tf.Tensor, batch: PyTree | None = None) -> float:
        """R(θ), the same for every batch."""
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: PyTree | None = None) -> tuple[float, tf.Tensor]:
        """R(θ) and ∂R/∂θ (K,), also of parameters that do not train."""
        return self._evaluate(theta, {})

    def state(self) -> State:
        """The variables that the function reads, and the version of what it has from Python."""
        version = self._now()
        if not version.traced and self._parameters:
            self._traced(version, tf.as_dtype(next(iter(self._parameters.values())).dtype))
        return {CONFIGURATION: np.array([CLOCK.now]), **version.others.state()}

    def at_state(self, state: State) -> "_InState":
        """The same function with this state."""
        return _InState(self, state)

    def _evaluate(self, theta: tf.Tensor, state: State) -> tuple[float, tf.Tensor]:
        check_theta(self.layout, theta, tf.Tensor)
        version = self._version_of(state)
        traced = self._traced(version, theta.dtype)
        with version.others.at(state):
            value, grad = traced(theta)
        return float(value), grad

    def _version_of(self, state: State) -> "_Version":
        now, former = self._now(), self._former
        when = int(state[CONFIGURATION][0]) if CONFIGURATION in state else now.since
        if when >= now.since:
            return now
        if former is not None and when >= former.since:
            return former
        raise _not_again()

    def _now(self) -> "_Version":
        """The function as its Python values are now."""
        old = self._version
        if not old.configuration.same():
            new = self._made(since=old.since)
            if all(self._traced(new, dtype).same_as(before) for dtype, before in old.traced.items()):
                old.configuration = new.configuration
            else:
                new.since, self._former, self._version = CLOCK.tick(), old, new
        return self._version

    def _made(self, since: int) -> "_Version":
        return _Version(Configuration([("function", self._function)]), OtherVariables((), {}), since)

    def _traced(self, version: "_Version", dtype: tf.DType) -> Traced:
        if dtype not in version.traced:
            if version is self._former:
                raise _not_again()
            traced = trace(partial(self._loss_and_grad), (tf.TensorSpec((self.layout.size,), dtype),))
            self._refuse_parameters(traced)
            version.others.admit(traced, {})
            version.traced[dtype] = traced
        return version.traced[dtype]

    def _refuse_parameters(self, traced: Traced) -> None:
        names = {id(variable._value): name for name, variable in self._parameters.items()}
        for variable in traced.reads:
            if id(variable) in names:
                name = names[id(variable)]
                raise LCAError(
                    f"the penalty reads the parameter {name!r} of the model itself, so it cannot be "
                    f"evaluated at other weights; use tensors[{name!r}] of the mapping that it is given."
                )

    def _loss_and_grad(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tensors = tensors_of(self.layout, theta)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            value = self._function(dict(zip(self.layout.names, tensors, strict=True)))
        check_loss(value, MEAN_HINT)
        return value, flat_gradient(tensors, tape.gradient(value, tensors))


@dataclass(eq=False)
class _Version:
    """The function as its Python values were from some time on; compiled for each dtype of θ."""

    configuration: Configuration
    others: OtherVariables
    since: int
    traced: dict[tf.DType, Traced] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _InState:
    """A `Penalty` in a given state."""

    penalty: Penalty
    in_state: State

    @property
    def layout(self) -> Layout:
        return self.penalty.layout

    def loss(self, theta: tf.Tensor, batch: PyTree | None = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: PyTree | None = None) -> tuple[float, tf.Tensor]:
        return self.penalty._evaluate(theta, self.in_state)


def _not_again() -> NonDeterministicError:
    return NonDeterministicError(
        "a Python value that the penalty uses changed during the step, and cannot be restored; keep "
        "it in a tf.Variable, or change it where nothing is measured."
    )
