"""Closed forms: gradients against complex steps, allocations against `scipy.integrate.quad`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad

from lca import tolerances
from lca.errors import LayoutError, LCAError
from lca.objective import Objective
from lca.reference import Bilinear, Quadratic, Quartic, ReluKink, bowl, saddle
from lca.testing.strategies import dtypes, seeds

EPS64 = float(np.finfo(np.float64).eps)


def quadratic(rng: np.random.Generator) -> Quadratic:
    half = rng.normal(size=(4, 4))
    return Quadratic(half + half.T, rng.normal(size=4))


MAKERS: list[Callable[[np.random.Generator], Any]] = [
    quadratic,
    lambda rng: bowl(3),
    lambda rng: saddle(4),
    lambda rng: Quartic(rng.normal(size=3)),
    lambda rng: Bilinear(2),
    lambda rng: ReluKink(rng.normal(size=3), rng.normal()),
]


def draw(maker: Callable[[np.random.Generator], Any], seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    objective = maker(rng)
    start, end = rng.normal(size=(2, objective.layout.size))
    return objective, start, end


def kinks(objective: Any, start: np.ndarray, end: np.ndarray) -> list[float]:
    if not isinstance(objective, ReluKink):
        return []
    z0, z1 = (float(np.dot(objective.normal, p)) + objective.offset for p in (start, end))
    return [z0 / (z0 - z1)] if z0 * z1 < 0 else []


@pytest.mark.parametrize("maker", MAKERS)
@given(seed=seeds)
def test_allocation_equals_quad(maker: Callable[[np.random.Generator], Any], seed: int) -> None:
    objective, start, end = draw(maker, seed)
    delta = end - start
    exact = objective.exact_allocation(start, end)
    pieces = [0.0, *kinks(objective, start, end), 1.0]
    for i in range(len(delta)):

        def integrand(s: float, i: int = i) -> float:
            return float(delta[i] * objective.loss_and_grad(start + s * delta)[1][i])

        mass = max(abs(integrand(s)) for s in np.linspace(0, 1, 17)) or 1.0
        tolerance = tolerances.scipy_quadrature(mass)
        pairs = zip(pieces[:-1], pieces[1:], strict=True)
        value = sum(quad(integrand, a, b, epsabs=tolerance / 4, epsrel=0)[0] for a, b in pairs)
        assert abs(exact[i] - value) <= tolerance


@pytest.mark.parametrize("maker", MAKERS)
@given(seed=seeds, dtype=dtypes())
def test_allocation_adds_up(maker: Callable[[np.random.Generator], Any], seed: int, dtype: np.dtype) -> None:
    objective, start, end = draw(maker, seed)
    start, end = start.astype(dtype), end.astype(dtype)
    exact = objective.exact_allocation(start, end)
    ends = objective.loss(end), objective.loss(start)
    grads = [np.abs(objective.loss_and_grad(p.astype(float))[1]).sum() for p in (start, end)]
    scale = float(max(grads) * max(np.abs(start).max(), np.abs(end).max())) + abs(ends[0]) + abs(ends[1])
    assert exact.dtype == np.float64
    assert abs(exact.sum() - (ends[0] - ends[1])) <= tolerances.conservation(scale, 0.0, EPS64)


@pytest.mark.parametrize("maker", MAKERS)
@given(seed=seeds)
def test_gradient_equals_complex_step(maker: Callable[[np.random.Generator], Any], seed: int) -> None:
    objective, theta, _ = draw(maker, seed)
    loss, grad = objective.loss_and_grad(theta)
    numeric = np.array([objective.loss(theta + 1e-30j * e).imag / 1e-30 for e in np.eye(theta.size)])
    scale = float(np.abs(grad).max()) + sum(np.abs(numeric)) + 10 * float(np.abs(theta).sum()) ** 2
    assert np.abs(grad - numeric).max() <= tolerances.gradient(scale, EPS64)
    assert (type(loss), objective.loss(theta)) == (float, loss)
    single = objective.loss_and_grad(theta.astype(np.float32))[1]
    assert single.dtype == np.float32
    assert isinstance(objective, Objective)


@pytest.mark.parametrize(("offset", "fraction"), [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.0)])
def test_kink_not_crossed_because_z_stays_constant(offset: float, fraction: float) -> None:
    start, end = np.array([2.0, 1.0]), np.array([3.0, 3.0])
    exact = ReluKink(np.array([2.0, -1.0]), offset - 3.0).exact_allocation(start, end)
    np.testing.assert_array_equal(exact, fraction * np.array([2.0, -2.0]))


def test_curvatures_of_bowl_and_saddle() -> None:
    for objective, expected in ((bowl(4), [1, 2, 3, 4]), (saddle(4), [-4, -2, 1, 3])):
        hessian = np.array([objective.loss_and_grad(e)[1] for e in np.eye(4)])
        error = np.abs(np.linalg.eigvalsh(hessian) - expected).max()
        assert error <= tolerances.summed(4.0, EPS64)
        assert np.count_nonzero(hessian) == hessian.size  # every two parameters interact


def test_names_can_be_chosen() -> None:
    assert Quadratic(np.eye(2), name="w").layout.names == ("w",)
    assert Bilinear(2, names=("a.weight", "b.weight")).layout.names == ("a.weight", "b.weight")


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(LCAError, match="symmetric Hessian"):
        Quadratic(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(LCAError, match="symmetric Hessian"):
        Quadratic(np.ones((2, 3)))
    with pytest.raises(LCAError, match=r"linear must have shape \(2,\), got \(3,\)"):
        Quadratic(np.eye(2), np.ones(3))
    with pytest.raises(LCAError, match="one number per parameter"):
        Quartic(np.ones((2, 2)))
    with pytest.raises(LayoutError, match=r"expected shape \(4,\)"):
        Bilinear(2).exact_allocation(np.zeros(3), np.zeros(4))
