"""`SpanFollower`: turns every n updates into one step, the straight line between their ends."""

from typing import TypeAlias

from lca._schedules import doubles
from lca.arrays import Vector
from lca.layout import Layout
from lca.objective import State
from lca.tracking._clock import StepClock
from lca.tracking._follower import LiveTheta, RunFollower
from lca.tracking._path_sums import PathSums
from lca.tracking._session import Session

LONGEST = 64
"""Largest number of straight lines between two whose updates are measured as well."""


def is_compared(line: int) -> bool:
    """Whether the updates under a measured line are measured as well; the first line is 1.

    >>> [line for line in range(1, 200) if is_compared(line)]
    [1, 2, 4, 8, 16, 32, 64, 128, 192]
    """
    return doubles(line, LONGEST)


class SpanFollower:
    """Follows a run like a `RunFollower`, whose updates are the straight lines over ``session.span`` updates.

    A line ends after ``session.span`` updates, at the end of the run, and where θ moved outside of the
    updates, so that every line holds updates only. The 1st, 2nd, 4th, 8th, ... and every 64th line is
    compared with its updates, which are then measured as well, at their usual cost.

    Between updates one copy of θ is held, and compared at the next one.

    Parameters
    ----------
    session
        Measures the lines.
    theta
        Reads θ.
    clock
        Is paused while something is measured.
    """

    def __init__(self, session: Session, theta: LiveTheta, clock: StepClock | None = None) -> None:
        self._session, self._theta = session, _EndOfLine(theta)
        self._clock = clock or StepClock()
        self._lines = RunFollower(session, self._theta)
        self._paths = _PathsByName()
        self._audit = session.audit(self._paths)
        self._single: RunFollower | None = None  # measures the updates of an audited line
        self._held = 0  # updates of the line under way
        self._reached: tuple[Vector, State | None] | None = None  # where its last update ended
        self._measured = 0  # lines that were measured
        self._updates = 0

    @property
    def steps(self) -> int:
        """Number of updates seen in this run."""
        return self._updates

    @property
    def discontinuities(self) -> int:
        """As in `lca.tracking.TrackerBase`."""
        return self._lines.discontinuities

    @property
    def requested(self) -> frozenset[str]:
        """No fields: a line has none."""
        return frozenset()

    @property
    def reads_theta(self) -> bool:
        """Whether `before` reads θ at the coming update."""
        return self._lines.reads_theta

    def begin(self) -> None:
        """The run begins, or continues after `end`."""
        self._lines.begin()
        self._clock.resume()

    def before(self, *, after_forward: bool = True) -> None:
        """As `RunFollower.before`."""
        self._clock.pause()
        with self._session.guarded(self._lines.steps):
            if self._held and self.moved_unseen():
                self._single = None  # the comparison is given up
                self._end_line()
        if not self._held:
            self._lines.before(after_forward=after_forward)
            self._begin_audit()
        if self._single is not None:
            self._single.before(after_forward=after_forward)
        self._clock.resume()

    def collect_fields(self) -> None:
        """A line has no step fields."""

    def after(self) -> None:
        """An update was made."""
        self._clock.pause()
        self._updates += 1
        self._held += 1
        compared = self._single is not None
        if self._single is not None:
            self._single.after()
        if self._held >= self._session.span:
            self._reached = None
            self._end_line()
        elif self._lines.reads_theta:
            with self._session.guarded(self._lines.steps):
                self._reached = self._theta.copy(), self._session.state()
        self._clock.lap(compared=compared)
        self._clock.resume()

    def check(self) -> None:
        """As `RunFollower.check`."""
        self._lines.check()

    def moved_unseen(self) -> bool:
        """As `RunFollower.moved_unseen`."""
        if not self._held:
            return self._lines.moved_unseen()
        return self._reached is not None and not self._theta.is_at(self._reached[0])

    def settle(self) -> None:
        """The run has ended without an error: measure the last line, then as `RunFollower.settle`."""
        if self._held and not self._session.failed:
            with self._session.guarded(self._lines.steps):
                self._session.check()
                self._end_line()
        self._lines.settle()

    def end(self, *, complete: bool = True) -> None:
        """The run is over: release all vectors and close the record."""
        self._single = self._reached = None
        self._held = 0
        self._lines.end(complete=complete)

    def _end_line(self) -> None:
        """Measure the line to where its last update ended."""
        single, self._single = self._single, None
        if single is not None and self._audit.error is None:
            self._session.path = self._paths.by_name
        self._theta.end, state = self._reached or (None, None)
        self._reached = None
        self._measured += self._lines.reads_theta
        try:
            self._lines.after(state)
        finally:
            self._theta.end, self._session.path = None, {}
            self._held = 0

    def _begin_audit(self) -> None:
        line = self._measured + 1
        if self._lines.reads_theta and is_compared(line):
            for sums in self._paths.by_name.values():
                sums.reset()
            self._single = RunFollower(self._audit, self._theta)
            self._single.begin(self._lines.last_state)


class _PathsByName:
    """`lca.tracking.ViewsByName`: the sums over the updates, of each measured loss."""

    def __init__(self) -> None:
        self.by_name: dict[str, PathSums] = {}

    def view_of(self, name: str, layout: Layout) -> PathSums:
        return self.by_name.setdefault(name, PathSums(layout))


class _EndOfLine:
    """`LiveTheta` that reads ``end`` instead of θ while it is set: θ has moved on since."""

    def __init__(self, theta: LiveTheta) -> None:
        self._theta = theta
        self.end: Vector | None = None

    def copy(self) -> Vector:
        return self._theta.copy() if self.end is None else self.end

    def borrow(self) -> Vector:
        return self._theta.borrow() if self.end is None else self.end

    def persist(self, borrowed: Vector, memory: Vector) -> Vector:
        return self._theta.persist(borrowed, memory) if self.end is None else self.end

    def is_at(self, theta: Vector) -> bool:
        return self._theta.is_at(theta)


AnyFollower: TypeAlias = RunFollower | SpanFollower
"""An object that turns the updates of a run into steps."""
