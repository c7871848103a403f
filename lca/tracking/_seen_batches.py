"""`SeenBatches`: how often a training loop makes several updates from one batch."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import ReferenceType, ref

import numpy as np

from lca.frameworks._trees import leaves_in
from lca.objective import Batch

OFTEN = 4
"""If one in this many updates is made from the batch of the update before, that is not by chance."""


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
            marks = [self._marks(batch) for batch in batches]
            again = any(_are_same(now, known) for now in marks for known in self._last)
            self._last = marks
        self._repeated += again

    @property
    def repeated(self) -> str:
        """How many updates were made from the batch of the update before, in words; empty if few were."""
        often = self._repeated and OFTEN * self._repeated >= self._updates
        return f"{self._repeated} of {self._updates} updates" if often else ""

    def _marks(self, batch: Batch) -> "list[_Mark]":
        return [(ref(leaf), self._version(leaf)) for leaf in _objects(batch)]


_Mark = tuple[ReferenceType[Any], int]


def _are_same(now: "list[_Mark]", known: "list[_Mark]") -> bool:
    """Whether the tensors are the same, as they were. All weak references to an object are one object."""
    return (
        bool(now)
        and len(now) == len(known)
        and all(
            own is other and version == before
            for (own, version), (other, before) in zip(now, known, strict=True)
        )
    )


def _objects(batch: Batch) -> list[Any]:
    """The tensors of a batch, and what else can be referred to."""
    return [
        leaf for leaf in leaves_in(batch) if type(leaf).__weakrefoffset__ and not isinstance(leaf, np.ndarray)
    ]
