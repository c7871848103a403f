"""The truth: ``Δ_i ∫ ∂_i L(θ + sΔ) ds`` by many Gauss nodes, written apart from the package that is tested.

The loss is the user's own function of the user's own model; a framework only says how to evaluate it and its
gradients at a point of a step, in the world (buffers, flags, Python attributes) in which the step began.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Tensors = Mapping[str, np.ndarray]
Evaluate = Callable[[float], tuple[float, Tensors]]
"""From s in [0, 1] to the loss and the gradients of the tensors that moved."""

NODES, WEIGHTS = (0.5 + np.polynomial.legendre.leggauss(5)[0] / 2, np.polynomial.legendre.leggauss(5)[1] / 2)
LARGEST_PANELS = 8


@dataclass(frozen=True)
class StepTruth:
    """One update: the allocation of every tensor.

    Attributes
    ----------
    totals, masses
        ``Σ A`` and ``Σ |∫ g| |Δ|`` by tensor.
    error
        What the last doubling of the nodes changed, summed over the tensors.
    tracked
        Whether the tracker was given the optimizer.
    """

    totals: dict[str, float]
    masses: dict[str, float]
    error: float
    tracked: bool = True

    @property
    def mass(self) -> float:
        """Of all tensors."""
        return sum(self.masses.values())


@dataclass
class Truth:
    """All updates of a run, and the loss when measuring began and ended."""

    steps: list[StepTruth] = field(default_factory=list)
    loss_start: float = float("nan")
    loss_end: float = float("nan")


def allocate(start: Tensors, end: Tensors, evaluate: Evaluate) -> StepTruth:
    """Composite Gauss-Legendre; the panels are doubled until nothing changes by 1e-4 of the mass."""
    moved = [name for name in start if not np.array_equal(start[name], end[name], equal_nan=True)]
    delta = {name: _wide(end[name]) - _wide(start[name]) for name in moved}
    before = _sums(_integrate(evaluate, moved, 1), delta)
    panels, error = 2, 0.0
    while moved:
        found = _sums(_integrate(evaluate, moved, panels), delta)
        error = sum(abs(found[0][name] - before[0][name]) for name in moved)
        if error <= 1e-4 * sum(found[1].values()) or panels >= LARGEST_PANELS:
            before = found
            break
        before, panels = found, 2 * panels
    totals, masses = before
    zeros = dict.fromkeys(start, 0.0)
    return StepTruth(zeros | totals, zeros | masses, error)


def between(start: np.ndarray, end: np.ndarray, s: float) -> np.ndarray:
    """``θ + sΔ`` in float64; to be rounded once, to the dtype of θ."""
    return np.asarray(_wide(start) + s * (_wide(end) - _wide(start)))


def _integrate(evaluate: Evaluate, moved: list[str], panels: int) -> dict[str, np.ndarray]:
    integral: dict[str, np.ndarray] = {}
    for panel in range(panels):
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            _, grads = evaluate((panel + node) / panels)
            for name in moved:
                term = weight / panels * _wide(grads[name])
                integral[name] = integral[name] + term if name in integral else term
    return integral


def _sums(integral: Tensors, delta: Tensors) -> tuple[dict[str, float], dict[str, float]]:
    """Totals and masses by tensor; of complex tensors the real part of the conjugate product."""
    parts = {name: np.real(np.conj(integral[name]) * delta[name]) for name in delta}
    return (
        {name: float(part.sum()) for name, part in parts.items()},
        {name: float(np.abs(part).sum()) for name, part in parts.items()},
    )


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
