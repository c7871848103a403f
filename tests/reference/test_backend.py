"""The NumPy backend's objective and training loop, and how backends are found."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

import lca.reference._backend
from lca import LCAError, Objective, tolerances
from lca.errors import UnknownNameError
from lca.reference import (
    SGD,
    Batch,
    BatchNorm,
    DatasetLoss,
    Dense,
    Network,
    NumpyBackend,
    load_backend,
    mlp,
    train,
)

NETWORK = mlp((3, 4, 2))
EPS = tolerances.EPS64


def data(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.normal(size=(n, 3)), rng.integers(2, size=n), rng.uniform(1, 2, size=n))


def offer(monkeypatch, name, value):
    point = EntryPoint(name=name, value=value, group=lca.reference._backend.ENTRY_POINT_GROUP)
    monkeypatch.setattr(lca.reference._backend, "entry_points", lambda group: [point])


def test_numpy_is_found_by_its_entry_point():
    assert isinstance(load_backend("numpy"), NumpyBackend)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_objective_is_the_weighted_loss_in_the_requested_dtype(dtype):
    examples = data()
    objective = NumpyBackend().objective(NETWORK, examples, dtype)
    assert isinstance(objective, Objective)
    assert objective.layout == NETWORK.layout
    theta = NETWORK.init(seed=1, dtype=dtype)
    loss, grad = objective.loss_and_grad(theta)
    reference = DatasetLoss(NETWORK, examples.x, examples.y, weight=examples.weight)
    assert grad.dtype == dtype
    assert loss == reference.loss(theta)
    assert loss != DatasetLoss(NETWORK, examples.x, examples.y).loss(theta)


def test_a_penalty_is_a_term_without_the_frozen_tensors():
    network = Network(NETWORK.layers, NETWORK.loss, NETWORK.input_shape, frozen=("fc1.weight",))
    objective = NumpyBackend().objective(network, data(), "float64", penalty=0.5)
    theta = network.init(seed=1)
    theta[-2:] = [1.0, 3.0]  # the last bias; the other biases are 0
    squares = np.square(network.layout.unflatten(theta)["fc2.weight"]).sum() + 1.0 + 9.0
    assert abs(objective.terms["penalty"].loss(theta) - 0.25 * squares) <= tolerances.summed(squares, EPS)
    assert not objective.terms["penalty"].loss_and_grad(theta)[1][: network.layout.sizes[0]].any()
    assert objective.terms["data"].loss(theta) == NumpyBackend().objective(network, data(), "float64").loss(
        theta
    )


def test_measuring_batches_have_the_requested_size():
    network = Network((Dense(3, 4), BatchNorm(4), Dense(4, 2)), NETWORK.loss, (3,))
    examples, theta = data(8), network.init(seed=1)
    halves = NumpyBackend().objective(network, examples, "float64", batch_size=4)
    whole = NumpyBackend().objective(network, examples, "float64")
    by_hand = [whole.loss(theta, examples.take(np.arange(i, i + 4))) for i in (0, 4)]
    weights = [examples.take(np.arange(i, i + 4)).total_weight for i in (0, 4)]
    mean = np.average(by_hand, weights=weights)
    assert abs(halves.loss(theta) - mean) <= tolerances.summed(mean, EPS)
    assert abs(halves.loss(theta) - whole.loss(theta)) > 0.01  # other batches, other statistics


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_train_is_the_reference_training_loop(dtype):
    objective = NumpyBackend().objective(NETWORK, data(), dtype)
    theta, batches = NETWORK.init(seed=1, dtype=dtype), [data(3, seed) for seed in range(4)]
    steps = list(NumpyBackend().train(objective, theta, SGD(0.1), batches))
    for step, expected in zip(steps, train(objective, theta, SGD(0.1), batches), strict=True):
        assert step.end.dtype == dtype
        np.testing.assert_array_equal(step.end, expected.end)


def test_train_is_lazy():
    def endless():
        while True:
            yield data()

    objective = NumpyBackend().objective(NETWORK, data(), "float64")
    steps = NumpyBackend().train(objective, NETWORK.init(seed=1), SGD(0.1), endless())
    assert [next(steps).index for _ in range(3)] == [0, 1, 2]


def test_unknown_backend_lists_the_known():
    with pytest.raises(
        UnknownNameError, match=r"unknown backend 'nunpy'; known: .*numpy.* Did you mean 'numpy'"
    ):
        load_backend("nunpy")


def test_a_third_party_adds_a_backend_by_entry_point(monkeypatch):
    offer(monkeypatch, "jax", "lca.reference._backend:NumpyBackend")
    assert load_backend("jax") == NumpyBackend()


def test_a_backend_with_a_missing_framework_is_an_error(monkeypatch):
    offer(monkeypatch, "jax", "no_such_framework:Backend")
    with pytest.raises(LCAError, match=r"backend 'jax'.*no_such_framework.*install its framework"):
        load_backend("jax")
