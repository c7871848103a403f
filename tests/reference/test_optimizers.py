"""Each optimizer against a textbook loop over Python numbers."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import tolerances
from lca.errors import LCAError, UnknownNameError
from lca.reference import SGD, Adam, AdamW, Optimizer, RMSProp, leave_one_out, make_optimizer
from lca.testing.strategies import seeds

Update = Callable[[float, float], float]


def sgd(lr: float, momentum: float, *, nesterov: bool) -> Update:
    """θ, g -> next θ; the velocity is the first gradient, then μ v + g."""
    history: list[float] = []

    def update(theta: float, grad: float) -> float:
        history.append(grad)
        velocity = sum(momentum ** (len(history) - 1 - k) * g for k, g in enumerate(history))
        return theta - lr * (grad + momentum * velocity if nesterov else velocity)

    return update


def rmsprop(lr: float, alpha: float, eps: float) -> Update:
    v = 0.0

    def update(theta: float, grad: float) -> float:
        nonlocal v
        v = alpha * v + (1 - alpha) * grad**2
        return theta - lr * grad / (math.sqrt(v) + eps)

    return update


def adam(lr: float, beta1: float, beta2: float, eps: float, decay: float = 0.0) -> Update:
    m = v = 0.0
    t = 0

    def update(theta: float, grad: float) -> float:
        nonlocal m, v, t
        t += 1
        theta *= 1 - lr * decay
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        return theta - lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)

    return update


PAIRS: list[tuple[Optimizer, Callable[[], Update]]] = [
    (SGD(0.1), lambda: sgd(0.1, 0.0, nesterov=False)),
    (SGD(0.1, momentum=0.8), lambda: sgd(0.1, 0.8, nesterov=False)),
    (SGD(0.1, momentum=0.8, nesterov=True), lambda: sgd(0.1, 0.8, nesterov=True)),
    # A large eps reveals whether it is added before or after the root and the bias correction.
    (RMSProp(0.05, alpha=0.7, eps=0.3), lambda: rmsprop(0.05, 0.7, 0.3)),
    (Adam(0.05, beta1=0.7, beta2=0.8, eps=0.3), lambda: adam(0.05, 0.7, 0.8, 0.3)),
    (AdamW(0.05, beta1=0.7, beta2=0.8, eps=0.3, weight_decay=0.4), lambda: adam(0.05, 0.7, 0.8, 0.3, 0.4)),
]


def path(optimizer: Optimizer, theta: np.ndarray, grads: np.ndarray) -> Iterator[np.ndarray]:
    state = optimizer.init(theta)
    for grad in grads:
        state, delta = optimizer.update(state, grad, theta)
        theta = theta + delta
        yield theta


@pytest.mark.parametrize(("optimizer", "textbook"), PAIRS)
@given(seed=seeds, dtype=st.sampled_from([np.float32, np.float64]))
def test_optimizer_equals_the_textbook(
    optimizer: Optimizer, textbook: Callable[[], Update], seed: int, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    start, grads = rng.normal(size=3).astype(dtype), rng.normal(size=(6, 3)).astype(dtype)
    updates, expected = [textbook() for _ in start], [float(value) for value in start]
    mass = np.abs(start)  # all movements are summed, and may cancel
    for theta, grad in zip(path(optimizer, start, grads), grads, strict=True):
        before = expected
        expected = [f(t, float(g)) for f, t, g in zip(updates, before, grad, strict=True)]
        mass = mass + np.abs(np.subtract(expected, before)) + np.abs(grad)
        assert theta.dtype == dtype
        for i in range(3):
            tolerance = tolerances.summed(float(mass[i]), float(np.finfo(dtype).eps))
            assert abs(float(theta[i]) - expected[i]) <= tolerance


@pytest.mark.parametrize(("optimizer", "_textbook"), PAIRS)
def test_updates_are_pure(optimizer: Optimizer, _textbook: object) -> None:
    theta, grads = np.array([1.0, -2.0]), np.array([[0.5, 1.5], [2.0, -1.0]])
    copies = theta.copy(), grads.copy()
    state, _ = optimizer.update(optimizer.init(theta), grads[0], theta)
    once = optimizer.update(state, grads[1], theta)[1]
    again = optimizer.update(state, grads[1], theta)[1]  # the same state gives the same update
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(theta, copies[0])
    np.testing.assert_array_equal(grads, copies[1])


class Number:
    """A number that supports only the arithmetic that every array type has."""

    def __init__(self, value: float) -> None:
        self.value = value

    def _map(self, other: object, f: Callable[[float, float], float]) -> "Number":
        return Number(f(self.value, other.value if isinstance(other, Number) else other))

    def __add__(self, other: object) -> "Number":
        return self._map(other, lambda a, b: a + b)

    def __sub__(self, other: object) -> "Number":
        return self._map(other, lambda a, b: a - b)

    def __mul__(self, other: object) -> "Number":
        return self._map(other, lambda a, b: a * b)

    def __truediv__(self, other: object) -> "Number":
        return self._map(other, lambda a, b: a / b)

    def __pow__(self, other: float) -> "Number":
        return self._map(other, lambda a, b: a**b)

    __rmul__ = __mul__


@pytest.mark.parametrize(("optimizer", "_textbook"), PAIRS)
def test_only_arithmetic_is_used(optimizer: Optimizer, _textbook: object) -> None:
    theta, grad = Number(2.0), Number(-0.5)
    _, delta = optimizer.update(optimizer.init(theta), grad, theta)
    as_array = optimizer.update(optimizer.init(np.array([2.0])), np.array([-0.5]), np.array([2.0]))[1]
    assert delta.value == as_array[0]


@pytest.mark.parametrize(("optimizer", "textbook"), PAIRS)
@given(seed=seeds, micro_batches=st.integers(2, 4), before=st.integers(0, 3))
def test_leave_one_out_equals_an_update_on_the_other_micro_batches(
    optimizer: Optimizer, textbook: Callable[[], Update], seed: int, micro_batches: int, before: int
) -> None:
    rng = np.random.default_rng(seed)
    start, grads = rng.normal(size=3), rng.normal(size=(before, 3))
    pieces, sizes = rng.normal(size=(micro_batches, 3)), rng.integers(1, 5, size=micro_batches)
    theta, state, copies = (
        start,
        optimizer.init(start),
        [[textbook() for _ in start] for _ in range(micro_batches)],
    )
    points, mass = [start] * micro_batches, np.abs(start)
    for grad in grads:
        state, delta = optimizer.update(state, grad, theta)
        theta, mass = theta + delta, mass + np.abs(delta) + np.abs(grad)
        points = [_all(copy, p, grad) for copy, p in zip(copies, points, strict=True)]
    updates = leave_one_out(optimizer, state, list(pieces), theta, sizes=list(sizes))
    assert len(updates) == micro_batches
    for m, update in enumerate(updates):
        others = np.arange(micro_batches) != m
        end = _all(copies[m], points[m], np.average(pieces[others], axis=0, weights=sizes[others]))
        scale = mass + np.abs(pieces).sum(axis=0) + np.abs(end)
        for i in range(3):
            limit = tolerances.summed(float(scale[i]), tolerances.EPS64)
            assert abs(theta[i] + update[i] - end[i]) <= limit


def _all(updates: list[Update], theta: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return np.array([f(float(t), float(g)) for f, t, g in zip(updates, theta, grad, strict=True)])


def test_leave_one_out_needs_two_micro_batches_and_their_sizes() -> None:
    theta, sgd = np.zeros(2), SGD(0.1)
    with pytest.raises(LCAError, match="at least two micro-batches, got 1"):
        leave_one_out(sgd, sgd.init(theta), [theta], theta)
    with pytest.raises(LCAError, match=r"2 micro-batches need as many sizes > 0, got \[1.0, 0.0\]"):
        leave_one_out(sgd, sgd.init(theta), [theta, theta], theta, sizes=[1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", SGD(0.3)),
        ("momentum", SGD(0.3, momentum=0.9)),
        ("nesterov", SGD(0.3, momentum=0.9, nesterov=True)),
        ("rmsprop", RMSProp(0.3)),
        ("adam", Adam(0.3)),
        ("adamw", AdamW(0.3)),
    ],
)
def test_make_optimizer(name: str, expected: Optimizer) -> None:
    assert make_optimizer(name, 0.3) == expected
    assert type(make_optimizer(name)) is type(expected)


def test_unknown_optimizer_lists_the_known() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown optimizer 'adamm'; known: adam, adamw, .*Did you mean"
    ):
        make_optimizer("adamm")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), "lr must be a finite number > 0, got 0.0"),
        (lambda: SGD(float("nan")), "lr must be"),
        (lambda: SGD(0.1, momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: SGD(0.1, nesterov=True), "Nesterov momentum needs momentum"),
        (lambda: RMSProp(0.1, alpha=-0.1), "alpha must be in"),
        (lambda: RMSProp(0.1, eps=0.0), "eps must be"),
        (lambda: Adam(0.1, beta1=1.0), "beta1 must be in"),
        (lambda: Adam(0.1, beta2=1.5), "beta2 must be in"),
        (lambda: AdamW(float("inf")), "lr must be"),
        (lambda: AdamW(0.1, weight_decay=-1.0), "weight_decay must be a finite number ≥ 0, got -1.0"),
        (lambda: make_optimizer("adam", 0.0), "lr must be a finite number > 0"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(LCAError, match=message):
        make()
