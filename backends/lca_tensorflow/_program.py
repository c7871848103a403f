"""`Program`: the compiled functions of a loss, as the Python objects behind it were at one time."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lca_keras._configuration import Configuration
from lca_keras._policies import Modes
from lca_tensorflow._traced import Traced
from lca_tensorflow._variables import OtherVariables


class Compiled(NamedTuple):
    """A function, the names of the variables whose values it takes, and of the tensors without gradient."""

    traced: Traced
    given: tuple[str, ...]
    unconnected: frozenset[str]


@dataclass(eq=False)
class Program:
    """The compiled functions of a loss, and what they have in common.

    Attributes
    ----------
    configuration
        The Python values that the functions have baked in.
    trained
        The tensors that train.
    modes
        How the normalisation layers are called.
    others
        The variables besides θ that the functions read.
    since
        When the program began to hold, on the clock of all losses.
    functions
        By what they are compiled for.
    """

    configuration: Configuration
    trained: frozenset[str]
    modes: Modes
    others: OtherVariables
    since: int
    functions: dict[object, Compiled] = field(default_factory=dict)

    def emptied(self, others: OtherVariables) -> "Program":
        """The same for another loss of the same model."""
        return replace(self, others=others, functions={})

    def first(self) -> Compiled:
        """The function that was compiled first."""
        return next(iter(self.functions.values()))
