"""Batch normalisation against loops and derivatives, dropout as the identity, and errors."""

import numpy as np
import pytest
from hypothesis import given

from lca import tolerances
from lca.errors import DataError, LayoutError, LCAError, UnknownNameError
from lca.objective import evaluate
from lca.reference import Batch, BatchNorm, CrossEntropy, DatasetLoss, Dense, Dropout, Network, ReLU, mlp
from lca.testing.strategies import batches, dtypes, networks, paths, seeds

EPS64 = float(np.finfo(np.float64).eps)


def slow(layer: BatchNorm, params: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for c in range(layer.n):
        values = [float(v) for v in x[:, c].ravel()]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        if layer.statistics == "frozen":
            mean, variance = layer.mean[c], layer.variance[c]
        out[:, c] = (x[:, c] - mean) / (variance + layer.eps) ** 0.5 * params[0][c] + params[1][c]
    return out


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
@pytest.mark.parametrize("shape", [(3,), (3, 2, 4)])
@given(seed=seeds, dtype=dtypes())
def test_batch_norm_equals_loops(statistics, shape, seed, dtype):
    rng = np.random.default_rng(seed)
    layer = BatchNorm(3, statistics, (0.5, -1.0, 0.25), (0.5, 1.0, 2.0), eps=0.125)
    params, x = (
        [p.astype(dtype) for p in rng.normal(size=(2, 3))],
        rng.normal(1, 1, (5, *shape)).astype(dtype),
    )
    before = x.copy()
    out, _ = layer.forward(params, x)
    expected = slow(layer, [p.astype(float) for p in params], x.astype(float))
    mass = float(np.abs(x).max() / 0.125**0.5 * np.abs(params[0]).max() + np.abs(params[1]).max())
    assert out.dtype == dtype
    assert np.abs(out - expected).max() <= tolerances.summed(mass, float(np.finfo(dtype).eps))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("kind", ["batch_norm", "frozen_norm", "dropout", "frozen", "tied", "images"])
def test_gradient_of_networks_equals_complex_step(kind):
    @given(networks(features=("batch_norm", "tied"), always=(kind,)).flatmap(_problem))
    def law(problem):
        objective, theta = problem
        loss, grad = objective.loss_and_grad(theta)
        numeric = [objective.loss(theta + 1e-30j * e).imag / 1e-30 for e in np.eye(theta.size)]
        free = np.concatenate(
            [
                np.full(size, name not in objective.network.frozen)
                for name, size in zip(objective.layout.names, objective.layout.sizes, strict=True)
            ]
        )
        scale = 1 + float(np.abs(numeric).max())
        assert np.abs(grad - numeric * free).max() <= tolerances.gradient(scale, EPS64)
        assert not grad[~free].any()
        assert loss == objective.loss(theta)

    law()


def _problem(network):
    return batches(network, n=11).flatmap(
        lambda b: paths(network.layout, 0, start=network.init(0)).map(
            lambda path: (DatasetLoss(network, b.x, b.y, weight=b.weight, batch_size=4), path[0])
        )
    )


@given(seeds)
def test_gradient_through_the_statistics_equals_central_differences(seed):
    rng = np.random.default_rng(seed)
    network = Network((Dense(3, 3), BatchNorm(3, eps=0.125), Dense(3, 2)), CrossEntropy(), (3,))
    objective = DatasetLoss(network, rng.normal(size=(7, 3)), rng.integers(2, size=7))
    theta, h = network.init(seed % 1000), EPS64 ** (1 / 3)
    loss, grad = objective.loss_and_grad(theta)
    ends = [[objective.loss(theta + s * h * e) for e in np.eye(theta.size)] for s in (1, -1)]
    numeric = (np.array(ends[0]) - np.array(ends[1])) / (2 * h)
    scale = float(np.abs(grad).max()) + 1
    assert np.abs(grad - numeric).max() <= tolerances.central_difference(scale, loss)


@given(seeds)
def test_chunks_are_the_measuring_batches(seed):
    rng = np.random.default_rng(seed)
    network = Network((Dense(3, 4), BatchNorm(4), Dense(4, 2)), CrossEntropy(), (3,))
    batch = Batch(rng.normal(size=(10, 3)), rng.integers(2, size=10), rng.uniform(1, 2, 10))
    theta = network.init(0)
    whole = DatasetLoss(network, batch.x, batch.y, weight=batch.weight, batch_size=4)
    parts = [batch.take(slice(i, i + 4)) for i in (0, 4, 8)]
    mean = sum(p.total_weight * whole.loss(theta, p) for p in parts) / batch.total_weight
    assert abs(whole.loss(theta) - mean) <= tolerances.summed(mean, EPS64)
    assert abs(DatasetLoss(network, batch.x, batch.y, weight=batch.weight).loss(theta) - mean) > 1e-6


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_add_up_with_batch_statistics(weighted):
    rng = np.random.default_rng(0)
    network = Network((Dense(3, 4), BatchNorm(4), Dense(4, 3)), CrossEntropy(), (3,))
    weight = rng.uniform(1, 2, 10) if weighted else None
    objective = DatasetLoss(
        network, rng.normal(size=(10, 3)), rng.integers(2, size=10), weight=weight, batch_size=4
    )
    theta = network.init(0)
    loss, grad = objective.loss_and_grad(theta)
    total = evaluate(objective.by_class(), theta)
    assert abs(total.loss - loss) <= tolerances.summed(loss, EPS64)
    assert np.abs(total.grad - grad).max() <= tolerances.gradient(1.0, EPS64)
    assert objective.by_class().terms["class 2"].loss(theta) == 0


def test_batch_norm_starts_as_the_identity_of_its_scale():
    network = Network((Dense(3, 4), BatchNorm(4), ReLU(), Dense(4, 2)), CrossEntropy(), (3,))
    tensors = network.layout.unflatten(network.init(0))
    assert list(tensors) == ["fc1.weight", "fc1.bias", "bn1.weight", "bn1.bias", "fc2.weight", "fc2.bias"]
    np.testing.assert_array_equal(tensors["bn1.weight"], np.ones(4))
    np.testing.assert_array_equal(tensors["bn1.bias"], np.zeros(4))
    plain = mlp((3, 4, 2))
    np.testing.assert_array_equal(tensors["fc2.weight"], plain.layout.unflatten(plain.init(0))["fc2.weight"])


@given(seeds)
def test_dropout_changes_nothing_while_measuring(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(6, 3)), rng.integers(2, size=6)
    plain = mlp((3, 4, 2))
    dropped = Network((*plain.layers[:2], Dropout(0.5), plain.layers[2]), plain.loss, (3,))
    theta = plain.init(0)
    results = [DatasetLoss(network, x, y).loss_and_grad(theta) for network in (plain, dropped)]
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert dropped.layout == plain.layout


def test_bad_layers_are_refused():
    with pytest.raises(UnknownNameError, match="unknown statistics 'running'; known: batch, frozen"):
        BatchNorm(2, "running")
    with pytest.raises(
        LCAError, match="needs 2 running values in mean, one per channel, got 0; pass those of"
    ):
        BatchNorm(2, "frozen")
    with pytest.raises(LCAError, match="needs 2 running values in variance, one per channel, got 1"):
        BatchNorm(2, "batch", (0.0, 0.0), (1.0,))
    for mean, variance in (((np.nan,), (1.0,)), ((0.0,), (-1.0,))):
        with pytest.raises(LCAError, match="must be finite, and a variance ≥ 0"):
            BatchNorm(1, "frozen", mean, variance)
    for eps in (0.0, float("inf"), float("nan")):
        with pytest.raises(LCAError, match="finite eps > 0"):
            BatchNorm(1, eps=eps)
    for p in (-0.1, 1.0):
        with pytest.raises(LCAError, match="probability p in"):
            Dropout(p)
    with pytest.raises(LayoutError, match=r"takes examples of shape \(2, ...\), got \(3,\)"):
        BatchNorm(2).output_shape((3,))


def test_a_single_example_has_no_statistics():
    network = Network((Dense(3, 4), BatchNorm(4), Dense(4, 2)), CrossEntropy(), (3,))
    objective = DatasetLoss(network, np.ones((5, 3)), np.zeros(5, int), batch_size=4)
    with pytest.raises(
        DataError, match="at least two values per channel.*does not leave a last batch of one example"
    ):
        objective.loss(network.init(0))
