"""`Progress` and `progress_bar`: the number of steps, their rate, the time left, and the residuals so far."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, TypeVar

from lca._extras import extra
from lca.allocation import StepAllocation

Rows = TypeVar("Rows", bound=StepAllocation | Mapping[str, StepAllocation])


class Progress:
    """A bar on stderr with the number of steps, their rate, and the time left if ``total`` is known.

    It also shows the first measured loss and the sum of its residuals so far. A terminal sees it ten times a
    second, a file once in ten seconds.

    Parameters
    ----------
    total
        The number of steps, if it is known.
    done
        The number of steps that were made before.
    hidden
        Whether to show nothing.

    Examples
    --------
    >>> bar = Progress(total=10, hidden=True)
    >>> bar.read(4, 0.5, 1e-6)
    >>> bar.steps
    5
    >>> bar.close()
    """

    def __init__(self, total: int | None = None, *, done: int = 0, hidden: bool = False) -> None:
        with extra("progress"):
            from tqdm import tqdm  # noqa: PLC0415

        self.steps, self._residual = done, 0.0
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            unit="step",
            disable=hidden,
            leave=False,
            file=sys.stderr,
            mininterval=interval,
        )

    def read(self, step: int, loss: float, residual: float) -> None:
        """Step ``step`` was measured; the steps before it that were not are counted too."""
        self._residual += residual
        if isfinite(loss):  # NaN if the estimator measures none
            self._bar.set_postfix(loss=f"{loss:.4g}", residual=f"{self._residual:+.1e}", refresh=False)
        self._bar.update(step + 1 - self.steps)
        self.steps = step + 1

    def expect(self, total: int | None) -> None:
        """The number of steps is known now."""
        self._bar.total = total

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def progress_bar(rows: Iterable[Rows], total: int | None = None, *, quiet: bool = False) -> Iterator[Rows]:
    """Yield the items of `lca.allocate` or `lca.allocate_each` and show their `Progress` on stderr.

    It is shown only if stderr is a terminal. Trackers and callbacks show the same with ``progress=True``.

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
    Reads scalars only: no pass over the K values. Needs the extra ``progress`` (tqdm).

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral, Trajectory, allocate
    >>> from lca.reference import Quadratic
    >>> import numpy as np
    >>> loss, run = Quadratic(np.eye(2)), Trajectory(np.array([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]))
    >>> [float(a.loss_end) for a in progress_bar(allocate(loss, run, PathIntegral(SIMPSON)), total=2)]
    [0.625, 0.5]
    """
    bar = Progress(total, hidden=quiet or not sys.stderr.isatty())
    try:
        for row in rows:
            allocation = next(iter(row.values())) if isinstance(row, Mapping) else row
            bar.read(bar.steps, allocation.loss_end, allocation.residual)
            yield row
    finally:
        bar.close()
