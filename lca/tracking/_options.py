"""The options that all trackers and callbacks take: types, defaults and checks."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Literal, Protocol, TypeAlias, TypedDict, get_args, runtime_checkable

from lca.divisions import Selectors
from lca.errors import LCAError, UnknownNameError
from lca.layout import Layout
from lca.live import LogTo
from lca.record import Record
from lca.views import View

OnError: TypeAlias = Literal["warn", "raise"]
"""Whether an error in measuring ends the measuring with a warning, or is raised."""
Schedule: TypeAlias = int | Callable[[int], bool]
"""Measure every n-th step, or those for which the function of the step's index is true."""
RecordTo: TypeAlias = Record | str | PathLike[str]
"""A `lca.Record`, or the path of a new one."""
CheckEvery: TypeAlias = int | Literal["doubling"] | None
"""How often a sampled estimator is checked: every n steps; after 16, 32, 64, ... steps; or never."""


@runtime_checkable
class ViewsByName(Protocol):
    """Makes the view of one measured loss from its name and layout, e.g. to write it under that name.

    Examples
    --------
    >>> from lca.views import Trace
    >>> class NamedTraces:
    ...     def __init__(self):
    ...         self.by_name = {}
    ...     def view_of(self, name, layout):
    ...         return self.by_name.setdefault(name, Trace())
    >>> isinstance(NamedTraces(), ViewsByName)
    True
    """

    def view_of(self, name: str, layout: Layout) -> View:
        """The view of the measured loss ``name``."""


MakeView: TypeAlias = Callable[[Layout], View] | ViewsByName
"""Makes one view of one measured loss from its layout, or from its name and layout."""
MakeViews: TypeAlias = MakeView | Sequence[MakeView]
"""Makes the view of one measured loss, or several views in a list."""


class Options(TypedDict):
    """The keyword options of `lca.tracking.TrackerBase`, as its subclasses pass them on."""

    every: Schedule
    views: MakeViews
    on_error: OnError
    record: RecordTo | None
    progress: bool | int
    log_to: LogTo
    span: int
    check_every: CheckEvery
    check_examples: int | None
    groups: Selectors | None
    heads: int | None


def check_options(
    every: Schedule,
    on_error: OnError,
    span: int = 1,
    check_every: CheckEvery = None,
    check_examples: int | None = None,
) -> None:
    """Raise `LCAError` unless these are valid options of a tracker."""
    if on_error not in get_args(OnError):
        raise UnknownNameError("on_error", on_error, get_args(OnError))
    if not callable(every) and (not isinstance(every, int) or every < 1):
        raise LCAError(f"every must be a positive integer or a function of the step's index, got {every!r}.")
    if not isinstance(span, int) or span < 1:
        raise LCAError(f"span must be a whole number of updates ≥ 1, got {span!r}.")
    if check_every not in (None, "doubling") and (not isinstance(check_every, int) or check_every < 1):
        raise LCAError(
            f"check_every must be a whole number of steps ≥ 1, 'doubling', or None for no check, got "
            f"{check_every!r}."
        )
    if check_examples is not None and (not isinstance(check_examples, int) or check_examples < _FEWEST):
        raise LCAError(
            f"check_examples must be a whole number ≥ {_FEWEST}, or None for all data, got "
            f"{check_examples!r}."
        )


_FEWEST = 2
