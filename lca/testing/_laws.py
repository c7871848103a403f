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


def require_close(actual: Any, expected: Any, tolerance: float, what: str, entry: str = "parameter") -> None:
    """Raise `CheckFailure` unless ``abs(actual - expected) <= tolerance`` for every entry.

    The message names the worst entry, which is a parameter, example, ... (``entry``), and the compared
    quantity as ``what``. NaN is not close to anything.
    """
    require(
        np.shape(actual) == np.shape(expected),
        f"{what}: shape {np.shape(actual)}, expected {np.shape(expected)}.",
    )
    a, b = (np.atleast_1d(np.asarray(values, np.float64)) for values in (actual, expected))
    difference = np.abs(a - b).ravel()
    difference[np.isnan(difference)] = np.inf
    at = int(np.argmax(difference))
    where = f"{what}, {entry} {at} of {a.size}" if a.size > 1 else what
    require(
        bool(difference[at] <= tolerance),
        f"{where}: found {float(a.flat[at])!r}, expected {float(b.flat[at])!r}; they differ by "
        f"{difference[at]:.3g}, the tolerance is {tolerance:.3g}.",
    )


def rounding(a: StepAllocation) -> float:
    """By how much two correct computations of this allocation may differ."""
    return tolerances.allocation(a.mass, array_ops(a.values).eps(a.values), nodes_of(a))


def nodes_of(a: StepAllocation) -> float:
    """The number of gradients of a step, as it reports them; `reported_cost_is_true` checks the report."""
    return a.cost.full_gradients + a.cost.batch_gradients + a.cost.examples
