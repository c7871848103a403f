"""The step fields of `lca demo` are those that a training loop has, for every backend."""

import numpy as np
import pytest

from lca._commands.demo_fields import SampledLoss, with_fields
from lca.arrays import array_ops
from lca.objective import Scored
from lca.reference import SGD, Adam, Batch, DatasetLoss, load_backend, minibatches, mlp, train, with_next
from lca.tolerances import EPS64, gradient

NETWORK = mlp((3, 5, 3), activation="tanh")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(21, 3)), RNG.integers(0, 3, 21)
LOSS = DatasetLoss(NETWORK, X, Y)
ALL = (
    "scores",
    "update_slope",
    "gradient",
    "next_batch",
    "next_gradient",
    "micro_batches",
    "next_micro_batches",
)


def batches(steps=6):
    return minibatches(X, Y, 8, steps, seed=1)  # the third batch of an epoch holds five examples


def completed(backend, optimizer, required):
    objective = backend.objective(NETWORK, Batch(X, Y), "float64")
    loss = SampledLoss(objective, LOSS)
    steps = backend.train(objective, NETWORK.init(0), optimizer, batches())
    return list(with_fields(steps, required, loss, optimizer, backend.vector))


def close(found, wanted):
    found = array_ops(found).to_numpy(found)
    limit = 64 * gradient(1 + float(np.abs(wanted).max()), EPS64)  # the paths differ by rounding
    return np.abs(found - wanted).max() <= limit


@pytest.mark.parametrize("backend", ["numpy", "torch", "tensorflow"])
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.05)], ids=["momentum", "adam"])
def test_fields_are_those_of_the_reference_loop(backend, optimizer):
    loop = train(LOSS, NETWORK.init(0), optimizer, batches(), micro_batches=2, scores=True, slopes=True)
    wanted = list(with_next(loop))
    found = completed(load_backend(backend), optimizer, ALL)
    assert [step.index for step in found] == [step.index for step in wanted] == list(range(5))
    for ours, theirs in zip(found, wanted, strict=True):
        for name in ("start", "end", "gradient", "next_gradient"):
            assert close(getattr(ours, name), getattr(theirs, name)), name
        for name in ("micro_batches", "next_micro_batches"):
            for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                assert close(a.gradient, b.gradient)
                assert close(a.update, b.update)
        slopes = [np.broadcast_to(step.update_slope, NETWORK.layout.size) for step in (ours, theirs)]
        assert close(slopes[0] / slopes[1], np.ones(NETWORK.layout.size))
        assert np.array_equal(ours.scores.index, theirs.scores.index)
        assert close(ours.scores.values, theirs.scores.values)
        assert np.array_equal(ours.next_batch.index, theirs.next_batch.index)


def test_only_the_required_fields_are_evaluated():
    [first, *_] = steps = completed(load_backend("torch"), SGD(0.1), ("scores",))
    assert len(steps) == 6
    assert first.scores is not None
    assert first.gradient is None
    assert not first.micro_batches
    assert first.next_batch is None


def test_any_backend_can_be_sampled():
    backend = load_backend("torch")
    loss = SampledLoss(backend.objective(NETWORK, Batch(X, Y), "float64"), LOSS)
    assert isinstance(loss, Scored)
    theta = backend.vector(NETWORK.init(0))
    index = np.array([0, 3, 3])
    batch = loss.batch(index, np.array([1.0, 2.0, 1.0]))
    assert close(loss.loss_and_grad(theta, batch)[1], LOSS.loss_and_grad(NETWORK.init(0), batch)[1])
    assert (loss.n_examples, loss.weight, loss.layout) == (21, None, LOSS.layout)
    assert np.array_equal(loss.labels, Y)
