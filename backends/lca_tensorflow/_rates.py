"""`LearningRates`: the learning rates of a Keras optimizer, without its schedule being run at every step."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

_AHEAD = 64
"""Steps for which a schedule is evaluated at once."""


class LearningRates:
    """Reads the learning rate of the update that each optimizer has just made.

    Parameters
    ----------
    optimizers
        Keras optimizers.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
        self._optimizers = {str(i): optimizer for i, optimizer in enumerate(inner)}
        self._known: dict[tuple[str, int], float] = {}

    def __call__(self) -> Mapping[str, float]:
        return {name: self._rate(name, optimizer) for name, optimizer in self._optimizers.items()}

    def _rate(self, name: str, optimizer: Any) -> float:
        schedule = optimizer._learning_rate
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return _shortest(np.asarray(optimizer.learning_rate))
        step = int(optimizer.iterations) - 1
        if (name, step) not in self._known:
            self._known = {key: rate for key, rate in self._known.items() if key[0] != name}
            self._known |= {(name, step + i): rate for i, rate in enumerate(_rates_from(schedule, step))}
        return self._known[name, step]


def _rates_from(schedule: Any, step: int) -> list[float]:
    """The rates of the next steps; of this step only, for a schedule that takes no array of steps."""
    first = float(np.asarray(schedule(step)))
    steps = np.arange(step, step + _AHEAD)
    try:
        found = np.asarray(schedule(keras.ops.convert_to_tensor(steps)), dtype=np.float64)
    except Exception:  # a schedule may do anything with its step
        return [first]
    last = float(np.asarray(schedule(int(steps[-1]))))
    fits = found.shape == steps.shape and [first, last] == [found[0], found[-1]]
    return [_shortest(rate) for rate in found] if fits else [_shortest(first)]


def _shortest(rate: Any) -> float:
    """A float32 as the decimal that was meant.

    >>> _shortest(np.float32(0.1))
    0.1
    """
    return float(f"{float(rate):.7g}")
