"""Output losses against SciPy and the plain formula, also for large outputs."""

import numpy as np
import pytest
from hypothesis import given
from scipy.special import log_softmax, softmax

from lca import tolerances
from lca.errors import DataError
from lca.reference import CrossEntropy, SquaredError
from lca.testing.strategies import seeds

EPS64 = float(np.finfo(np.float64).eps)


@given(seeds)
def test_cross_entropy_equals_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, y = rng.normal(0, 3, (6, 4)), rng.integers(0, 4, 6)
    before = outputs.copy()
    losses, grad = CrossEntropy().value_and_grad(outputs, y)
    expected = -log_softmax(outputs, axis=1)[np.arange(6), y]
    mass = float(np.abs(outputs).sum(axis=1).max()) + 1
    assert np.abs(losses - expected).max() <= tolerances.summed(mass, EPS64)
    assert np.abs(grad - (softmax(outputs, axis=1) - np.eye(4)[y])).max() <= tolerances.summed(mass, EPS64)
    np.testing.assert_array_equal(outputs, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_does_not_overflow(dtype: type) -> None:
    losses, grad = CrossEntropy().value_and_grad(
        np.array([[1e4, -1e4], [1e4, -1e4]], dtype), np.array([0, 1])
    )
    np.testing.assert_array_equal(losses, np.array([0, 2e4], dtype))
    np.testing.assert_array_equal(grad, np.array([[0, 0], [1, -1]], dtype))
    assert (losses.dtype, grad.dtype) == (dtype, dtype)


@given(seeds)
def test_squared_error_equals_the_formula(seed: int) -> None:
    outputs, y = np.random.default_rng(seed).normal(size=(2, 5, 3))
    losses, grad = SquaredError().value_and_grad(outputs, y)
    for n in range(5):
        expected = sum(0.5 * (outputs[n, j] - y[n, j]) ** 2 for j in range(3))
        assert abs(losses[n] - expected) <= tolerances.summed(expected, EPS64)
    np.testing.assert_array_equal(grad, outputs - y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1]), r"targets of shape \(n, 2\), got int64 of shape \(2,\); .* numpy.eye\(2\)\[y\]"),
        (np.zeros((2, 3)), r"got float64 of shape \(2, 3\)"),
        (np.array([[0.0, 0.0], [np.nan, 0.0]]), "targets must be finite, got .* in example 1"),
    ],
)
def test_squared_error_refuses(y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SquaredError().check_targets(y, 2)
