"""`Call`: the call of ``fit`` or the like in which a callback runs, and whether it has ended."""

import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any


class Call:
    """A call of a method that was under way when this was made.

    A framework that does not tell its callbacks of an error is asked in this way whether it has returned.
    The local variables of the call are kept as long as this object is.

    Examples
    --------
    >>> class Model:
    ...     def fit(self):
    ...         self.call = Call.of("fit", lambda owner: owner is self)
    ...         return self.call.is_over
    >>> model = Model()
    >>> model.fit(), model.call.is_over
    (False, True)
    """

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame

    @classmethod
    def of(cls, method: str, is_owner: Callable[[Any], bool]) -> "Call | None":
        """The innermost running call of this method whose ``self`` is the owner; ``None`` without one."""
        for frame in _stack(sys._getframe(1)):
            if frame.f_code.co_name == method and is_owner(frame.f_locals.get("self")):
                return cls(frame)
        return None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The local variables of the call."""
        return self._frame.f_locals

    @property
    def is_over(self) -> bool:
        """Whether the call has returned, or ended with an error: it is on the stack of no thread."""
        innermost = sys._current_frames().values()
        return all(frame is not self._frame for inner in innermost for frame in _stack(inner))


def _stack(innermost: FrameType | None) -> Iterator[FrameType]:
    frame = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back
