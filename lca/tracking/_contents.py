"""`BatchContents`: whether the batches of an update still hold what a training loop began with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lca.errors import LCAError
from lca.frameworks._trees import leaves_in
from lca.objective import Batch


class BatchContents:
    """Notices writes into the batches of an update, which are known by reference.

    Parameters
    ----------
    version
        Returns a number that changes when the framework writes into a tensor. NumPy arrays, which have none,
        are copied and compared.

    Examples
    --------
    >>> x = np.zeros(2)
    >>> contents, batches = BatchContents(), [(x,)]
    >>> contents.begin(batches)
    >>> contents.require_unwritten(batches)
    >>> x[:] = 1
    >>> contents.require_unwritten(batches)
    Traceback (most recent call last):
    lca.errors.LCAError: a batch was written to after the loop had begun with it, ...
    """

    def __init__(self, version: Callable[[Any], int] = lambda tensor: 0) -> None:
        self._version = version
        self._known: dict[int, list[int | bytes]] = {}  # by the id of a batch

    def begin(self, batches: Sequence[Batch]) -> None:
        """The loop begins with the last of these batches of an update."""
        *before, last = batches
        if not before:
            self._known = {}
        if all(last is not other for other in before):
            self._known[id(last)] = self._marks(last)

    def require_unwritten(self, batches: Sequence[Batch]) -> None:
        """Raise `LCAError` if one of these batches was written to since the loop began with it."""
        for batch in batches:
            known = self._known.get(id(batch))
            if known is not None and known != self._marks(batch):
                raise LCAError(
                    "a batch was written to after the loop had begun with it, so what it held in its forward "
                    "pass is unknown. If a loader refills one buffer for several batches of an update, loop "
                    "over copies of its batches; if the model writes into its inputs, call it with copies; "
                    "if the loop prepares a batch in place, call tracker.begin_batch(batch) after that."
                )

    def _marks(self, batch: Batch) -> list[int | bytes]:
        return [
            leaf.tobytes() if isinstance(leaf, np.ndarray) else self._version(leaf)
            for leaf in leaves_in(batch)
        ]
