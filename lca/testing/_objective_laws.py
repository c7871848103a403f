"""How the laws of objectives are registered, and what they evaluate and compare with."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lca.arrays import Vector
from lca.layout import Layout
from lca.objective import Batch, Objective
from lca.testing._laws import require
from lca.testing._objective_subject import (
    Draw,
    ObjectiveSubject,
    as_numpy,
    draws,
    on,
)
from lca.testing._report import Check

Array = np.ndarray
Law = Callable[[ObjectiveSubject, Draw], None]
Applies = Callable[[ObjectiveSubject], bool]


def law_into(
    checks: list[Check], points: Any = draws, applies: Applies = lambda subject: True
) -> Callable[[Law], Law]:
    """Register a law in a list, for objectives to which it ``applies``; by default at points of all sizes."""

    def law(function: Law) -> Law:
        checks.append(Check(function.__name__, function, lambda subject: points, applies))
        return function

    return law


def require_gradient(layout: Layout, found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Raise `CheckFailure`, naming the parameter, unless two gradients agree to ``tolerance`` everywhere."""
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}.")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    difference[np.isnan(difference)] = np.inf
    at = int(np.argmax(difference))
    require(
        bool(difference[at] <= tolerance),
        f"{what}: the entry of {layout.label(at)} is {float(found[at])!r}, expected {float(expected[at])!r}; "
        f"they differ by {difference[at]:.3g}, the tolerance is {tolerance:.3g}.",
    )


def evaluated(objective: Objective, theta: Vector, batch: Batch | None) -> tuple[float, Array]:
    loss, grad = objective.loss_and_grad(theta, *on(batch))
    return loss, as_numpy(grad)


def eps_of(dtype: Any) -> float:
    """Machine epsilon."""
    return float(np.finfo(dtype).eps)


def typical(
    subject: ObjectiveSubject, objective: Objective, draw: Draw, batch: Batch | None = None
) -> tuple[float, float]:
    """|loss| and the norm of the gradient at a point of the usual size.

    Where a loss is close to 0, such as that of a confident classifier, its terms are not: rounding errors are
    in units of this scale.
    """
    loss, grad = evaluated(objective, subject.theta(objective.layout, Draw(draw.seed), 8), batch)
    return abs(loss), float(np.linalg.norm(grad.astype(np.float64)))
