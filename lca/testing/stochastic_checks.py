"""The laws of stochastic estimators: unbiased if they say so, honest standard errors, reproducible.

Whether a mean is off cannot be seen in one run, so these checks repeat a small training run many times,
each with its own batches, and test the mean error against its spread. The chance that a right estimator
is refused is `FALSE_ALARM` a check; what a wrong one has to fear grows with ``samples``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from scipy import stats

from lca.allocation import Estimator, StepAllocation, allocate
from lca.estimators import PathIntegral
from lca.layout import Layout
from lca.objective import Objective
from lca.quadrature import TRAPEZOID
from lca.step import Step
from lca.testing import tolerances
from lca.testing.laws import require
from lca.testing.report import Check

Array = np.ndarray
FALSE_ALARM = 1e-6
RUNS_PER_SAMPLE = 10
STEPS = 3
TRAINING_BATCH = 5
"""Examples in each training batch of these runs."""


@runtime_checkable
class StochasticEstimator(Estimator, Protocol):
    """An estimator whose values depend on batches or on samples of its own."""

    @property
    def unbiased(self) -> bool:
        """Whether the mean of the values is the full-data allocation, up to the declared degree."""

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other random numbers; itself, if it draws none."""


@runtime_checkable
class SampledObjective(Objective, Protocol):
    """An objective that is a mean over examples, any of which can be asked for as a batch."""

    @property
    def n_examples(self) -> int:
        """How many examples there are."""

    def batch(self, index: Array) -> Any:
        """The batch that consists of these examples, repeats included."""


@dataclass(frozen=True, eq=False)
class SampledPolynomial:
    """``ℓ_n(θ) = c_n·θ + ½ κ_n ‖θ‖²``: examples that disagree, for which the trapezoid is exact.

    With ``curved=False`` every κ_n is 0, and even one end of a step is. A batch is an array of indices.
    """

    slopes: Array
    curvatures: Array
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(("theta",), (self.slopes.shape[1:],)))

    @classmethod
    def random(cls, *, curved: bool, seed: int = 0) -> Self:
        """Forty examples of three parameters."""
        rng = np.random.default_rng(seed)
        curvatures = rng.gamma(2.0, size=40) if curved else np.zeros(40)
        return cls(rng.normal(0.3, 1.0, size=(40, 3)), curvatures)

    @property
    def n_examples(self) -> int:
        return len(self.slopes)

    def batch(self, index: Array) -> Array:
        return index

    def loss(self, theta: Array, batch: Array | None = None) -> float:
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta: Array, batch: Array | None = None) -> tuple[float, Array]:
        self.layout.check(theta, "theta")
        index = slice(None) if batch is None else batch
        slope, curvature = self.slopes[index].mean(axis=0), self.curvatures[index].mean()
        return float(slope @ theta + curvature * (theta @ theta) / 2), slope + curvature * theta


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors and standard errors of every run, each (runs, STEPS, K)."""

    errors: Array
    stderrs: Array | None


STOCHASTIC_CHECKS: list[Check] = []
Law = Callable[[StochasticEstimator, int, int], None]


def law(applies: Callable[[Any], bool]) -> Callable[[Law], Law]:
    """Register a statistical law for the estimators it is meant for."""

    def register(function: Law) -> Law:
        STOCHASTIC_CHECKS.append(
            Check(
                function.__name__,
                function,
                None,
                lambda estimator: isinstance(estimator, StochasticEstimator) and applies(estimator),
            )
        )
        return function

    return register


@law(lambda estimator: estimator.unbiased)
def mean_is_the_full_data_allocation(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Over many runs the mean error of every parameter's total is zero (t-test, level 1e-6)."""
    totals = _errors(estimator, samples, seed).errors.sum(axis=1)
    _require_zero_mean(totals, "the error of the total")


@law(lambda estimator: True)
def standard_errors_are_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """If there are standard errors, their mean square is that of the errors (t-test, level 1e-6)."""
    found = _errors(estimator, samples, seed)
    if found.stderrs is None:
        return
    excess = found.errors**2 - found.stderrs**2
    _require_zero_mean(excess.sum(axis=1), "error² - stderr²")


@law(lambda estimator: True)
def same_seed_same_values(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Two runs with the same seed and batches agree bit for bit."""
    one, other = (_one_run(estimator, run_seed=seed)[0] for _ in range(2))
    for a, b in zip(one, other, strict=True):
        require(np.array_equal(a.values, b.values), f"step {a.step}: the same seed gave other values.")


@law(lambda estimator: True)
def spends_no_more_than_it_declares(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Gradients a step, once a run is under way, in units of a gradient on the training batch.

    A gradient on n examples counts as n over the size of the training batch.
    """
    meter = Metered(SampledPolynomial.random(curved=estimator.degree >= 1))
    allocate_step = estimator.reseeded(seed).start(meter)
    spent = []
    for step in _train(meter.objective, np.random.default_rng(seed), steps=4 * STEPS):
        before = meter.examples
        allocate_step(step)
        spent.append((meter.examples - before) / TRAINING_BATCH)
    cost, found = estimator.cost, float(np.mean(spent[1:]))
    declared = cost.batch_gradients + cost.full_gradients * meter.n_examples / TRAINING_BATCH
    require(
        found <= declared + tolerances.summed(declared, tolerances.EPS64),
        f"a step took {found:.3g} training-batch gradients, {declared:.3g} are declared ({cost}).",
    )


@dataclass(eq=False)
class Metered:
    """Counts the examples whose gradients are asked for."""

    objective: SampledPolynomial
    examples: int = 0

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    @property
    def n_examples(self) -> int:
        return self.objective.n_examples

    def batch(self, index: Array) -> Array:
        return self.objective.batch(index)

    def loss(self, theta: Array, batch: Array | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Array | None = None) -> tuple[float, Array]:
        self.examples += self.n_examples if batch is None else len(batch)
        return self.objective.loss_and_grad(theta, batch)


def _require_zero_mean(samples: Array, what: str) -> None:
    """Student's t-test for each column, at `FALSE_ALARM` for all of them together."""
    runs, columns = samples.shape
    spread = samples.std(axis=0, ddof=1) / np.sqrt(runs)
    # Where nothing varies, whatever is left is rounding or it is bias: anything above 1e-9 counts as bias.
    t = samples.mean(axis=0) / np.maximum(spread, 1e-9)
    limit = float(stats.t.isf(FALSE_ALARM / (2 * columns), runs - 1))
    worst = int(np.argmax(np.abs(t)))
    require(
        bool(abs(t[worst]) <= limit),
        f"over {runs} runs the mean of {what} of parameter {worst} is {samples[:, worst].mean():.3g}, "
        f"{abs(t[worst]):.1f} standard errors from 0 (limit {limit:.1f}).",
    )


def _errors(estimator: StochasticEstimator, samples: int, seed: int) -> Errors:
    """Estimate minus truth over ``RUNS_PER_SAMPLE · samples`` independent runs."""
    runs = [_one_run(estimator, run_seed=seed * 10_000_019 + i) for i in range(RUNS_PER_SAMPLE * samples)]
    errors = [[a.values - b.values for a, b in zip(*run, strict=True)] for run in runs]
    stderrs = [[a.stderr for a in estimated] for estimated, _ in runs]
    return Errors(np.array(errors), None if stderrs[0][0] is None else np.array(stderrs))


def _one_run(
    estimator: StochasticEstimator, *, run_seed: int
) -> tuple[list[StepAllocation], list[StepAllocation]]:
    """The estimator's allocations of one training run, and the full-data ones."""
    objective = SampledPolynomial.random(curved=estimator.degree >= 1)
    steps = list(_train(objective, np.random.default_rng(run_seed)))
    estimated = allocate(objective, steps, estimator.reseeded(run_seed), check=False)
    return list(estimated), list(allocate(objective, steps, PathIntegral(TRAPEZOID), check=False))


def _train(objective: SampledPolynomial, rng: np.random.Generator, *, steps: int = STEPS) -> Iterator[Step]:
    """Gradient descent on small batches, drawn independently with replacement."""
    theta = np.ones(objective.layout.size)
    for index in range(steps):
        batch = objective.batch(rng.integers(objective.n_examples, size=TRAINING_BATCH))
        end = theta - 0.2 * objective.loss_and_grad(theta, batch)[1]
        yield Step(theta, end, index, batch)
        theta = end
