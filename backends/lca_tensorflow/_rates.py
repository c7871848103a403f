"""`LearningRates`: the learning rates of Keras optimizers, without a schedule being run at every step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

_AHEAD = 64
"""Steps for which a schedule is evaluated at once."""


class LearningRates:
    """Reads the learning rate of the update that each optimizer has just made.

    Costs the reading of one variable (about 8 µs). A schedule is evaluated for 64 steps at once, in a
    compiled function, or step by step if its Python code cannot be compiled.

    Parameters
    ----------
    optimizers
        Keras optimizers.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
        self._read = {str(i): _Rate(optimizer) for i, optimizer in enumerate(inner)}

    def __call__(self) -> Mapping[str, float]:
        return {name: read() for name, read in self._read.items()}


class _Rate:
    """The learning rate of one optimizer; how it is read is found once for each variable or schedule."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._source: Any = None
        self._read: Callable[[], float]

    def __call__(self) -> float:
        source = self._optimizer._learning_rate  # the property would evaluate a schedule, at the next step
        if source is not self._source:
            self._source, self._read = source, _reader_of(self._optimizer, source)
        return self._read()


def _reader_of(optimizer: Any, source: Any) -> Callable[[], float]:
    """Reads a rate that is a schedule, a variable, or a function."""
    if isinstance(source, keras.optimizers.schedules.LearningRateSchedule):
        return _of_schedule(optimizer, source)
    if isinstance(source, keras.Variable):
        return _of_variable(source)
    return lambda: _shortest(optimizer.learning_rate)


def _of_schedule(optimizer: Any, schedule: Any) -> Callable[[], float]:
    known: dict[int, float] = {}
    evaluate, iterations = _ahead(schedule), _number_of(optimizer.iterations)

    def read() -> float:
        step = int(iterations()) - 1
        if step not in known:
            known.clear()
            known.update({step + i: rate for i, rate in enumerate(evaluate(step))})
        return known[step]

    return read


def _of_variable(variable: Any) -> Callable[[], float]:
    number, known = _number_of(variable), (0.0, 0.0)

    def read() -> float:
        nonlocal known
        found = float(number())
        if found != known[0]:
            known = found, _shortest(found)
        return known[1]

    return read


def _number_of(variable: Any) -> Callable[[], Any]:
    """Reads the number in a Keras variable: by the operation alone, which takes a third of ``numpy()``."""
    value = variable.value
    try:
        read = partial(tf.raw_ops.ReadVariableOp, resource=value.handle, dtype=value.dtype)
        read().numpy()
    except (AttributeError, TypeError, ValueError, tf.errors.OpError):  # of several devices
        return cast("Callable[[], Any]", variable.numpy)
    return lambda: read().numpy()


def _ahead(schedule: Any) -> Callable[[int], list[float]]:
    """Evaluates a schedule from one step on: 64 times, or once."""

    def at_each(steps: tf.Tensor) -> tf.Tensor:
        return tf.vectorized_map(lambda step: tf.cast(schedule(step), tf.float32), steps, warn=False)

    steps = tf.TensorSpec([_AHEAD], tf.int64)
    compiled: Any = None

    def at_once(step: int) -> list[float]:
        return [_shortest(rate) for rate in compiled(tf.range(step, step + _AHEAD, dtype=tf.int64)).numpy()]

    def single(step: int) -> list[float]:
        return [_shortest(schedule(step))]

    try:
        # Traced by hand: TensorFlow warns where one function is traced for every optimizer of several runs.
        compiled = tf.function(at_each, autograph=False).get_concrete_function(steps)
        at_once(0)
    except Exception:  # a schedule may do anything with its step
        return single
    return at_once


def _shortest(rate: Any) -> float:
    """A float32 as the decimal that was meant.

    >>> _shortest(np.float32(0.1))
    0.1
    """
    value = getattr(rate, "value", rate)  # of a variable: faster than its conversion by NumPy
    number = value.numpy() if isinstance(value, tf.Tensor | tf.Variable) else np.asarray(rate)
    return float(f"{float(number):.7g}")
