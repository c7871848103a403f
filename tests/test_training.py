"""The training loop: epochs, the path it yields, purity, and how it stops on non-finite numbers."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca.data import Batch
from lca.errors import DataError, NonFiniteError
from lca.layout import Layout
from lca.models import DatasetLoss, mlp
from lca.optimizers import SGD, Adam
from lca.testing.strategies import seeds
from lca.training import minibatches, train

NETWORK = mlp((3, 4, 2))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 3)), RNG.integers(0, 2, 10)


@given(st.integers(1, 12), st.integers(1, 14), seeds)
def test_an_epoch_is_every_example_once(n: int, batch_size: int, seed: int) -> None:
    x, y = np.arange(1.0, n + 1)[:, None], np.arange(n)
    an_epoch = -(-n // batch_size)
    batches = list(minibatches(x, y, batch_size, 2 * an_epoch, seed))
    assert len(batches) == 2 * an_epoch
    for epoch in (batches[:an_epoch], batches[an_epoch:]):
        labels = np.concatenate([batch.y for batch in epoch])
        np.testing.assert_array_equal(np.sort(labels), y)
        np.testing.assert_array_equal(np.concatenate([batch.x[:, 0] for batch in epoch]), labels + 1)
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_epochs_are_shuffled_anew_and_the_seed_decides() -> None:
    def order(seed: int) -> list[int]:
        return [int(batch.y[0]) for batch in minibatches(np.ones((50, 1)), np.arange(50), 1, 100, seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:50] != order(1)[50:]


def test_bad_requests_fail_before_the_first_batch() -> None:
    with pytest.raises(DataError, match="batch_size must be a positive integer, got 0"):
        minibatches(X, Y, 0, 5, seed=0)
    with pytest.raises(DataError, match="steps must be ≥ 0, got -1"):
        minibatches(X, Y, 2, -1, seed=0)
    with pytest.raises(DataError, match="one row an example"):
        minibatches(X, Y[:-1], 2, 5, seed=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_form_the_path_of_a_plain_loop(dtype: type) -> None:
    objective, adam = DatasetLoss(NETWORK, X, Y), Adam(0.1)
    theta = NETWORK.init(0, dtype)
    start = theta.copy()
    batches = list(minibatches(X, Y, 4, 7, seed=3))
    steps = list(train(objective, theta, adam, batches))
    np.testing.assert_array_equal(theta, start)
    assert [step.index for step in steps] == list(range(7))
    expected, state = start, adam.init(start)
    for step, batch in zip(steps, batches, strict=True):
        np.testing.assert_array_equal(step.start, expected)
        state, delta = adam.update(state, objective.loss_and_grad(expected, batch)[1], expected)
        expected = expected + delta
        np.testing.assert_array_equal(step.end, expected)
        assert step.batch is batch
        assert step.end.dtype == dtype


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    wide = mlp((3, 2000, 2))
    objective, theta = DatasetLoss(wide, X, Y), wide.init(0)

    def peak(steps: int) -> int:
        tracemalloc.start()
        for _ in train(objective, theta, SGD(0.01), minibatches(X, Y, 4, steps, seed=0)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)  # caches fill at first use
    assert peak(52) - peak(2) < 5 * theta.nbytes  # keeping what 50 more steps made would take 50 vectors


@dataclass(frozen=True)
class Broken:
    """A loss of 1 with a gradient of 1, but for what is set; breaks at the third call."""

    loss_value: float = 1.0
    grad_value: float = 1.0
    layout: Layout = Layout(("fc1.weight", "fc1.bias"), ((2,), (1,)))  # noqa: RUF009

    def loss(self, theta: np.ndarray, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta: np.ndarray, batch: Batch | None = None) -> tuple[float, np.ndarray]:
        grad = np.ones(3)
        if batch is None or len(batch) < 3:
            return 1.0, grad
        grad[2] = self.grad_value
        return self.loss_value, grad


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Broken(loss_value=np.nan), "step 2: the loss on the training batch is nan; a smaller learning rate"),
        (Broken(grad_value=np.inf), r"step 2: the gradient is inf in tensor 'fc1.bias' \(entry 2"),
        (Broken(grad_value=1e308), r"step 2: θ after the update is -inf in tensor 'fc1.bias'"),
    ],
)
def test_non_finite_numbers_stop_the_run(objective: Broken, message: str) -> None:
    batches = [Batch(np.ones((n, 1)), np.zeros(n, int)) for n in (1, 2, 3, 1)]
    steps = train(objective, np.zeros(3), SGD(10.0), batches)
    assert [next(steps).index, next(steps).index] == [0, 1]
    with pytest.raises(NonFiniteError, match=message):
        next(steps)
