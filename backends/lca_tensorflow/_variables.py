"""`OtherVariables`: the variables besides θ that a loss reads, their values, and how to give them others."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError, NonDeterministicError
from lca.objective import State
from lca_keras._policies import is_seed, random_error
from lca_tensorflow._traced import Traced

_NAMES: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Variables outside the measured models, by name: several losses of a run may read several of one name."""


class OtherVariables:
    """The variables besides θ that compiled functions read: state.

    Parameters
    ----------
    parameters
        The variables in θ.
    names
        Names of further variables, by id; others are named by their own.

    Attributes
    ----------
    given
        Keras variables that the functions get as arguments, by name.
    raw
        Other variables that they read; an earlier value has to be assigned to these.
    written
        Variables that a forward pass writes.
    calls_python
        Whether a function calls Python code.
    """

    def __init__(self, parameters: Iterable[keras.Variable], names: Mapping[int, str]) -> None:
        self.given: dict[str, keras.Variable] = {}
        self.raw: dict[str, tf.Variable] = {}
        self.written: list[tf.Variable] = []
        self.calls_python = False
        self._parameters = {id(v._value): v.path for v in parameters}
        self._names = names
        self._last: dict[str, tf.Tensor] = {}

    def admit(self, traced: Traced, seen: Mapping[int, keras.Variable]) -> bool:
        """Learn what a function reads; returns whether some should be given as an argument instead.

        Raises
        ------
        NonDeterministicError
            If the results of the function depend on random numbers.
        LCAError
            If it reads a parameter past the value that replaces it.
        """
        if traced.random:
            raise NonDeterministicError(
                f"the loss draws random numbers ({traced.random[0]}), so it is not a function of the "
                "weights; draw them only when called with training=True, or outside of the loss."
            )
        read = {id(v): seen[id(v)] for v in traced.reads if id(v) in seen}
        if any(map(is_seed, read.values())):  # Keras also draws masks of recurrent layers that nothing uses
            raise random_error()
        known = len(self.given)
        self.learn(read, traced.reads)
        self.written += [v for v in traced.writes if not any(v is known for known in self.written)]
        self.calls_python |= traced.python
        return len(self.given) > known

    def learn(self, seen: Mapping[int, keras.Variable], read: Iterable[tf.Variable]) -> None:
        """These Keras variables, by the id of their TensorFlow variable, and these others are read."""
        self.given |= {self._name(v): v for v in seen.values()}
        for variable in read:
            if id(variable) in self._parameters:
                raise LCAError(
                    f"the loss reads the tf.Variable behind {self._parameters[id(variable)]!r}, so it cannot "
                    "be evaluated at other weights; use the Keras variable itself, as in self.kernel."
                )
            if id(variable) not in seen:
                self.raw[self._name(variable)] = variable

    def state(self) -> dict[str, tf.Tensor]:
        """A copy of all that the functions read besides θ; the same tensors if nothing has moved."""
        live = {name: variable._value for name, variable in self.given.items()} | self.raw
        self._last = {name: _copy(variable, self._last.get(name)) for name, variable in live.items()}
        return dict(self._last)

    def values(self, given: Iterable[str], state: State) -> dict[str, tf.Tensor]:
        """The values of these variables: of this state, or of now.

        Raises
        ------
        LCAError
            If a value in the state has another dtype or shape than the variable.
        """
        return {name: self._value(name, state) for name in given}

    @contextmanager
    def at(self, state: State) -> Iterator[None]:
        """Give the other variables the values of this state for a while; they are restored bit for bit."""
        touched = {id(v): v for v in (*self.raw.values(), *self.written)}.values()
        before = [(variable, variable.read_value()) for variable in touched]
        try:
            for name, variable in self.raw.items():
                if name in state and not _same(variable.read_value(), state[name]):
                    variable.assign(state[name])
            yield
        finally:
            for variable, value in before:
                if not _same(variable.read_value(), value):
                    variable.assign(value)

    def _value(self, name: str, state: State) -> tf.Tensor:
        variable = self.given[name]._value
        if name not in state:
            return variable.read_value()
        value = tf.convert_to_tensor(state[name])
        if (value.dtype, value.shape) != (variable.dtype, variable.shape):
            raise LCAError(
                f"the state holds {name!r} as {value.dtype.name} {tuple(value.shape)}, but the model has it "
                f"as {variable.dtype.name} {tuple(variable.shape)}; pass a state of this model."
            )
        return value

    def _name(self, variable: Any) -> str:
        if id(variable) in self._names:
            return self._names[id(variable)]
        path: str = variable.path if isinstance(variable, keras.Variable) else variable.name.partition(":")[0]
        name, number = path.replace("/", "."), 0
        while (other := _NAMES.get(name)) is not None and other is not variable:
            number += 1
            name = f"{path.replace('/', '.')}_{number}"
        _NAMES[name] = variable
        return name


def _copy(variable: tf.Variable, last: tf.Tensor | None) -> tf.Tensor:
    now = variable.read_value()
    return last if last is not None and _same(now, last) else now


def _same(a: tf.Tensor, b: tf.Tensor) -> bool:
    """Whether two values are the same, bit for bit; a variable and its copy share memory until it moves."""
    if a is b:
        return True
    if not ("CPU" in a.device and "CPU" in b.device):
        return bool(tf.reduce_all(a == b))
    x, y = np.asarray(a._numpy()), np.asarray(b._numpy())
    if x.ndim and x.__array_interface__["data"] == y.__array_interface__["data"]:
        return True
    return x.tobytes() == y.tobytes()
