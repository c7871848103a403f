"""How many updates Keras optimizers have made, with those that a wrapper holds."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from lca.tracking._optimizers import within


class Counts:
    """How many updates optimizers have made; those that one holds are looked for once."""

    def __init__(self) -> None:
        self._within: dict[int, tuple[Any, ...]] = {}  # the first is the optimizer itself, which so lives on

    def made_by(self, optimizers: Iterable[Any]) -> int:
        """The updates of these optimizers so far; a wrapper counts as many as the optimizer inside it."""
        return sum(max(map(_count, self._inside(optimizer))) for optimizer in optimizers)

    def _inside(self, optimizer: Any) -> tuple[Any, ...]:
        if id(optimizer) not in self._within:
            self._within[id(optimizer)] = tuple(within([optimizer], held))
        return self._within[id(optimizer)]


def _count(optimizer: Any) -> int:
    made = optimizer.iterations
    try:
        return int(made)
    except TypeError:  # a variable with a copy on each device
        return int(np.asarray(keras.ops.convert_to_tensor(made)))


def trained_by(optimizer: Any) -> Sequence[keras.Variable]:
    """The variables that an optimizer was built for; empty before."""
    return [v for one in within([optimizer], held) for v in getattr(one, "_trainable_variables", None) or ()]


def held(optimizer: Any) -> Iterable[Any]:
    """The optimizers that a wrapper holds as attributes or in lists."""
    return (part for value in vars(optimizer).values() for part in _optimizers_in(value))


def _optimizers_in(value: Any) -> Sequence[Any]:
    """An attribute if it is an optimizer, or its entries if it is a list of them; fast for all others."""
    if isinstance(value, list | tuple):
        return value if value and isinstance(value[0], keras.optimizers.Optimizer) else ()
    return (value,) if isinstance(value, keras.optimizers.Optimizer) else ()
