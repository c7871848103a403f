"""Each layer against a slow implementation with loops, and its gradients against complex steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import tolerances
from lca.errors import LayoutError
from lca.reference import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, MaxPool2d, ReLU, Tanh
from lca.testing.strategies import seeds

EPS64 = float(np.finfo(np.float64).eps)
SHAPED: list[tuple[Layer, tuple[int, ...]]] = [
    (Dense(5, 3), (5,)),
    (ReLU(), (4,)),
    (Tanh(), (4,)),
    (Flatten(), (2, 3, 2)),
    (Conv2d(2, 3, 3), (2, 5, 4)),
    (Conv2d(2, 3, 3, padding=1), (2, 4, 5)),
    (Conv2d(1, 2, 2), (1, 2, 3)),
    (MaxPool2d(2), (2, 5, 4)),
    (MaxPool2d(3), (1, 3, 7)),
    (BatchNorm(3, eps=0.125), (3,)),
    (BatchNorm(2, eps=0.125), (2, 3, 2)),
    (BatchNorm(2, "frozen", (0.5, -1.0), (0.25, 2.0)), (2, 3, 2)),
    (Dropout(0.5), (4,)),
]


def draw(layer: Layer, shape: tuple[int, ...], seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=s) for s in layer.shapes.values()], rng.normal(size=(3, *shape))


def slow_conv(layer: Conv2d, params: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    weight, bias = params
    p, k = layer.padding, layer.kernel
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    out = np.empty((len(x), layer.c_out, x.shape[2] - k + 1, x.shape[3] - k + 1))
    for n, o, i, j in np.ndindex(out.shape):
        out[n, o, i, j] = (weight[o] * x[n, :, i : i + k, j : j + k]).sum() + bias[o]
    return out


def slow_pool(size: int, x: np.ndarray) -> np.ndarray:
    out = np.empty((*x.shape[:2], x.shape[2] // size, x.shape[3] // size))
    for n, c, i, j in np.ndindex(out.shape):
        out[n, c, i, j] = x[n, c, i * size : (i + 1) * size, j * size : (j + 1) * size].max()
    return out


@given(seeds, st.integers(1, 3), st.integers(0, 2))
def test_convolution_equals_loops(seed: int, kernel: int, padding: int) -> None:
    layer = Conv2d(2, 3, kernel, padding)
    params, x = draw(layer, (2, 4, 6), seed)
    out, _ = layer.forward(params, x)
    mass = float(slow_conv(layer, [np.abs(p) for p in params], np.abs(x)).max())
    assert out.shape[1:] == layer.output_shape(x.shape[1:])
    assert np.abs(out - slow_conv(layer, params, x)).max() <= tolerances.summed(mass, EPS64)


@given(seeds, st.integers(1, 3))
def test_pooling_equals_loops(seed: int, size: int) -> None:
    _, x = draw(MaxPool2d(size), (2, 4, 7), seed)
    np.testing.assert_array_equal(MaxPool2d(size).forward((), x)[0], slow_pool(size, x))


@pytest.mark.parametrize(("layer", "shape"), SHAPED)
@given(seed=seeds)
def test_input_gradient_equals_complex_step(layer: Layer, shape: tuple[int, ...], seed: int) -> None:
    params, x = draw(layer, shape, seed)
    out, cache = layer.forward(params, x)
    upstream = np.random.default_rng(seed + 1).normal(size=out.shape)
    before = upstream.copy()
    grad = layer.input_gradient(params, cache, upstream)
    numeric = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[index] += 1e-30j
        numeric[index] = (layer.forward(params, moved)[0].imag / 1e-30 * upstream).sum()
    mass = float(np.abs(upstream).sum() * max(1.0, *(np.abs(p).max() for p in (*params, x))))
    assert np.abs(grad - numeric).max() <= tolerances.summed(mass, EPS64)
    np.testing.assert_array_equal(upstream, before)


@pytest.mark.parametrize(("layer", "shape"), [pair for pair in SHAPED if pair[0].shapes])
@given(seed=seeds)
def test_parameter_gradient_equals_complex_step(layer: Layer, shape: tuple[int, ...], seed: int) -> None:
    params, x = draw(layer, shape, seed)
    out, cache = layer.forward(params, x)
    upstream = np.random.default_rng(seed + 1).normal(size=out.shape)
    into = [np.full(p.shape, np.nan) for p in params]  # entries that are not written stay NaN
    layer.write_gradient(cache, upstream, into)
    mass = float(np.abs(upstream).sum() * max(1.0, np.abs(x).max()))
    for k, tensor in enumerate(params):
        numeric = np.empty(tensor.shape)
        for index in np.ndindex(tensor.shape):
            moved = [p.astype(complex) for p in params]
            moved[k][index] += 1e-30j
            numeric[index] = (layer.forward(moved, x)[0].imag / 1e-30 * upstream).sum()
        assert np.abs(into[k] - numeric).max() <= tolerances.summed(mass, EPS64)


def test_the_gradient_of_equal_maxima_goes_to_the_first() -> None:
    x = np.zeros((1, 1, 2, 2))
    _, cache = MaxPool2d(2).forward((), x)
    grad = MaxPool2d(2).input_gradient((), cache, np.full((1, 1, 1, 1), 3.0))
    np.testing.assert_array_equal(grad[0, 0], [[3.0, 0.0], [0.0, 0.0]])


def test_relu_at_the_kink_has_derivative_zero() -> None:
    out, cache = ReLU().forward((), np.array([[-1.0, 0.0, 2.0]]))
    np.testing.assert_array_equal(out, [[0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(ReLU().input_gradient((), cache, np.ones((1, 3))), [[0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Dense(3, 2), (4,)),
        (Dense(3, 2), (1, 3)),
        (Conv2d(2, 1, 3), (1, 5, 5)),
        (Conv2d(1, 1, 3), (1, 2, 5)),
        (Conv2d(1, 1, 3), (5, 5)),
        (MaxPool2d(2), (1, 1, 5)),
        (MaxPool2d(2), (4,)),
    ],
)
def test_unfit_input_is_refused(layer: Layer, shape: tuple[int, ...]) -> None:
    with pytest.raises(LayoutError, match="takes"):
        layer.output_shape(shape)


def test_what_the_memory_of_a_product_held_before_does_not_count(monkeypatch):
    """With a BLAS that multiplies it by 0, where NaN stays NaN."""

    def careless(a, b, out):
        out[...] = 0 * out + a @ b
        return out

    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(4, 5)), rng.normal(size=(4, 3))
    into = np.full((3, 5), np.nan), np.full(3, np.nan)
    monkeypatch.setattr(np, "matmul", careless)
    Dense(5, 3).write_gradient(x, grad, into)
    np.testing.assert_array_equal(into[0], grad.T @ x)
    np.testing.assert_array_equal(into[1], np.ones(4) @ grad)
