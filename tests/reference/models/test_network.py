"""`Network` and its builders: names, initial parameters, shapes, errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from lca import tolerances
from lca.errors import LayoutError, LCAError, UnknownNameError
from lca.reference import Batch
from lca.reference._models import (
    Conv2d,
    CrossEntropy,
    Dense,
    Flatten,
    Network,
    ReLU,
    SquaredError,
    Tanh,
    logistic_regression,
    mlp,
    small_cnn,
)
from lca.testing.strategies import networks, seeds

EPS64 = float(np.finfo(np.float64).eps)


def test_names_are_numbered_by_layer_type() -> None:
    layout = small_cnn((1, 8, 8), 10, channels=(2, 3), hidden=(4,)).layout
    layers = ("conv1", "conv2", "fc1", "fc2")
    assert layout.names == tuple(f"{name}.{part}" for name in layers for part in ("weight", "bias"))
    assert layout.shapes[:4] == ((2, 1, 3, 3), (2,), (3, 2, 3, 3), (3,))
    assert layout.shapes[4:] == ((4, 12), (4,), (10, 4), (10,))


def test_logistic_regression_is_the_mlp_without_hidden_layers() -> None:
    assert logistic_regression(7, 3) == mlp((7, 3))
    assert mlp((7, 3)).layers == (Dense(7, 3),)


def test_mlp_activation_and_loss() -> None:
    assert mlp((4, 3, 2)).layers == (Dense(4, 3), ReLU(), Dense(3, 2))
    assert mlp((4, 3, 2), activation="tanh").layers == (Dense(4, 3), Tanh(), Dense(3, 2))
    assert (mlp((4, 2)).loss, mlp((4, 2), loss="squared_error").loss) == (CrossEntropy(), SquaredError())


@given(networks(), seeds)
def test_one_seed_is_one_point_in_every_dtype(network: Network, seed: int) -> None:
    double, single = network.init(seed), network.init(seed, np.float32)
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(single, double.astype(np.float32))
    assert not np.array_equal(double, network.init(seed + 1))


def test_init_is_he_normal_with_zero_biases() -> None:
    tensors = (network := mlp((50, 400, 3))).layout.unflatten(network.init(0))
    weight = tensors["fc1.weight"]
    variance, standard_error = 2 / 50, 2 / 50 * np.sqrt(2 / weight.size)
    assert abs(weight.var() - variance) < 5 * standard_error  # five sigma, of one fixed seed
    assert not tensors["fc1.bias"].any()
    assert not tensors["fc2.bias"].any()


@given(networks(features=()), seeds)
def test_forward_equals_matrix_products(network: Network, seed: int) -> None:
    theta = network.init(seed)
    x = expected = np.random.default_rng(seed).normal(size=(4, *network.input_shape))
    tensors = list(network.layout.unflatten(theta).values())
    squash = np.tanh if Tanh() in network.layers else (lambda a: np.where(a > 0, a, 0))
    for k in range(0, len(tensors), 2):
        expected = expected if k == 0 else squash(expected)
        expected = np.matmul(expected, tensors[k].T) + tensors[k + 1]
    np.testing.assert_array_equal(network.forward(theta, x), expected)


def test_misfit_layers_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"takes examples of shape \(4,\), got \(3,\)"):
        Network((Dense(5, 3), Dense(4, 2)), CrossEntropy(), (5,))
    with pytest.raises(LCAError, match=r"must be one vector per example, got shape \(2, 3, 3\)"):
        Network((Conv2d(1, 2, 1),), CrossEntropy(), (1, 3, 3))
    with pytest.raises(LayoutError, match="at least one tensor"):
        Network((Flatten(),), CrossEntropy(), (3,))


def test_builders_refuse() -> None:
    with pytest.raises(LCAError, match="at least two sizes"):
        mlp((3,))
    with pytest.raises(
        UnknownNameError, match=r"unknown activation 'rellu'; known: relu, tanh. Did you mean"
    ):
        mlp((3, 2, 2), activation="rellu")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown loss 'mse'"):
        mlp((3, 2), loss="mse")  # type: ignore[arg-type]
    with pytest.raises(LCAError, match="odd kernel, got .* kernel 2"):
        small_cnn((1, 8, 8), 10, kernel=2)
    with pytest.raises(LCAError, match="a grey-level image has one channel"):
        small_cnn((8, 8), 10)
    with pytest.raises(LayoutError, match="remove a pooling layer"):
        small_cnn((1, 3, 3), 10)


STACK = (Dense(3, 3), Tanh(), Dense(3, 3), Tanh(), Dense(3, 3))


@pytest.mark.parametrize(
    "tied",
    [
        {"fc3.weight": "fc1.weight"},
        {"fc1.weight": "fc3.weight"},
        {"fc3.weight": "fc1.weight", "fc2.weight": "fc1.weight", "fc2.bias": "fc3.bias"},
    ],
)
@given(seed=seeds)
def test_a_tied_gradient_is_the_sum_over_its_uses(tied: dict[str, str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = Batch(rng.normal(size=(4, 3)), rng.integers(3, size=4))
    free, network = Network(STACK, CrossEntropy(), (3,)), Network(STACK, CrossEntropy(), (3,), tied=tied)
    assert network.layout.names == tuple(name for name in free.layout.names if name not in tied)
    theta = network.init(seed)
    tensors = network.layout.unflatten(theta)
    apart = free.layout.flatten({name: tensors[tied.get(name, name)] for name in free.layout.names})
    np.testing.assert_array_equal(network.forward(theta, batch.x), free.forward(apart, batch.x))
    into, all_uses = np.full_like(theta, np.nan), np.full_like(apart, np.nan)
    network.losses_and_grad(theta, batch, into)
    free.losses_and_grad(apart, batch, all_uses)
    expected = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    scale = 0.0
    for name, grad in free.layout.unflatten(all_uses).items():
        expected[tied.get(name, name)] += grad
        scale += float(np.abs(grad).max())
    assert np.abs(into - network.layout.flatten(expected)).max() <= tolerances.summed(scale, EPS64)


@given(seeds)
def test_frozen_tensors_have_gradient_zero_and_others_are_unaffected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = Batch(rng.normal(size=(4, 3)), rng.integers(3, size=4))
    free = Network(STACK, CrossEntropy(), (3,))
    network = Network(STACK, CrossEntropy(), (3,), frozen=("fc1.weight", "fc3.bias"))
    assert network.layout == free.layout
    theta = free.init(seed)
    grads = []
    for each in (free, network):
        into = np.full_like(theta, np.nan)
        each.losses_and_grad(theta, batch, into)
        grads.append(each.layout.unflatten(into))
    for name, grad in grads[1].items():
        np.testing.assert_array_equal(grad, grads[0][name] * (name not in network.frozen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": ("fc1.wieght",)}, r"unknown tensor 'fc1.wieght'.*Did you mean 'fc1.weight'"),
        ({"tied": {"fc9.weight": "fc1.weight"}}, "unknown tensor 'fc9.weight'"),
        ({"tied": {"fc2.weight": "fc9.weight"}}, "unknown tensor 'fc9.weight'"),
        (
            {"tied": {"fc2.weight": "fc1.bias"}},
            "'fc2.weight' .* cannot be tied to 'fc1.bias'",
        ),
        ({"tied": {"fc3.weight": "fc2.weight", "fc2.weight": "fc1.weight"}}, "which is itself tied; tie all"),
        ({"tied": {"fc2.weight": "fc2.weight"}}, "which is itself tied"),
        (
            {"tied": {"fc2.weight": "fc1.weight"}, "frozen": ("fc2.weight",)},
            "'fc2.weight' is tied to 'fc1.weight'; freeze 'fc1.weight' to freeze both",
        ),
    ],
)
def test_bad_policies_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LCAError, match=message):
        Network(STACK, CrossEntropy(), (3,), **options)
