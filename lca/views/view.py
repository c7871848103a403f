"""`View`: the one method every streaming reduction has."""

from typing import Protocol

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.step import Step


class View(Protocol):
    """Something that is told every step of a run, in order, and remembers less than it is told."""

    def update(self, allocation: StepAllocation) -> None:
        """Take in one step; keeps no reference to its vectors."""


def numpy_values(allocation: StepAllocation) -> np.ndarray:
    """The (K,) values of a step as a NumPy array, whichever backend they come from."""
    return array_ops(allocation.values).to_numpy(allocation.values)


def step_of(allocation: StepAllocation, what: str) -> Step:
    """The step that was allocated, for views of θ and its movement; ``what`` names them in the message."""
    if allocation.source is None:
        raise LCAError(
            f"{what} need θ, and the allocation of step {allocation.step} does not know its step; estimators "
            "hand it on as StepAllocation.source."
        )
    return allocation.source
