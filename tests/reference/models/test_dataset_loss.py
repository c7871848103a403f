"""Laws of `DatasetLoss` on random networks and data: gradients, chunks, weights, classes, order, dtype."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import tolerances
from lca.errors import DataError, LayoutError
from lca.objective import Objective, evaluate
from lca.reference import Batch, CrossEntropy, DatasetLoss, Network, SquaredError, mlp, small_cnn
from lca.testing.strategies import networks, seeds

EPS32, EPS64 = (float(np.finfo(t).eps) for t in (np.float32, np.float64))
cnns = st.builds(
    small_cnn,
    st.tuples(st.integers(1, 2), st.integers(4, 7), st.integers(4, 7)),
    st.integers(2, 3),
    channels=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    hidden=st.sampled_from([(), (3,)]),
)
smooth = st.builds(
    mlp,
    st.lists(st.integers(2, 5), min_size=2, max_size=4),
    activation=st.just("tanh"),
    loss=st.sampled_from(["cross_entropy", "squared_error"]),
)


@dataclass(frozen=True)
class Problem:
    """A network, weighted data that float32 holds exactly, a point, and the scale of its gradient."""

    network: Network
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    theta: np.ndarray

    def objective(self, **options: object) -> DatasetLoss:
        return DatasetLoss(self.network, self.x, self.y, **({"weight": self.weight} | options))

    @property
    def scale(self) -> float:
        outputs = self.network.forward(self.theta, self.x)
        bare = Network(self.network.layers, SquaredError(), self.network.input_shape)
        total = np.zeros_like(self.theta)
        for i in range(len(self.x)):
            own = self.objective().loss_and_grad(self.theta, Batch(self.x[[i]], self.y[[i]]))[1]
            jacobian = DatasetLoss(bare, self.x[[i]], outputs[[i]] - 1).loss_and_grad(self.theta)[1]
            total += self.weight[i] / self.weight.sum() * (np.abs(own) + np.abs(jacobian))
        return float(total.max())


def make(network: Network, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 12))
    x = rng.uniform(-2, 2, (n, *network.input_shape))
    y = rng.normal(size=(n, network.n_outputs))
    if isinstance(network.loss, CrossEntropy):
        y = rng.integers(0, network.n_outputs, n)
    theta = network.init(seed) + rng.normal(0, 0.1, network.layout.size)
    x, theta = (a.astype(np.float32).astype(np.float64) for a in (x, theta))
    y = y if y.ndim == 1 else y.astype(np.float32).astype(np.float64)
    return Problem(network, x, y, rng.uniform(0.1, 2, n), theta)


problems = st.builds(make, networks(features=()) | cnns, seeds)


def assert_gradient(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert a.shape == b.shape
    assert float(np.abs(a - b).max()) <= tolerance


def assert_loss(a: float, b: float) -> None:
    assert abs(a - b) <= tolerances.summed(abs(b), EPS64)


@given(problems)
def test_gradient_equals_complex_step(problem: Problem) -> None:
    objective = problem.objective(batch_size=4)
    h = 1e-30  # no cancellation, so the step can be arbitrarily small
    steps = [objective.loss(problem.theta + 1j * h * e) for e in np.eye(problem.theta.size)]
    loss, grad = objective.loss_and_grad(problem.theta)
    assert_gradient(np.imag(steps) / h, grad, tolerances.gradient(problem.scale, EPS64))
    assert loss == objective.loss(problem.theta)


@given(st.builds(make, smooth, seeds))
def test_gradient_equals_central_differences(problem: Problem) -> None:
    objective = problem.objective()
    h = EPS64 ** (1 / 3)
    ends = [[objective.loss(problem.theta + s * h * e) for e in np.eye(problem.theta.size)] for s in (1, -1)]
    loss, grad = objective.loss_and_grad(problem.theta)
    numeric = (np.array(ends[0]) - np.array(ends[1])) / (2 * h)
    assert_gradient(numeric, grad, tolerances.central_difference(problem.scale, loss))


@given(problems, st.integers(1, 6))
def test_chunk_size_does_not_change_the_loss(problem: Problem, batch_size: int) -> None:
    loss, grad = problem.objective().loss_and_grad(problem.theta)
    chunked_loss, chunked = problem.objective(batch_size=batch_size).loss_and_grad(problem.theta)
    assert_loss(chunked_loss, loss)
    assert_gradient(chunked, grad, tolerances.gradient(problem.scale, EPS64))


@given(problems)
def test_weights_count_examples(problem: Problem) -> None:
    counts = 1 + np.arange(len(problem.x)) % 3
    counts[0] = 0
    repeated = np.repeat(np.arange(len(problem.x)), counts)
    weighted = problem.objective(weight=counts, batch_size=2).loss_and_grad(problem.theta)
    plain = DatasetLoss(problem.network, problem.x[repeated], problem.y[repeated])
    loss, grad = plain.loss_and_grad(problem.theta)
    assert_loss(weighted[0], loss)
    assert_gradient(weighted[1], grad, tolerances.gradient(3 / problem.weight.min() * problem.scale, EPS64))


@given(problems, seeds)
def test_order_of_examples_does_not_matter(problem: Problem, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(problem.x))
    shuffled = DatasetLoss(
        problem.network, problem.x[order], problem.y[order], weight=problem.weight[order], batch_size=3
    )
    loss, grad = problem.objective(batch_size=3).loss_and_grad(problem.theta)
    other_loss, other = shuffled.loss_and_grad(problem.theta)
    assert_loss(other_loss, loss)
    assert_gradient(other, grad, tolerances.gradient(problem.scale, EPS64))


@given(st.builds(make, smooth, seeds))
def test_float32_agrees_with_float64(problem: Problem) -> None:
    objective = problem.objective(batch_size=4)
    loss, grad = objective.loss_and_grad(problem.theta)
    single_loss, single = objective.loss_and_grad(problem.theta.astype(np.float32))
    assert (single.dtype, grad.dtype, type(single_loss)) == (np.float32, np.float64, float)
    assert_gradient(single, grad, tolerances.gradient(problem.scale, EPS32))
    assert abs(single_loss - loss) <= tolerances.summed(abs(loss) + problem.scale, EPS32)


@given(problems, st.booleans())
def test_batch_is_measured_alone(problem: Problem, weighted: bool) -> None:
    part = slice(1, 4)
    batch = Batch(problem.x[part], problem.y[part], problem.weight[part] if weighted else None)
    alone = DatasetLoss(problem.network, batch.x, batch.y, weight=batch.weight)
    loss, grad = alone.loss_and_grad(problem.theta)
    other_loss, other = problem.objective().loss_and_grad(problem.theta, batch)
    assert (other_loss, problem.objective().loss(problem.theta, batch)) == (loss, loss)
    np.testing.assert_array_equal(other, grad)


labelled = problems.filter(lambda p: p.y.ndim == 1)


@given(labelled, st.booleans())
def test_classes_add_up(problem: Problem, use_batch: bool) -> None:
    objective = problem.objective(batch_size=2)
    batch = Batch(problem.x[:3], problem.y[:3], problem.weight[:3]) if use_batch else None
    loss, grad = objective.loss_and_grad(problem.theta, batch)
    total = evaluate(objective.by_class(), problem.theta, batch)
    assert_loss(total.loss, loss)
    scale = problem.scale * problem.weight.sum() / problem.weight[:3].sum()
    assert_gradient(total.grad, grad, tolerances.gradient(scale, EPS64))


@given(labelled)
def test_a_class_term_is_its_mean_times_its_share_of_the_weight(problem: Problem) -> None:
    label = int(problem.y[0])
    mine = problem.y == label
    own = DatasetLoss(problem.network, problem.x[mine], problem.y[mine], weight=problem.weight[mine])
    share = problem.weight[mine].sum() / problem.weight.sum()
    term = problem.objective().by_class().terms[f"class {label}"]
    assert_loss(term.loss(problem.theta), share * own.loss(problem.theta))


@given(problems)
def test_calls_have_no_side_effects(problem: Problem) -> None:
    objective, theta = problem.objective(batch_size=4), problem.theta.copy()
    x, y = problem.x.copy(), problem.y.copy()
    first = objective.loss_and_grad(theta)
    kept = first[1].copy()
    objective.loss_and_grad(theta + 1)
    again = objective.loss_and_grad(theta)
    assert first[0] == again[0]
    for a, b in ((first[1], kept), (again[1], kept), (theta, problem.theta), (x, problem.x), (y, problem.y)):
        np.testing.assert_array_equal(a, b)


NETWORK = mlp((3, 2))
X, Y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 1, 0])


def test_is_an_objective() -> None:
    assert isinstance(DatasetLoss(NETWORK, X, Y), Objective)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.array([0, 1, 2, 0])}, r"labels must lie in 0\.\.1 for 2 outputs, got 2 at position 2"),
        ({"y": np.array([0, -1, 1, 0])}, r"got -1 at position 1"),
        ({"y": np.eye(4)[:, :2]}, "integer labels"),
        ({"y": np.array([0, 1])}, "one row per example"),
        ({"x": X.reshape(4, 3, 1)}, r"examples of shape \(3,\), got \(3, 1\); use x.reshape\(len\(x\), 3\)"),
        ({"x": X[:0], "y": Y[:0]}, "at least one example"),
        ({"weight": np.zeros(4)}, "all weights are 0"),
        ({"only_label": 2}, r"only_label must be one of the labels 0\.\.1 or None, got 2"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    ],
)
def test_bad_data_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetLoss(NETWORK, **({"x": X, "y": Y} | change))


def test_bad_batch_is_refused() -> None:
    objective, theta = DatasetLoss(NETWORK, X, Y), NETWORK.init(0)
    with pytest.raises(DataError, match="got 5 at position 0"):
        objective.loss_and_grad(theta, Batch(X[:1], np.array([5])))
    with pytest.raises(DataError, match="all weights are 0"):
        objective.loss(theta, Batch(X[:1], Y[:1], np.zeros(1)))


@pytest.mark.parametrize("theta", [np.zeros(7), np.zeros(8, int)])
def test_bad_theta_is_refused(theta: np.ndarray) -> None:
    with pytest.raises(LayoutError, match="theta"):
        DatasetLoss(NETWORK, X, Y).loss_and_grad(theta)


def test_targets_without_labels_have_no_classes() -> None:
    objective = DatasetLoss(mlp((3, 2), loss="squared_error"), X, np.eye(4)[:, :2])
    with pytest.raises(DataError, match="classes need integer labels"):
        objective.by_class()
