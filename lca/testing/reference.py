"""What a right allocation is, found without the quadrature of this library."""

import numpy as np
from numpy.polynomial import chebyshev
from scipy.integrate import quad_vec

from lca.errors import LCAError
from lca.objective import Objective
from lca.tolerances import EPS64

Array = np.ndarray


def path_integral(objective: Objective, start: Array, end: Array) -> Array:
    """``Δ_i ∫₀¹ ∂_i L(θ + s Δ) ds`` for every parameter (K,), float64, to rounding.

    SciPy's adaptive Gauss-Kronrod rule with 21 nodes, refined until its error estimate for the worst
    parameter is 64 eps of the largest one (it never promises less than 50; what it misses is some 1 eps).
    Cost: 24 gradients, and 42 for each bisection.

    Raises
    ------
    LCAError
        If it does not settle: the loss is not smooth along the segment.

    Examples
    --------
    >>> from lca.reference.models import Quadratic
    >>> path_integral(Quadratic(np.eye(2)), np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(12) + 0.0
    array([-0.5,  0. ])
    """
    delta = end - start

    def integrand(s: float) -> Array:
        values: Array = objective.loss_and_grad(start + s * delta)[1] * delta
        return values

    scale = max(float(np.abs(integrand(s)).max()) for s in (0.0, 0.5, 1.0))
    integral, error, info = quad_vec(
        integrand, 0.0, 1.0, epsabs=64 * EPS64 * scale, epsrel=0.0, norm="max", limit=100, full_output=True
    )
    if info.status == 1:
        raise LCAError(
            f"the adaptive reference did not settle: error {error:.3g} where {scale:.3g} is integrated."
        )
    values: Array = integral
    return values


def distance_to_polynomials(objective: Objective, start: Array, end: Array, degree: int) -> Array:
    """``max_s |∂_i L(θ + s Δ) - p_i(s)|`` for every parameter (K,), p_i a good fit of this degree.

    Fitted by least squares, and compared, at 33 Chebyshev points; for a smooth gradient that is the best
    polynomial but for a small factor.

    Examples
    --------
    >>> from lca.reference.models import Quadratic
    >>> bowl, start, end = Quadratic(np.eye(1)), np.array([1.0]), np.array([0.0])
    >>> [distance_to_polynomials(bowl, start, end, degree).round(9).item() for degree in (0, 1)]
    [0.5, 0.0]
    """
    nodes = np.cos(np.linspace(0.0, np.pi, 33))
    delta = end - start
    grads = np.array([objective.loss_and_grad(start + (1 + x) / 2 * delta)[1] for x in nodes])
    fitted = chebyshev.chebval(nodes, chebyshev.chebfit(nodes, grads, degree)).T
    distance: Array = np.abs(grads - fitted).max(axis=0)
    return distance
