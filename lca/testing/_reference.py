"""Reference values of allocations, computed by SciPy instead of this library's quadrature."""

import numpy as np
from numpy.polynomial import chebyshev
from scipy.integrate import quad_vec

from lca.errors import LCAError
from lca.objective import Objective
from lca.tolerances import EPS64

Array = np.ndarray


def path_integral(objective: Objective, start: Array, end: Array) -> Array:
    """The allocation ``Δ_i ∫₀¹ ∂_i L(θ + s Δ) ds`` of a step (K,), float64, accurate to rounding.

    Uses ``scipy.integrate.quad_vec``, an adaptive Gauss-Kronrod rule with 21 nodes. It bisects until the
    error estimate of the worst parameter is at most 64 eps times the largest integrand; the estimate is never
    below 50 eps, and the actual error is about 1 eps. Cost: 24 gradients, and 42 for each bisection.

    Parameters
    ----------
    objective
        An objective on float64 NumPy vectors.
    start, end
        θ_t and θ_{t+1} (K,), float64.

    Raises
    ------
    LCAError
        If the integral does not converge, because the loss is not smooth along the segment.

    Examples
    --------
    >>> from lca.reference import Quadratic
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
            f"scipy.integrate.quad_vec did not converge: estimated error {error:.3g}, largest integrand "
            f"{scale:.3g}; the loss must be smooth along the segment."
        )
    values: Array = integral
    return values


def distance_to_polynomials(objective: Objective, start: Array, end: Array, degree: int) -> Array:
    """``max_s |∂_i L(θ + s Δ) - p_i(s)|`` for every parameter (K,), with a polynomial fit p_i of ``degree``.

    p_i is fitted by least squares at 33 Chebyshev points, where the distance is evaluated as well. For a
    smooth gradient it is close to the smallest distance that any polynomial of this degree can reach. Degrees
    above 32 count as 32.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> bowl, start, end = Quadratic(np.eye(1)), np.array([1.0]), np.array([0.0])
    >>> [distance_to_polynomials(bowl, start, end, degree).round(9).item() for degree in (0, 1)]
    [0.5, 0.0]
    """
    nodes = np.cos(np.linspace(0.0, np.pi, 33))
    delta = end - start
    grads = np.array([objective.loss_and_grad(start + (1 + x) / 2 * delta)[1] for x in nodes])
    fitted = chebyshev.chebval(nodes, chebyshev.chebfit(nodes, grads, min(degree, 32))).T
    distance: Array = np.abs(grads - fitted).max(axis=0)
    return distance
