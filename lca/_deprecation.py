"""Keeps an old name or parameter working for a while, with a warning that names the new one.

The policy is in ``.github/CONTRIBUTING.md``: what is deprecated works for two minor versions. A test fails
when the version of removal has come.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lca.errors import LCAError

P = ParamSpec("P")
R = TypeVar("R")


def deprecated(instead: str, *, since: str, removal: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function or method that another one replaces: each call warns.

    The warning is a ``FutureWarning``, which Python shows by default, at the line of the caller. The
    docstring gets a note.

    Parameters
    ----------
    instead
        What to write instead, e.g. ``"lca.open_record"``.
    since, removal
        The version that deprecates it and the one that removes it, e.g. ``"0.3.0"`` and ``"0.5.0"``.

    Raises
    ------
    LCAError
        If ``removal`` is not two minor versions, or a major one, after ``since``.

    Examples
    --------
    >>> @deprecated("twice", since="0.3.0", removal="0.5.0")
    ... def double(x):
    ...     return 2 * x
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     double(2)
    4
    >>> print(caught[0].message)
    double is deprecated since 0.3.0 and will be removed in 0.5.0; use twice instead.
    """
    _check_policy(since, removal)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        message = _message(function.__qualname__, instead, since=since, removal=removal)

        @functools.wraps(function)
        def warned(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(message, FutureWarning, stacklevel=2)
            return function(*args, **kwargs)

        warned.__doc__ = (
            f"{inspect.getdoc(function) or ''}\n\n.. deprecated:: {since}\n    {message}\n".lstrip()
        )
        return warned

    return decorate


def renamed_parameter(
    old: str, new: str, *, since: str, removal: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function whose keyword-only parameter has a new name: the old one works and warns.

    Parameters
    ----------
    old, new
        The two names of the parameter.
    since, removal
        The version that deprecates the old name and the one that removes it.

    Raises
    ------
    LCAError
        If ``removal`` is not two minor versions, or a major one, after ``since``; at a call with both names.

    Examples
    --------
    >>> @renamed_parameter("lr", "learning_rate", since="0.3.0", removal="0.5.0")
    ... def train(*, learning_rate):
    ...     return learning_rate
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     train(lr=0.1)
    0.1
    >>> print(caught[0].message)
    train(lr=) is deprecated since 0.3.0 and will be removed in 0.5.0; use learning_rate= instead.
    """
    _check_policy(since, removal)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__
        message = _message(f"{name}({old}=)", f"{new}=", since=since, removal=removal)

        @functools.wraps(function)
        def renaming(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in kwargs:
                    raise LCAError(f"{name} got {new}= and its old name {old}=; pass only {new}=.")
                warnings.warn(message, FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renaming

    return decorate


def warn_deprecated(what: str, instead: str, *, since: str, removal: str, stacklevel: int = 3) -> None:
    """Warn of a use of a function that is deprecated, where only some of its calls are.

    Parameters
    ----------
    what, instead
        The old use and the new one, in words or as they are written.
    since, removal
        The version that deprecates it and the one that removes it.
    stacklevel
        As in `warnings.warn`, seen from here; default: the caller of the function that warns.

    Raises
    ------
    LCAError
        As for `deprecated`.
    """
    _check_policy(since, removal)
    warnings.warn(_message(what, instead, since=since, removal=removal), FutureWarning, stacklevel=stacklevel)


def _message(what: str, instead: str, *, since: str, removal: str) -> str:
    return f"{what} is deprecated since {since} and will be removed in {removal}; use {instead} instead."


def _check_policy(since: str, removal: str) -> None:
    (major, minor), (next_major, next_minor) = (
        [int(part) for part in version.split(".")[:2]] for version in (since, removal)
    )
    if next_major <= major and (next_major, next_minor) < (major, minor + 2):
        raise LCAError(
            f"deprecated in {since} and removed in {removal}: what is deprecated works for two minor "
            f"versions, so remove it in {major}.{minor + 2}.0 or later."
        )
