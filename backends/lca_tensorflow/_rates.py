"""`LearningRates`: the learning rates of Keras optimizers, without a schedule being run at every step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_AHEAD = 64
"""Steps for which a schedule is evaluated at once."""


class LearningRates:
    """Reads the learning rate of the update that each optimizer has just made.

    Costs the reading of one variable (about 10 to 30 µs). A schedule is evaluated for 64 steps at once, in a
    compiled function, or step by step if its Python code cannot be compiled.

    Parameters
    ----------
    optimizers
        Keras optimizers.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
        self._read = {str(i): _reader_of(optimizer) for i, optimizer in enumerate(inner)}

    def __call__(self) -> Mapping[str, float]:
        return {name: read() for name, read in self._read.items()}


def _reader_of(optimizer: Any) -> Callable[[], float]:
    known: dict[int, float] = {}
    evaluate: dict[Any, Callable[[int], list[float]]] = {}

    def read() -> float:
        schedule = optimizer._learning_rate  # the property would evaluate it, at the next step
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return _shortest(optimizer.learning_rate)
        step = int(optimizer.iterations) - 1
        if schedule not in evaluate:
            known.clear()
            evaluate[schedule] = _ahead(schedule)
        if step not in known:
            known.clear()
            known.update({step + i: rate for i, rate in enumerate(evaluate[schedule](step))})
        return known[step]

    return read


def _ahead(schedule: Any) -> Callable[[int], list[float]]:
    """Evaluates a schedule from one step on: 64 times, or once."""

    def at_each(steps: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda step: tf.cast(schedule(step), tf.float32), steps, fn_output_signature=tf.float32
        )

    compiled: Any = tf.function(at_each, autograph=False)

    def at_once(step: int) -> list[float]:
        return [_shortest(rate) for rate in compiled(tf.range(step, step + _AHEAD, dtype=tf.int64)).numpy()]

    def single(step: int) -> list[float]:
        return [_shortest(schedule(step))]

    try:
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
