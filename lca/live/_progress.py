"""`progress_bar`: the number of steps, their rate, and the sum of the residuals."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from lca._extras import extra
from lca.allocation import StepAllocation

Rows = TypeVar("Rows", bound=StepAllocation | Mapping[str, StepAllocation])


def progress_bar(rows: Iterable[Rows], total: int | None = None, *, quiet: bool = False) -> Iterator[Rows]:
    """Yield the items of `lca.allocate` or `lca.allocate_each` and show their progress on stderr.

    The bar shows the number of steps, their rate, and for the first measured loss its value and the sum of
    the residuals so far. It is shown only if stderr is a terminal.

    Parameters
    ----------
    rows
        The allocations, one step per item.
    total
        The number of steps, if it is known.
    quiet
        Whether to show nothing.

    Notes
    -----
    Reads scalars only: no pass over the K values. Needs the extra ``report`` (tqdm).

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral, Trajectory, allocate
    >>> from lca.reference import Quadratic
    >>> import numpy as np
    >>> loss, run = Quadratic(np.eye(2)), Trajectory(np.array([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]))
    >>> [float(a.loss_end) for a in progress_bar(allocate(loss, run, PathIntegral(SIMPSON)), total=2)]
    [0.625, 0.5]
    """
    with extra("report"):
        from tqdm import tqdm  # noqa: PLC0415

    hidden, residual = quiet or not sys.stderr.isatty(), 0.0
    with tqdm(total=total, unit="step", disable=hidden, leave=False, file=sys.stderr) as bar:
        for row in rows:
            allocation = next(iter(row.values())) if isinstance(row, Mapping) else row
            residual += allocation.residual
            bar.set_postfix(loss=f"{allocation.loss_end:.4g}", residual=f"{residual:+.1e}", refresh=False)
            bar.update()
            yield row
