"""Helpers for laws: comparisons that raise with both numbers, and the tolerance of an allocation."""

from typing import Any

import numpy as np

from lca import tolerances
from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.testing._report import CheckFailure

Array = np.ndarray


def require(holds: bool, message: str) -> None:
    """Raise `CheckFailure` with ``message`` unless ``holds``."""
    if not holds:
        raise CheckFailure(message)


def require_close(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Raise `CheckFailure` unless ``abs(actual - expected) <= tolerance`` for every entry.

    The message names the worst entry, and the compared quantity as ``what``. NaN is not close to anything.
    """
    a, b = (np.atleast_1d(np.asarray(values, np.float64)) for values in (actual, expected))
    require(a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}.")
    difference = np.abs(a - b).ravel()
    difference[np.isnan(difference)] = np.inf
    at = int(np.argmax(difference))
    require(
        bool(difference[at] <= tolerance),
        f"{what}: entry {at} is {float(a.flat[at])!r}, expected {float(b.flat[at])!r}; off by "
        f"{difference[at]:.3g}, tolerance {tolerance:.3g}.",
    )


def rounding(a: StepAllocation) -> float:
    """By how much two correct computations of this allocation may differ."""
    return tolerances.allocation(a.mass, array_ops(a.values).eps(a.values))
