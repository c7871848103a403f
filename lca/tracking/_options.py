"""The options that all trackers and callbacks take: types, defaults and checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from os import PathLike
from typing import Literal, Protocol, Self, TypeAlias, TypedDict, TypeVar, get_args, runtime_checkable

from lca._numbers import use_python_numbers
from lca.divisions import Selectors
from lca.errors import LCAError, UnknownNameError
from lca.layout import Heads, Layout
from lca.live import LogTo
from lca.record import Record
from lca.summary import RunViews
from lca.views import View

Init = TypeVar("Init", bound=Callable[..., None])
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


class Options(TypedDict, total=False):
    """The keyword options of every tracker and callback; `lca.tracking.TrackerBase` says what each means.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import Quadratic
    >>> from lca.tracking import FunctionalTracker, Options
    >>> options: Options = {"every": 10, "on_error": "raise"}
    >>> tracker = FunctionalTracker(np.ones(2), Quadratic(np.eye(2)), **options)
    """

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
    heads: int | Heads | None


@dataclass(frozen=True)
class Settings:
    """`Options` with their defaults, checked.

    Raises
    ------
    LCAError
        If a value is not valid.
    """

    every: Schedule = 1
    views: MakeViews = RunViews.of
    on_error: OnError = "warn"
    record: RecordTo | None = None
    progress: bool | int = False
    log_to: LogTo = None
    span: int = 1
    check_every: CheckEvery = "doubling"
    check_examples: int | None = None
    groups: Selectors | None = None
    heads: int | Heads | None = None

    @classmethod
    def of(cls, options: Options) -> Self:
        """The settings of these options; `UnknownNameError` if one is not known."""
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names and name in signature(Record).parameters:
                raise LCAError(
                    f"{name} is an option of the record and not of the tracker; pass "
                    f'record=lca.Record("run.zarr", {name}=...).'
                )
            if name not in names:
                raise UnknownNameError("option", name, names)
        return cls(**options)

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if self.on_error not in get_args(OnError):
            raise UnknownNameError("on_error", self.on_error, get_args(OnError))
        if not callable(self.every) and not _is_count(self.every):
            raise LCAError(
                f"every must be a positive integer or a function of the step's index, got {self.every!r}."
            )
        if not _is_count(self.span):
            raise LCAError(f"span must be a whole number of updates ≥ 1, got {self.span!r}.")
        if self.check_every not in (None, "doubling") and not _is_count(self.check_every):
            raise LCAError(
                f"check_every must be a whole number of steps ≥ 1, 'doubling', or None for no check, got "
                f"{self.check_every!r}."
            )
        if self.check_examples is not None and not _is_count(self.check_examples, _FEWEST):
            raise LCAError(
                f"check_examples must be a whole number ≥ {_FEWEST}, or None for all data, got "
                f"{self.check_examples!r}."
            )


_FEWEST = 2


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and value >= least


def names_options(init: Init) -> Init:
    """Show the options with their defaults, instead of ``**options``, in the signature of an ``__init__``."""
    shown = signature(init)
    own = [one for one in shown.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    given = signature(Settings).parameters.values()
    added = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in given]
    init.__signature__ = shown.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    return init
