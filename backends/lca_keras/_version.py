"""`Version`: the loss as its Python objects were at one time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import keras

from lca_keras._configuration import Configuration
from lca_keras._engine import Tensor
from lca_keras._policies import Modes

Wanted: TypeAlias = tuple[int, ...] | None
"""The tensors, by number, whose gradient is computed; ``None``: only the loss is."""


@dataclass
class Version:
    """The loss as its Python objects were at one time.

    Attributes
    ----------
    configuration
        The Python values that it depends on.
    trained
        The tensors that train, by number.
    modes
        How the normalisation layers are called.
    since
        When the version began to hold, on the clock of all losses.
    functions
        What has been compiled, by the tensors that are differentiated.
    passed
        Variables that are read and are no state, by id.
    """

    configuration: Configuration
    trained: tuple[int, ...]
    modes: Modes
    since: int
    functions: dict[Wanted, Callable[..., tuple[Tensor, Tensor]]] = field(default_factory=dict)
    passed: dict[int, keras.Variable] = field(default_factory=dict)
