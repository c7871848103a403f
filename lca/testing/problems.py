"""Small test problems by name, many of them with known allocations.

A `Problem` is an objective and a path. Documentation, tests and validation use the same problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.errors import UnknownNameError
from lca.layout import Layout
from lca.objective import Objective
from lca.reference._data import Batch
from lca.reference._models import (
    Bilinear,
    CrossEntropy,
    DatasetLoss,
    Network,
    Quartic,
    ReluKink,
    bowl,
    mlp,
    saddle,
)
from lca.step import Step

__all__ = [
    "PROBLEMS",
    "Problem",
    "RidgePolynomial",
    "make_problem",
    "network",
    "random_batch",
    "random_path",
    "ridge",
]

_Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """An objective, a path, and what is known about its allocations.

    Attributes
    ----------
    name
        The name, for messages.
    objective
        The measured loss.
    points
        The path θ_0, ..., θ_T, shape (T + 1, K).
    degree
        If the loss is a polynomial along every segment, its degree; otherwise ``None``.
    exact
        A function of ``start`` and ``end`` that returns the allocation (K,) in closed form, if it is known.
    scale
        A function of ``start`` and ``end`` that returns the sum of the absolute values of all terms of the
        allocation, if it is known. Rounding is proportional to it; where terms of one gradient cancel, it
        exceeds the mass.
    loss_scale
        A function of a point that returns the same for the loss there.
    first
        The index of the first step.
    skipped
        Numbers of the steps that are not measured, so that the next one does not start at the last end.
    counted
        Whether the measured steps have consecutive indices, even if steps between them are skipped.

    Examples
    --------
    >>> from lca.reference import Quadratic
    >>> Problem("a quadratic", Quadratic(np.eye(2)), np.array([[1.0, 0.0], [0.0, 0.0]]), degree=2)
    Problem('a quadratic', K=2, steps=1, float64)
    """

    name: str
    objective: Objective
    points: _Array
    degree: int | None = None
    exact: Callable[[_Array, _Array], _Array] | None = None
    scale: Callable[[_Array, _Array], float] | None = None
    loss_scale: Callable[[_Array], float] | None = None
    first: int = 0
    skipped: frozenset[int] = frozenset()
    counted: bool = False

    @property
    def trajectory(self) -> Sequence[Step]:
        """The measured steps of the path, with vectors of their own."""
        measured = [t for t in range(len(self.points) - 1) if t not in self.skipped]
        return [
            Step(self.points[t].copy(), self.points[t + 1].copy(), self.first + (n if self.counted else t))
            for n, t in enumerate(measured)
        ]

    def __repr__(self) -> str:
        steps, k = len(self.points) - 1, self.points.shape[1]
        skipped = f", skipped={sorted(self.skipped)}" if self.skipped else ""
        first = f", first={self.first}" if self.first else ""
        return f"Problem({self.name!r}, K={k}, steps={steps}{first}{skipped}, {self.points.dtype})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print a short form for Hypothesis, which lists all numbers by default."""
        printer.text(repr(self))


@dataclass(frozen=True, eq=False)
class RidgePolynomial:
    """``L(θ) = Σ_j (a_j·θ)^p / p``: a polynomial of any degree p that couples all parameters.

    With ``u_j = a_j·θ`` at the start of a step and ``v_j = a_j·θ'`` at its end, the allocation is
    ``A_i = Δ_i Σ_j a_{j,i} (1/p) Σ_{k<p} v_j^k u_j^{p-1-k}``, because
    ``∫₀¹ (u + s(v-u))^{p-1} ds = (v^p - u^p) / (p (v-u))``. The sum over k avoids the division by v - u.

    Parameters
    ----------
    directions
        The vectors a_j as rows, (J, K).
    power
        p ≥ 1.
    layout
        The tensors of θ; by default two of about equal size.

    Examples
    --------
    >>> RidgePolynomial(np.eye(2), 2).loss(np.array([3.0, 4.0]))
    12.5
    """

    directions: _Array
    power: int
    layout: Layout = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.layout is None:
            half = self.directions.shape[1] // 2
            shapes = ((half,), (self.directions.shape[1] - half,))
            object.__setattr__(self, "layout", Layout(("a.weight", "b.weight"), shapes))

    def loss(self, theta: _Array, batch: Batch | None = None) -> float:
        self.layout.check(theta, "theta")
        return float(np.sum((self.directions @ theta) ** self.power) / self.power)

    def loss_and_grad(self, theta: _Array, batch: Batch | None = None) -> tuple[float, _Array]:
        loss = self.loss(theta)
        slope = (self.directions @ theta) ** (self.power - 1)
        return loss, (slope @ self.directions).astype(theta.dtype, copy=False)

    def exact_allocation(self, start: _Array, end: _Array) -> _Array:
        u, v = self.directions @ start, self.directions @ end
        mean_slope = sum(v**k * u ** (self.power - 1 - k) for k in range(self.power)) / self.power
        allocation: _Array = (end - start) * (mean_slope @ self.directions)
        return allocation

    def scale(self, start: _Array, end: _Array) -> float:
        """``Σ_{i,j} |Δ_i a_{j,i}| U_j^{p-1}``, where U_j is the largest of |u_j|, |v_j| and rounding's part.

        u_j is a sum of K terms, so its rounding is proportional to their root mean square and not to u_j.
        """
        ends = np.abs(self.directions @ np.stack([start, end]).T).max(axis=1)
        terms = np.sqrt(self.directions**2 @ np.maximum(start**2, end**2))
        slopes = np.maximum(ends, terms) ** (self.power - 1)
        return float(slopes @ np.abs(self.directions) @ np.abs(end - start))

    def loss_scale(self, theta: _Array) -> float:
        """``Σ_j U_j^p / p``."""
        u, terms = np.abs(self.directions @ theta), np.sqrt(self.directions**2 @ theta**2)
        return float(np.sum(np.maximum(u, terms) ** self.power) / self.power)


def ridge(seed: int, power: int, *, size: int = 6, steps: int = 3) -> Problem:
    """A random `RidgePolynomial` of degree ``power`` in ``size`` parameters, and a random path.

    Parameters
    ----------
    seed
        The seed of the random numbers.
    power
        The degree of the polynomial.
    size
        The number of parameters K.
    steps
        The number of steps of the path.

    Examples
    --------
    >>> ridge(0, power=3, size=4).points.shape
    (4, 4)
    """
    rng = np.random.default_rng(seed)
    objective = RidgePolynomial(rng.normal(size=(4, size)) / np.sqrt(size), power)
    return _problem(f"ridge{power}", objective, rng, steps, power)


def network(
    seed: int,
    *,
    activation: str = "tanh",
    sizes: tuple[int, ...] = (3, 4, 2),
    steps: int = 3,
    scale: float = 0.3,
    batch_size: int = 5,
) -> Problem:
    """A random MLP classifier on 17 random examples, and a random walk of its parameters; no closed form.

    Parameters
    ----------
    seed
        The seed of the random numbers.
    activation
        The activation function of the hidden layers: ``"tanh"`` or ``"relu"``.
    sizes
        The widths of the layers, from features to classes.
    steps
        The number of steps of the path.
    scale
        The standard deviation of the movement of a parameter in a step.
    batch_size
        Examples that are evaluated together.

    Examples
    --------
    >>> network(0).degree is None
    True
    """
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(17, sizes[0])), rng.integers(sizes[-1], size=17)
    model = mlp(sizes, activation=activation)  # type: ignore[arg-type]
    objective = DatasetLoss(model, x, y, batch_size=batch_size)  # 17 = 3·5 + 2: the last chunk is smaller
    points = model.init(seed) + np.cumsum(scale * rng.normal(size=(steps + 1, model.layout.size)), axis=0)
    return Problem(f"{activation} network {sizes}", objective, points)


def random_batch(network: Network, seed: int, n: int = 17, *, weighted: bool = False) -> Batch:
    """Random data: n examples and targets that fit ``network``; all numbers are exact in float32 as well.

    Parameters
    ----------
    network
        A model of `lca.reference`.
    seed
        The seed of the random numbers.
    n
        The number of examples.
    weighted
        Whether the examples have random weights.

    Examples
    --------
    >>> from lca.reference import logistic_regression
    >>> len(random_batch(logistic_regression(2, 3), seed=0, n=5))
    5
    """
    rng = np.random.default_rng(seed)
    x = _single(rng.normal(size=(n, *network.input_shape)))
    if isinstance(network.loss, CrossEntropy):
        y = rng.integers(network.n_outputs, size=n)
    else:
        y = _single(rng.normal(size=(n, network.n_outputs)))
    return Batch(x, y, _single(rng.uniform(0.5, 2.0, size=n)) if weighted else None)


def random_path(layout: Layout, seed: int, steps: int, *, start: _Array | None = None) -> _Array:
    """A random walk (steps + 1, K) that begins near ``start``; float64, and exact in float32 as well.

    By default it begins at random parameters near 0, scaled by the fan-in of each tensor.

    Parameters
    ----------
    layout
        Names and shapes of the parameters.
    seed
        The seed of the random numbers.
    steps
        The number of steps.
    start
        The point (K,) near which the path begins.

    Examples
    --------
    >>> random_path(Layout(("w",), ((2, 3),)), seed=0, steps=4).shape
    (5, 6)
    """
    rng = np.random.default_rng(seed)
    if start is None:
        fan_in = [np.prod(shape[1:]) for shape in layout.shapes]
        start = rng.normal(size=layout.size) / np.sqrt(np.repeat(fan_in, layout.sizes))
    return _single(start + np.cumsum(0.2 * rng.normal(size=(steps + 1, layout.size)), axis=0))


def _single(numbers: _Array) -> _Array:
    return numbers.astype(np.float32).astype(np.float64)


def _problem(name: str, objective: Objective, rng: np.random.Generator, steps: int, degree: int) -> Problem:
    points = rng.normal(size=(steps + 1, objective.layout.size))
    exact = objective.exact_allocation  # type: ignore[attr-defined]
    scale, loss_scale = (getattr(objective, name, None) for name in ("scale", "loss_scale"))
    return Problem(name, objective, points, degree, exact, scale, loss_scale)


def _bowl(seed: int) -> Problem:
    return _problem("bowl", bowl(5), np.random.default_rng(seed), 3, 2)


def _saddle(seed: int) -> Problem:
    return _problem("saddle", saddle(4), np.random.default_rng(seed), 3, 2)


def _bilinear(seed: int) -> Problem:
    return _problem("bilinear", Bilinear(3), np.random.default_rng(seed), 3, 2)


def _quartic(seed: int) -> Problem:
    return _problem("quartic", Quartic([1.0, 2.0, 0.5]), np.random.default_rng(seed), 3, 4)


def _relu_kink(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    objective = ReluKink(rng.normal(size=4), 0.1)
    points = rng.normal(size=(4, 4))
    return Problem("relu kink", objective, points, None, objective.exact_allocation)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "bowl": _bowl,
    "saddle": _saddle,
    "bilinear": _bilinear,
    "quartic": _quartic,
    "relu kink": _relu_kink,
    "ridge cubic": lambda seed: ridge(seed, 3),
    "tanh network": network,
    "relu network": lambda seed: network(seed, activation="relu"),
}
"""The problems of `make_problem` by name: from a seed to a `Problem`."""


def make_problem(name: str, seed: int = 0) -> Problem:
    """Create the problem ``name``, with random numbers drawn from ``seed``.

    Parameters
    ----------
    name
        ``"bowl"``, ``"saddle"``, ``"bilinear"``, ``"quartic"``, ``"relu kink"`` and ``"ridge cubic"`` have
        closed-form allocations; ``"tanh network"`` and ``"relu network"`` do not.
    seed
        The same seed gives the same problem.

    Raises
    ------
    UnknownNameError
        If there is no problem of this name; the message lists the names.

    Examples
    --------
    >>> problem = make_problem("quartic")
    >>> start, end = problem.points[:2]
    >>> exact = problem.exact(start, end)
    >>> change = problem.objective.loss(end) - problem.objective.loss(start)
    >>> bool(np.isclose(exact.sum(), change))
    True
    """
    if name not in PROBLEMS:
        raise UnknownNameError("problem", name, PROBLEMS)
    return PROBLEMS[name](seed)
