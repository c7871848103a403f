"""`BasisProjection`: the loss change along given directions of parameter space, and the remainder."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import Native, Slices, array_ops
from lca.errors import LCAError
from lca.tolerances import EPS64
from lca.views._view import step_of


class BasisProjection:
    """Splits the loss change of each step over the directions b of an orthonormal basis.

    ``P_{t,b} = ⟨b, ḡ_t⟩ ⟨b, Δ_t⟩`` with ``ḡ_t = A_t / Δ_t``, the gradient averaged along the step. For the
    unit vectors this is the allocation itself. The part outside the span of the basis is the remainder
    ``Σ_i A_{t,i} - Σ_b P_{t,b}``, which is 0 up to rounding for a complete basis. (POLCA; Kangaslahti et al.
    2026.)

    If a parameter did not move, ``ḡ`` is unknown there and taken as 0. This does not change the sum, but it
    shifts shares between directions that mix parameters which moved with parameters which did not.

    Parameters
    ----------
    basis
        Orthonormal rows, shape (n, K).

    Raises
    ------
    LCAError
        If the rows are not orthonormal.

    Notes
    -----
    Cost: 2 n K multiplications a step. Memory: the basis, on the device of the vectors, and n + 1 numbers a
    step. The estimator must set `lca.StepAllocation.source`.

    Examples
    --------
    >>> from lca import Step
    >>> view = BasisProjection(np.array([[0.6, 0.8]]))
    >>> step, gradient = Step(np.zeros(2), np.array([-1.0, -1.0])), np.array([1.0, 2.0])
    >>> values = gradient * (step.end - step.start)
    >>> view.update(StepAllocation(values, 0.0, 0.0, residual=0.0, mass=3.0, source=step))
    >>> view.rows.round(6), view.remainder.round(6)
    (array([[-3.08]]), array([0.08]))
    """

    def __init__(self, basis: np.ndarray) -> None:
        basis = np.atleast_2d(np.asarray(basis))
        gram = basis.astype(np.float64) @ basis.T.astype(np.float64)
        error = float(np.abs(gram - np.eye(len(basis))).max())
        eps = max(EPS64, float(np.finfo(basis.dtype).eps)) if basis.dtype.kind == "f" else EPS64
        if not error <= 8 * eps * np.sqrt(basis.shape[1]):
            raise LCAError(
                f"the rows of the basis are not orthonormal: basis @ basis.T differs from the identity by "
                f"{error:.2g}; pass numpy.linalg.qr(basis.T)[0].T."
            )
        self._basis = basis
        self._native: Native | None = None
        self._rows: list[np.ndarray] = []
        self._totals: list[float] = []

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`)."""
        step = step_of(allocation, "projections")
        values, movement = allocation.values, step.end - step.start
        ops = array_ops(values)
        if self._native is None:
            self._native = ops.native(self._basis, values)
        gradient = ops.products(self._native, ops.ratio(values, movement))
        self._rows.append(gradient * ops.products(self._native, movement))
        self._totals.append(float(ops.sums(values, [Slices(0, 1, 1, ops.size(values))])[0]))

    @property
    def rows(self) -> np.ndarray:
        """One row a step, shape (T, n), in units of the loss."""
        return np.reshape(self._rows, (len(self._rows), len(self._basis)))

    @property
    def remainder(self) -> np.ndarray:
        """``Σ_i A_{t,i}`` minus the sum of the `rows` of step t, shape (T,), in units of the loss."""
        rest: np.ndarray = np.array(self._totals) - self.rows.sum(axis=1)
        return rest
