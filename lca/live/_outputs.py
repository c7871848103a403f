"""`LiveOutputs`: what a session shows while the run goes on, by its options ``progress`` and ``log_to``."""

from collections.abc import Callable, Mapping, Sequence

from lca.errors import LCAError
from lca.live._logging import LogTo, LossLog, loggers_of
from lca.live._progress import Progress
from lca.record._lock import rank
from lca.row import CheckedWindow, Row


class LiveOutputs:
    """Passes the numbers of each measured step to a bar and to loggers, until it is closed.

    Parameters
    ----------
    progress
        Whether to show a `Progress`, or the number of updates that the run makes, without those before it.
    log_to
        A `Logger`, or several.
    span
        Updates in a step.

    Under `torch.distributed` only rank 0 shows and logs.

    Raises
    ------
    LCAError
        If ``progress`` is not a number of updates, or an entry of ``log_to`` is not a logger.
    """

    def __init__(self, progress: bool | int = False, log_to: LogTo = None, *, span: int = 1) -> None:
        if not isinstance(progress, int) or progress < 0:
            raise LCAError(f"progress must be True, False or the number of updates, got {progress!r}.")
        self.shows_progress = bool(progress)
        self.updates = None if isinstance(progress, bool) else progress
        self._span, self._speaks, self._done = span, rank() == 0, 0
        self._bar: Progress | None = None
        loggers = loggers_of(log_to)
        self._logs_any, self._loggers = bool(loggers), loggers if self._speaks else []
        self._logs: dict[str, LossLog] = {}

    def begin(self, done: int = 0) -> None:
        """The run begins, or goes on after ``done`` steps."""
        if self.shows_progress and self._speaks and self._bar is None:
            self._done = done
            self._bar = Progress(self._steps(), done=done)

    def expect(self, updates: int) -> None:
        """The number of updates that the run makes is known now."""
        self.updates = updates
        if self._bar is not None:
            self._bar.expect(self._steps())

    def announce(self, line: str) -> None:
        """Show a line above the bar."""
        if self._bar is not None:
            self._bar.write(line)

    def read(self, rows: Mapping[str, Row]) -> None:
        """A step was measured; its rows by loss."""
        self.begin()
        if self._bar is not None:
            first = next(iter(rows.values())).allocation
            self._bar.read(first.step, first.loss_end, first.residual)
        if not self._logs_any:
            return  # the other ranks read what rank 0 logs, as the sums may be shared by all
        for name, row in rows.items():
            values = self._logs.setdefault(name, LossLog()).values(row)
            for logger in self._loggers:
                logger.log(row.allocation.step, name, values)

    def read_checks(self, checks: Mapping[str, Sequence[CheckedWindow]]) -> None:
        """Self-checks ended after the last row; their windows by loss."""
        for name, windows in checks.items() if self._logs_any else ():
            for window in windows:
                values = self._logs.setdefault(name, LossLog()).checked(window.change, window.total)
                for logger in self._loggers:
                    logger.log(window.last_step, name, values)

    def close(self) -> None:
        """The run has ended, perhaps by an error: write all that is buffered, also if one logger fails."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        errors = [error for logger in self._loggers if (error := _closed(logger.close)) is not None]
        if errors:
            raise errors[0]

    def _steps(self) -> int | None:
        """The number of steps at the end of the run, with those made before."""
        return None if self.updates is None else self._done - (-self.updates // self._span)


def _closed(close: Callable[[], None]) -> Exception | None:
    try:
        close()
    except Exception as error:  # of a logger of any kind
        return error
    return None
