"""What the laws of all subjects share: raising with both numbers, and the scale of rounding."""

from typing import Any

import numpy as np

from lca import tolerances
from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.testing.report import CheckFailure

Array = np.ndarray


def require(holds: bool, message: str) -> None:
    """Raise `CheckFailure` unless the law holds."""
    if not holds:
        raise CheckFailure(message)


def require_close(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Raise `CheckFailure`, naming the worst entry, unless all entries agree within ``tolerance``."""
    a, b = (np.atleast_1d(np.asarray(values, np.float64)) for values in (actual, expected))
    require(a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}.")
    difference = np.abs(a - b).ravel()
    difference[np.isnan(difference)] = np.inf  # NaN agrees with nothing
    at = int(np.argmax(difference))
    require(
        bool(difference[at] <= tolerance),
        f"{what}: entry {at} is {float(a.flat[at])!r}, expected {float(b.flat[at])!r}; off by "
        f"{difference[at]:.3g}, tolerance {tolerance:.3g}.",
    )


def rounding(a: StepAllocation) -> float:
    """How far two right computations of this allocation may differ."""
    return tolerances.allocation(a.mass, array_ops(a.values).eps(a.values))
