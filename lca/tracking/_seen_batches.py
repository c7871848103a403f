"""`SeenBatches`: how often a training loop makes several updates from one batch."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import ReferenceType, ref

import numpy as np

from lca.frameworks._trees import tree_leaves
from lca.objective import Batch

OFTEN = 4
"""Where one in so many updates is made from the batch of the update before, that is no accident."""


class SeenBatches:
    """Counts the updates that are made from a batch of the update before.

    Batches are the same if their tensors are the same objects, and nothing was written into them. NumPy
    arrays are not compared, as nothing tells whether a loader has filled them anew.

    Parameters
    ----------
    version
        Returns a number that changes when the framework writes into a tensor.

    Examples
    --------
    >>> class Tensor:
    ...     "A tensor that is not NumPy's."
    >>> batch, other, seen = Tensor(), Tensor(), SeenBatches()
    >>> for one in (batch, batch, other):
    ...     seen.add([{"x": one}])
    >>> seen.repeated
    '1 of 3 updates'
    """

    def __init__(self, version: Callable[[Any], int] = lambda tensor: 0) -> None:
        self._version = version
        self._updates = self._repeated = 0
        self._last: list[list[_Mark]] = []

    def add(self, batches: Sequence[Batch]) -> None:
        """An update is made from these batches; from none, if it is made from those of the update before."""
        self._updates += 1
        again = bool(self._last) and not batches
        if batches:
            again = any(self._is_of_last(batch) for batch in batches)
            self._last = [self._marks(batch) for batch in batches]
        self._repeated += again

    @property
    def repeated(self) -> str:
        """How many updates were made from the batch of the update before, in words; empty if few were."""
        often = self._repeated and OFTEN * self._repeated >= self._updates
        return f"{self._repeated} of {self._updates} updates" if often else ""

    def _marks(self, batch: Batch) -> "list[_Mark]":
        return [(ref(leaf), self._version(leaf)) for leaf in _objects(batch)]

    def _is_of_last(self, batch: Batch) -> bool:
        leaves = _objects(batch)
        return bool(leaves) and any(
            len(marks) == len(leaves)
            and all(
                known() is leaf and version == self._version(leaf)
                for leaf, (known, version) in zip(leaves, marks, strict=True)
            )
            for marks in self._last
        )


_Mark = tuple[ReferenceType[Any], int]


def _objects(batch: Batch) -> list[Any]:
    """The tensors of a batch, and what else can be referred to."""
    leaves = (leaf for _, leaf in tree_leaves(batch))
    return [leaf for leaf in leaves if type(leaf).__weakrefoffset__ and not isinstance(leaf, np.ndarray)]
