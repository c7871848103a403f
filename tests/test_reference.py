"""The reference that estimators are held to is itself held to closed forms."""

from itertools import count

import numpy as np
import pytest

from lca import tolerances
from lca.errors import LCAError
from lca.reference import bowl
from lca.testing._reference import distance_to_polynomials, path_integral
from lca.testing.problems import ridge
from tests.meta.animals import Passing


@pytest.mark.parametrize("problem", [ridge(seed, power) for seed in range(3) for power in (2, 8)])
def test_the_integral_is_the_closed_form_of_every_parameter(problem):
    for start, end in zip(problem.points[:-1], problem.points[1:], strict=True):
        exact = problem.exact(start, end)
        grads = [problem.objective.loss_and_grad(start + s * (end - start))[1] for s in np.linspace(0, 1, 9)]
        mass = max(float(np.abs(grad * (end - start)).sum()) for grad in grads)
        found = path_integral(problem.objective, start, end)
        assert np.abs(found - exact).max() <= tolerances.scipy_quadrature(mass)


def test_the_distance_is_that_of_the_best_polynomial():
    """Along a step of a loss of degree 6 the gradient has degree 5, and no less."""
    problem = ridge(0, 6)
    ends = problem.points[:2]
    distances = [distance_to_polynomials(problem.objective, *ends, degree).max() for degree in range(8)]
    assert all(a > b for a, b in zip(distances[:6], distances[1:6], strict=False))
    assert max(distances[5:]) <= tolerances.scipy_quadrature(distances[0])
    assert min(distances[:5]) > 1e3 * max(distances[5:])


class Unsettled(Passing):
    """Another gradient at every call."""

    calls = count()

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad + 1e-3 * np.sin(37.0 * next(self.calls))


def test_what_does_not_settle_is_an_error():
    with pytest.raises(LCAError, match="did not converge: estimated error"):
        path_integral(Unsettled(bowl(3)), np.zeros(3), np.ones(3))
