"""The exceptions of this library. Messages state what was expected, what was received, and how to fix it.

All of them derive from `LCAError`, which is a `ValueError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DataError",
    "IncompleteStepError",
    "LCAError",
    "LCAWarning",
    "LayoutError",
    "NonDeterministicError",
    "NonFiniteError",
    "OutputError",
    "RuleError",
    "TrajectoryError",
    "UnknownNameError",
]


class LCAError(ValueError):
    """Base class of all errors that this library raises for invalid input."""


class LCAWarning(UserWarning):
    """A step or a part of a result was skipped; the message says which and why."""


class LayoutError(LCAError):
    """A vector, tensor or group does not fit the `Layout` it is used with."""


class IncompleteStepError(LCAError):
    """The step lacks a field that the estimator requires; the next step may have it.

    Attributes
    ----------
    field
        The name of that field of `lca.Step`.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RuleError(LCAError):
    """A quadrature rule is not exact for polynomials of the degree it declares."""


class TrajectoryError(LCAError):
    """A trajectory or step cannot be allocated, e.g. a path of one point, or points of different shapes."""


class DataError(LCAError):
    """A data set, batch or data file is invalid."""


class NonFiniteError(LCAError):
    """The parameters, the loss or the gradient contain NaN or infinity."""


class NonDeterministicError(LCAError):
    """The objective returned two different values at the same point."""


class OutputError(LCAError):
    """A result cannot be written to the requested file or folder."""


class UnknownNameError(LCAError):
    """There is no estimator, optimizer, backend, ... of this name; the message lists the known names.

    Parameters
    ----------
    kind
        What the name refers to, e.g. ``"optimizer"``.
    name
        The unknown name.
    known
        The valid names; the most similar one is suggested.

    Examples
    --------
    >>> print(UnknownNameError("optimizer", "adm", ["sgd", "adam"]))
    unknown optimizer 'adm'; known: adam, sgd. Did you mean 'adam'?
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        close = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}.{hint}")
