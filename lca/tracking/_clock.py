"""`StepClock`: how long the steps of training take, without what is measured in between."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean, median
from time import perf_counter

KEPT = 64
"""Steps whose times are kept."""


class StepClock:
    """Tells the time of each step that is spent in training from that which is spent in measuring.

    A follower pauses it while it measures. The first step is left out: it includes what frameworks set up.

    Examples
    --------
    >>> clock = StepClock()
    >>> for _ in range(3):
    ...     clock.resume()  # training
    ...     clock.pause()  # measuring
    ...     clock.lap()
    >>> clock.steps, clock.training_seconds < 1, clock.measuring_seconds() < 1
    (2, True, True)
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._training: bool | None = None  # what goes on: training, measuring, or nothing that counts
        self._sums = {True: 0.0, False: 0.0}
        self._laps: dict[bool, deque[dict[bool, float]]] = {
            compared: deque(maxlen=KEPT) for compared in (False, True)
        }
        self._begun = False

    @property
    def steps(self) -> int:
        """The number of steps whose times are known, up to `KEPT`; without those on compared lines."""
        return len(self._laps[False])

    @property
    def training_seconds(self) -> float | None:
        """The median time that training took in the last steps; ``None`` before the second step."""
        laps = [lap[True] for of_kind in self._laps.values() for lap in of_kind]
        return median(laps) if laps else None

    def measuring_seconds(self, compared: float = 0.0) -> float | None:
        """The mean time that measuring took in the last steps; ``None`` before the second step.

        Parameters
        ----------
        compared
            The fraction of the updates of a run on straight lines that are compared with their updates
            (``span``). Most of these come at the beginning of a run.
        """
        usual, on_compared = (
            mean(lap[False] for lap in of_kind) if of_kind else None for of_kind in self._laps.values()
        )
        if not compared or usual is None or on_compared is None:
            return usual
        return (1 - compared) * usual + compared * on_compared

    def pause(self) -> None:
        """Measuring begins."""
        self._turn(training=False)

    def resume(self) -> None:
        """Training begins or goes on."""
        self._turn(training=True)

    def lap(self, *, compared: bool = False) -> None:
        """A step has ended; ``compared``: it is an update on a line that is compared with its updates."""
        self._turn(training=self._training)
        if self._begun:
            self._laps[compared].append(self._sums)
        self._begun = True
        self._sums = {True: 0.0, False: 0.0}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """A context whose time belongs to no step."""
        before = self._training
        self._turn(training=None)
        try:
            yield
        finally:
            self._turn(training=before)

    def _turn(self, *, training: bool | None) -> None:
        now = perf_counter()
        if self._training is not None:
            self._sums[self._training] += now - self._since
        self._since, self._training = now, training
