"""Whether modules that compute something else in training mode change the measured loss."""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from lca.frameworks._data import Rows
from lca.frameworks._split import MOST_ROWS
from lca.frameworks._trees import PyTree, is_rows
from lca.tolerances import rebatched


def differ_in_training(
    loss_with: Callable[[PyTree, Collection[str]], float],
    batch: PyTree,
    choices: Sequence[Collection[str]],
    *,
    eps: float,
    out_of_memory: tuple[type[Exception], ...] = (),
    refused: tuple[type[Exception], ...] = (),
) -> Sequence[bool]:
    """`lca.frameworks.ModelLoss.differ_in_training` on a few rows of a batch; on all, if these have no loss.

    Parameters
    ----------
    loss_with
        The loss of a batch with these modules in training mode; may raise anything.
    batch
        A batch that was tried out.
    choices
        Names of modules.
    eps
        Machine epsilon of the precision in which the loss is computed.
    out_of_memory
        Errors which do not say that the loss is another one.
    refused
        Errors of what must not be used in training mode, which are raised.

    Examples
    --------
    >>> differ_in_training(lambda batch, names: 2.0 + len(names), None, [["a"], []], eps=0.0)
    [True, False]
    """
    passed_on: tuple[type[Exception], ...] = (MemoryError, *out_of_memory)
    few = Rows(batch).take(slice(MOST_ROWS)) if is_rows(batch) else batch

    def loss_of(rows: PyTree, names: Collection[str]) -> float:
        try:
            return loss_with(rows, names)
        except (*passed_on, *refused):
            raise
        except Exception:  # of the user's code, as for outputs of another kind
            return math.nan

    with suppress(*passed_on):
        for rows in (few, batch):
            if math.isfinite(found := loss_of(rows, ())):
                rounding = rebatched(found, eps)
                return [not abs(loss_of(rows, names) - found) <= rounding for names in choices]
    return [False] * len(choices)
