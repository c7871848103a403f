"""The split test finds losses that are not means over examples, by what they do and not by their names."""

import numpy as np
import pytest

import lca
from lca import tolerances
from lca.errors import DataError, LCAError
from lca.frameworks import BatchwiseLoss, ModelObjective, all_rows, read_batches

RNG = np.random.default_rng(3)
N = 3000
X = RNG.normal(size=(N, 4))
Y = RNG.integers(0, 3, N)


class Classifier(BatchwiseLoss):
    """Outputs ``x W``; ``loss_fn(outputs, *rest of the batch)``; gradients by central differences."""

    layout = lca.Layout(("W",), ((4, 3),))

    def __init__(self, loss_fn, theta, batch_weight=None):
        self._loss_fn, self._theta, self._weight = loss_fn, theta, batch_weight
        self.counts_examples = batch_weight is None

    def theta(self):
        return self._theta.copy()

    def batch_weight(self, batch):
        return super().batch_weight(batch) if self._weight is None else self._weight(batch)

    def evaluate_batch(self, theta, batch, state, *, gradient):
        return self.value(theta, batch), self.gradient(theta, batch) if gradient else None

    def value(self, theta, batch):
        x, *rest = batch
        return self._loss_fn(x.astype(theta.dtype) @ theta.reshape(4, 3), *rest)

    def gradient(self, theta, batch):
        steps = 1e-3 * np.eye(12, dtype=theta.dtype)
        pairs = ((self.value(theta + s, batch), self.value(theta - s, batch)) for s in steps)
        return np.array([a - b for a, b in pairs], theta.dtype) / theta.dtype.type(2e-3)


def cross_entropies(out, y):
    top = out.max(1, keepdims=True)
    return np.log(np.exp(out - top).sum(1)) + top[:, 0] - out[np.arange(len(y)), np.maximum(y, 0)]


def mean(out, y):
    return cross_entropies(out, y).mean()


def by_class(out, y):
    weight = np.array([1.0, 1.0, 5.0])[y]
    return (weight * cross_entropies(out, y)).sum() / weight.sum()


def ignoring(out, y):
    with np.errstate(invalid="ignore"):
        return (cross_entropies(out, y) * (y >= 0)).sum() / (y >= 0).sum()


def masked(out, y, mask):
    return (cross_entropies(out, y) * mask.mean(1)).sum() / mask.mean(1).sum()


def contrastive(out, y):
    return cross_entropies(out @ out.T, np.arange(len(out))).mean()


def centred(out, y):
    return cross_entropies(out - out.mean(0), y).mean()


def recurrent(out, y):
    return cross_entropies(out.cumsum(0) / 10, y).mean()


def one_size(out, y):
    if len(out) != 1000:
        raise ValueError("this model takes batches of 1000")
    return mean(out, y)


THETA = RNG.normal(size=12)
RARE = np.where(np.arange(N) == 1234, -100, Y)
SHORT = np.where((np.arange(N) == 1234)[:, None] & (np.arange(7) > 0), 0.0, 1.0)
NO_MEAN = {
    "class weights": (by_class, (X, Y)),
    "one ignored label": (ignoring, (X, RARE)),
    "one short mask": (masked, (X, Y, SHORT)),
    "contrastive": (contrastive, (X, Y)),
    "batch statistics": (centred, (X, Y)),
    "time on the first axis": (recurrent, (X, Y)),
    "one size only": (one_size, (X, Y)),
}


def made(loss_fn, data, theta=THETA, batch_weight=None, **options):
    read = all_rows(data) if isinstance(data, tuple) else read_batches(data)
    return ModelObjective(None, Classifier(loss_fn, theta, batch_weight), read, **options)


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0], ids=["at zero", "generic", "confident"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mean_is_a_mean_wherever_it_is_tried(dtype, scale):
    objective = made(mean, (X, Y), (scale * THETA).astype(dtype))
    assert objective.is_mean
    assert objective.n_examples == N


def test_a_mean_of_fitted_examples_is_a_mean():
    x = np.eye(3)[Y] @ np.eye(3, 4)
    objective = made(mean, (x, Y), 18 * np.eye(4, 3).ravel().astype("float32"))
    assert objective.loss(objective.theta()) < 1e-6
    assert objective.is_mean


@pytest.mark.parametrize("theta", [0 * THETA, THETA, THETA.astype("float32")], ids=["0", "64", "32"])
@pytest.mark.parametrize("case", NO_MEAN)
def test_what_is_no_mean_is_found_and_its_batch_size_asked_for(case, theta):
    if case == "contrastive" and not theta.any():
        pytest.skip("all its gradients are 0 there")
    loss_fn, data = NO_MEAN[case]
    with pytest.raises(DataError, match=r"depends on the measuring batches.*pass batch_size=\.\.\."):
        made(loss_fn, data, theta)
    stated = made(loss_fn, data, theta, batch_size=1000)
    assert (stated.batch_size, stated.is_mean) == (1000, False)
    with pytest.raises(LCAError, match="cannot be drawn"):
        _ = stated.n_examples


def test_a_loss_that_is_huge_elsewhere_hides_nothing_at_theta():
    def clipped(out, y):
        return (out**2).mean() / 2 + np.clip(out.mean(), 0.0, 1.0)

    scale = np.array([1e4, 1, 1, 1])
    theta = (THETA.reshape(4, 3) / scale[:, None]).ravel().astype("float32")
    objective = made(clipped, (X * scale, Y), theta, batch_size=1000)
    assert objective.loss(theta) < 10
    assert objective.loss(np.roll(theta, -4)) > 1e7
    assert not objective.is_mean


def test_a_loss_that_is_the_rounding_of_its_terms_is_a_mean():
    x = RNG.normal(size=(300, 4)).astype("float32")
    theta = THETA.astype("float32")
    exact = x.astype(float) @ theta.astype(float).reshape(4, 3) + 7.0
    squares = lambda out, y: ((out + np.float32(7) - y) ** 2).mean()  # noqa: E731
    objective = made(squares, (x, exact.astype("float32")), theta)
    assert objective.loss(theta) < tolerances.EPS32
    assert objective.is_mean


@pytest.mark.parametrize("case", ["class weights", "one ignored label", "one short mask"])
def test_a_batch_weight_is_asked_for_where_only_that_is_missing(case):
    loss_fn, data = NO_MEAN[case]
    pieces = [tuple(array[i : i + 1000] for array in data) for i in range(0, N, 1000)]
    with pytest.raises(DataError, match="batch_weight=function of a batch: what its loss is divided by"):
        made(loss_fn, pieces)


@pytest.mark.parametrize("case", ["contrastive", "batch statistics"])
def test_batches_that_the_data_came_in_state_their_size(case):
    loss_fn, (x, y) = NO_MEAN[case]
    objective = made(loss_fn, [(x[i : i + 1000], y[i : i + 1000]) for i in range(0, N, 1000)])
    assert (objective.batch_size, objective.is_mean) == (1000, False)


def test_with_the_right_weight_it_is_a_mean_and_ignored_labels_are_no_class():
    objective = made(ignoring, (X, RARE), batch_weight=lambda batch: (batch[1] >= 0).sum())
    assert objective.is_mean
    keep = np.arange(N) != 1234
    out = X @ THETA.reshape(4, 3)
    expected = mean(out[keep], Y[keep])
    tolerance = lca.tolerances.summed(expected, lca.tolerances.EPS64)
    assert abs(objective.loss(THETA) - expected) <= tolerance
    classes = objective.by_class()
    assert list(classes.terms) == ["class 0", "class 1", "class 2"]
    assert abs(classes.loss(THETA) - expected) <= tolerance


def test_the_hint_of_a_framework_is_in_the_message():
    loss = Classifier(by_class, THETA)
    loss.weight_hint = "CrossEntropyLoss has weight=: pass batch_weight=the sum of the weights"
    with pytest.raises(DataError, match="has weight=: pass batch_weight=the sum of the weights; or, "):
        ModelObjective(None, loss, all_rows((X, Y)))


def test_a_random_loss_is_left_to_the_test_of_determinism():
    draw = np.random.default_rng(0)
    objective = made(lambda out, y: mean(out, y) * draw.uniform(0.5, 1), (X, Y))
    assert objective.is_mean


def test_coarse_arithmetic_is_allowed_its_rounding():
    coarse = lambda out, y: mean(np.round(out * 64) / 64 + 1e-3 * len(y) / N, y) * (1 + 2e-3 * (len(y) > 1))  # noqa: E731
    with pytest.raises(DataError, match="depends on the measuring batches"):
        made(coarse, (X, Y))
    loss = Classifier(coarse, THETA)
    loss.precision_eps = 2.0**-7
    assert ModelObjective(None, loss, all_rows((X, Y))).is_mean
