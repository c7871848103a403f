"""The training loop: epochs, the path it yields, purity, and how it stops on non-finite numbers."""

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import tolerances
from lca.errors import DataError, LCAError, NonFiniteError
from lca.layout import Layout
from lca.reference import SGD, Adam, AdamW, Batch, DatasetLoss, minibatches, mlp, train, with_next
from lca.step import Step
from lca.testing.strategies import seeds

NETWORK = mlp((3, 4, 2))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 3)), RNG.integers(0, 2, 10)


@given(st.integers(1, 12), st.integers(1, 14), seeds)
def test_an_epoch_visits_every_example_once(n: int, batch_size: int, seed: int) -> None:
    x, y = np.arange(1.0, n + 1)[:, None], np.arange(n)
    an_epoch = -(-n // batch_size)
    batches = list(minibatches(x, y, batch_size, 2 * an_epoch, seed))
    assert len(batches) == 2 * an_epoch
    for epoch in (batches[:an_epoch], batches[an_epoch:]):
        labels = np.concatenate([batch.y for batch in epoch])
        np.testing.assert_array_equal(np.sort(labels), y)
        np.testing.assert_array_equal(np.concatenate([batch.x[:, 0] for batch in epoch]), labels + 1)
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_epochs_are_shuffled_differently_and_reproducibly() -> None:
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
    with pytest.raises(DataError, match="one row per example"):
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


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_have_their_gradients_and_leave_one_out_updates(micro_batches: int) -> None:
    objective, sgd = DatasetLoss(NETWORK, X, Y), SGD(0.1, momentum=0.9)
    batches = list(minibatches(X, Y, 7, 5, seed=3))
    steps = list(train(objective, NETWORK.init(0), sgd, batches, micro_batches=micro_batches))
    state = sgd.init(NETWORK.init(0))
    for step in steps:
        whole = objective.loss_and_grad(step.start, step.batch)[1]
        cuts = [step.batch.take(slice(m, None, micro_batches)) for m in range(micro_batches)]
        limit = tolerances.gradient(
            float(max(np.abs(p.gradient).max() for p in step.micro_batches)), tolerances.EPS64
        )
        assert np.abs(step.gradient - whole).max() <= limit
        for m, (part, cut) in enumerate(zip(step.micro_batches, cuts, strict=True)):
            np.testing.assert_array_equal(part.gradient, objective.loss_and_grad(step.start, cut)[1])
            others = np.concatenate([c.x for k, c in enumerate(cuts) if k != m])
            labels = np.concatenate([c.y for k, c in enumerate(cuts) if k != m])
            grad = objective.loss_and_grad(step.start, Batch(others, labels))[1]
            expected = sgd.update(state, grad, step.start)[1]
            assert np.abs(part.update - expected).max() <= limit
        state = sgd.update(state, step.gradient, step.start)[0]


def test_a_batch_with_fewer_examples_than_micro_batches_is_refused() -> None:
    steps = train(
        DatasetLoss(NETWORK, X, Y), NETWORK.init(0), SGD(0.1), minibatches(X, Y, 3, 9, 0), micro_batches=2
    )
    with pytest.raises(LCAError, match="step 3: a batch of 1 cannot be split into 2 micro-batches"):
        list(steps)
    with pytest.raises(LCAError, match="micro_batches must be an integer ≥ 1, got 0"):
        next(train(DatasetLoss(NETWORK, X, Y), NETWORK.init(0), SGD(0.1), [], micro_batches=0))


def test_scores_are_one_minus_the_probability_of_the_label() -> None:
    objective = DatasetLoss(NETWORK, X, Y)
    for step in train(objective, NETWORK.init(0), SGD(0.1), minibatches(X, Y, 4, 5, 0), scores=True):
        np.testing.assert_array_equal(X[step.scores.index], step.batch.x)
        outputs = np.exp(NETWORK.forward(step.start, step.batch.x))
        p = outputs[np.arange(len(outputs)), step.batch.y] / outputs.sum(axis=1)
        assert np.abs(step.scores.values - (1 - p)).max() <= tolerances.summed(8.0, tolerances.EPS64)
    with pytest.raises(LCAError, match="scores=True needs an objective that computes scores"):
        next(train(objective, NETWORK.init(0), SGD(0.1), [Batch(X, Y)], scores=True))


def test_independent_batches_are_drawn_with_replacement() -> None:
    batches = list(minibatches(X, Y, 10, 50, seed=1, independent=True))
    assert all(len(batch) == 10 for batch in batches)
    repeats = [10 - len(np.unique(batch.index)) for batch in batches]
    assert 2 < np.mean(repeats) < 5  # 3.5 are expected
    np.testing.assert_array_equal(batches[3].x, X[batches[3].index])


def test_frozen_tensors_do_not_move_nor_decay() -> None:
    frozen = replace(NETWORK, frozen=("fc1.weight",))
    batches, adamw = list(minibatches(X, Y, 4, 3, seed=0)), AdamW(0.1, weight_decay=0.5)
    own, thawed = (
        list(train(DatasetLoss(n, X, Y), n.init(0), adamw, batches, micro_batches=2, slopes=True))
        for n in (frozen, NETWORK)
    )
    for step in own:
        for moved in (step.end - step.start, step.update_slope, step.micro_batches[1].update):
            tensors = NETWORK.layout.unflatten(moved)
            assert not tensors["fc1.weight"].any()
            assert all(tensors[name].any() for name in ("fc1.bias", "fc2.weight", "fc2.bias"))
    assert NETWORK.layout.unflatten(thawed[0].end - thawed[0].start)["fc1.weight"].any()


def test_a_step_gets_the_batch_and_gradient_of_the_next_one() -> None:
    objective = DatasetLoss(NETWORK, X, Y)
    plain = list(train(objective, NETWORK.init(0), SGD(0.1), minibatches(X, Y, 4, 6, 0), micro_batches=2))
    paired = list(with_next(plain))
    assert [step.index for step in paired] == [0, 1, 2, 3, 4]
    for step, after in zip(paired, plain[1:], strict=True):
        assert step.next_batch is after.batch
        assert step.next_gradient is after.gradient
        assert step.next_micro_batches is after.micro_batches
        np.testing.assert_array_equal(
            objective.loss_and_grad(step.end, step.next_batch.take(slice(0, None, 2)))[1],
            step.next_micro_batches[0].gradient,
        )


def test_steps_that_do_not_join_are_refused() -> None:
    a, b = np.zeros(1), np.ones(1)
    with pytest.raises(LCAError, match="step 2 does not begin where step 0 ended"):
        list(with_next([Step(a, b, 0), Step(a, b, 2)]))


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

    peak(2)  # caches are filled on first use
    assert peak(52) - peak(2) < 5 * theta.nbytes  # keeping the vectors of 50 more steps would take 50 vectors


@dataclass(frozen=True)
class Broken:
    """Loss 1 and gradient 1, except for the given values, which are returned from the third call on."""

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
