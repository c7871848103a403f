"""`Logger`: where the numbers of each measured step are sent; and what these numbers are."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from lca.errors import LCAError
from lca.row import Row


@runtime_checkable
class Logger(Protocol):
    """Receives the numbers of each measured step; pass one, or a list, as ``log_to=`` to a tracker.

    Examples
    --------
    >>> class Printed:
    ...     def log(self, step, loss, values):
    ...         print(step, loss, values)
    ...     def close(self):
    ...         pass
    >>> isinstance(Printed(), Logger)
    True
    """

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """The numbers of step ``step`` of the measured loss called ``loss``; all are finite.

        ``loss`` and ``residual_so_far``; ``helping_percent``, unless the allocations are sampled; and for
        each layer ``LCA/<layer>`` of the step and its sum ``LCA_so_far/<layer>``. At each self-check of a
        sampled estimator: ``checked_change``, the change of the measured loss since the first one, and
        ``checked_sum``, that of the allocations; those of the check at the end of the run come in one more
        call for the last step. What was not measured is left out.
        """

    def close(self) -> None:
        """The run has ended, perhaps by an error: write what is buffered. May be called again."""


LogTo: TypeAlias = Logger | Literal["trainer"] | Sequence[Logger | Literal["trainer"]] | None
"""A `Logger` or several; ``"trainer"`` stands for the loggers of a trainer that a callback has joined."""


class EveryNth:
    """Passes every n-th measured step, and all self-checks, on to another logger.

    Sums so far include the other steps.

    Parameters
    ----------
    logger
        The logger.
    n
        Measured steps between two that are passed on; the n-th, 2n-th, ... are.

    Raises
    ------
    LCAError
        If ``n`` is less than 1.

    Examples
    --------
    >>> class Printed:
    ...     def log(self, step, loss, values):
    ...         print(step, loss, values)
    ...     def close(self):
    ...         print("closed")
    >>> logger = EveryNth(Printed(), 2)
    >>> for step in range(4):
    ...     logger.log(step, "train", {"loss": 2.0 - step})
    1 train {'loss': 1.0}
    3 train {'loss': -1.0}
    >>> logger.close()
    closed
    """

    def __init__(self, logger: Logger, n: int) -> None:
        if n < 1:
            raise LCAError(f"EveryNth needs n ≥ 1 steps, got {n}.")
        self._logger, self._n = logger, n
        self._seen, self._last = 0, -1

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `Logger.log`."""
        if step != self._last:
            self._seen, self._last = self._seen + 1, step
        values = values if self._seen % self._n == 0 else checks_in(values)
        if values:
            self._logger.log(step, loss, values)

    def close(self) -> None:
        """As `Logger.close`."""
        self._logger.close()


def loggers_of(log_to: LogTo, trainer: Logger | None = None) -> list[Logger]:
    """The loggers in ``log_to``, where ``trainer`` takes the place of ``"trainer"``.

    Raises
    ------
    LCAError
        If an entry is no `Logger`, or there is no trainer.
    """
    several: list[Any] = [] if log_to is None else [log_to]
    if isinstance(log_to, Iterable) and not isinstance(log_to, str | Logger):
        several = list(log_to)
    found = []
    for entry in several:
        logger = trainer if isinstance(entry, str) and entry == "trainer" else entry
        if logger is None:
            raise LCAError(
                "log_to='trainer' is for LightningCallback; for a Hugging Face Trainer pass "
                "lca_torch.huggingface.TrainerLog(trainer), elsewhere a logger of lca.live."
            )
        if isinstance(logger, type) or not isinstance(logger, Logger):
            raise LCAError(
                f"log_to must hold loggers with methods log(step, loss, values) and close(), got {logger!r}; "
                "lca.live has CSV, TensorBoard, WandB and MLflow."
            )
        found.append(logger)
    return found


def tagged(loss: str, values: Mapping[str, float]) -> dict[str, float]:
    """The numbers under names that no others of a run have.

    >>> tagged("train", {"LCA/fc1": -0.5})
    {'lca/train/LCA/fc1': -0.5}
    """
    return {f"lca/{loss}/{name}": value for name, value in values.items()}


def checks_in(values: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a self-check, which loggers of every n-th step do not leave out.

    >>> checks_in({"loss": 0.5, "checked_sum": -1.5})
    {'checked_sum': -1.5}
    """
    return {name: value for name, value in values.items() if name.startswith("checked_")}


class LossLog:
    """The numbers of one measured loss, step by step: reads the row that all readers of a step share.

    Memory: one number a layer.
    """

    def __init__(self) -> None:
        self._totals: np.ndarray | float = 0.0
        self._residual = 0.0
        self._change = self._sum = 0.0  # over the windows of self-checks

    def values(self, row: Row) -> dict[str, float]:
        """The finite ones of the numbers that `Logger.log` lists."""
        names, totals = row.layout.groups("layer").names, row.totals("layer")
        self._totals = self._totals + totals
        self._residual += row.allocation.residual
        found = {"loss": row.allocation.loss_end, "residual_so_far": self._residual}
        if row.check is not None:
            found |= self.checked(row.check.change, row.check.total)
        signs = row.signs("layer")
        helping, hurting = int(signs.negative.sum()), int(signs.positive.sum())
        if helping + hurting and not row.allocation.sampled:  # noise flips signs (lca.views._signs.NOISY)
            found["helping_percent"] = 100 * helping / (helping + hurting)
        for name, value, total in zip(names, totals, np.atleast_1d(self._totals), strict=True):
            found[f"LCA/{name}"], found[f"LCA_so_far/{name}"] = float(value), float(total)
        return {name: value for name, value in found.items() if isfinite(value)}

    def checked(self, change: float, total: float) -> dict[str, float]:
        """The sums up to a self-check of one more window."""
        self._change += change
        self._sum += total
        return {"checked_change": self._change, "checked_sum": self._sum}
