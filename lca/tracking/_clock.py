"""`StepClock`: how long the steps of training take, without what is measured in between."""

from collections import deque
from statistics import median
from time import perf_counter


class StepClock:
    """Adds up the time of each step that is spent in training, and that which is spent in measuring.

    A follower pauses it while it measures. The first step is left out: it includes what frameworks set up.

    Examples
    --------
    >>> clock = StepClock()
    >>> clock.training_seconds is None
    True
    """

    def __init__(self) -> None:
        self._since: float | None = None  # in training, if the clock runs
        self._paused = 0.0
        self._training = self._measuring = 0.0
        self._steps = 0
        self._last: deque[tuple[float, float]] = deque(maxlen=64)

    def pause(self) -> None:
        """Measuring begins."""
        if self._since is not None:
            self._paused = perf_counter()
            self._training += self._paused - self._since
            self._since = None

    def resume(self) -> None:
        """Training goes on."""
        now = perf_counter()
        if self._since is None and self._paused:
            self._measuring += now - self._paused
        self._since = now

    def lap(self) -> None:
        """A step has ended; the clock is paused."""
        self._measuring += perf_counter() - self._paused
        self._paused = perf_counter()
        self._steps += 1
        if self._steps > 1:
            self._last.append((self._training, self._measuring))
        self._training = self._measuring = 0.0

    @property
    def training_seconds(self) -> float | None:
        """The median time that training took for one of the last 64 steps; ``None`` before the second."""
        return median(training for training, _ in self._last) if self._last else None

    @property
    def measuring_seconds(self) -> float | None:
        """The mean time that measuring took for one of the last 64 steps; ``None`` before the second."""
        return sum(measuring for _, measuring in self._last) / len(self._last) if self._last else None
