"""Errors a user can act on: each message says what was expected, what came, and what to do.

All derive from `LCAError`, which is a `ValueError`, so ``except ValueError`` keeps working.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class LCAError(ValueError):
    """Root of every error this library raises on purpose."""


class LCAWarning(UserWarning):
    """Something was left out or given up, and the message says what."""


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
    """A quadrature rule does not integrate what it declares."""


class TrajectoryError(LCAError):
    """A trajectory or step cannot be allocated (one point, wrong shapes, unreadable rows)."""


class DataError(LCAError):
    """A data set, batch or data file is unusable."""


class NonFiniteError(LCAError):
    """NaN or Inf in the parameters, the loss or the gradient."""


class NonDeterministicError(LCAError):
    """The objective gives two different values at the same point."""


class OutputError(LCAError):
    """A result cannot be written where it was asked for."""


class UnknownNameError(LCAError):
    """A name (estimator, optimizer, backend, ...) that is not among the known ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        close = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}.{hint}")
