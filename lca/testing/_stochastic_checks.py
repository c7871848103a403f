"""The laws of stochastic estimators: declared bias, standard errors, reproducibility and cost.

A bias cannot be seen in one run. These checks therefore repeat a short training run many times with
independent batches, and test the mean error against its standard error. A correct estimator fails a check
with probability `FALSE_ALARM`; the power to detect an incorrect one grows with ``samples``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy import stats

from lca import tolerances
from lca.allocation import allocate
from lca.estimators import PathIntegral
from lca.estimators._stochastic import StochasticEstimator
from lca.layout import Layout
from lca.quadrature import TRAPEZOID
from lca.reference._optimizers import SGD, leave_one_out, update_slope
from lca.reference._training import with_next
from lca.step import ExampleScores, MicroBatch, Step
from lca.testing._laws import require
from lca.testing._report import Check
from lca.views._error_bars import ErrorBars

Array = np.ndarray
Batch = tuple[Array, Array]
FALSE_ALARM = 1e-6
"""The level of each t-test."""
RUNS_PER_SAMPLE = 10
STEPS = 5
TRAINING_BATCH = 6
"""Examples in each training batch; each step has two micro-batches of half that size."""
COUNTED_STEPS = 60
BEGINNING = 3
"""Steps at the beginning of a run, which may cost more."""


@dataclass(frozen=True, eq=False)
class SampledPolynomial:
    """``ℓ_n(θ) = c_n·θ + ½ κ_n ‖θ‖²``: a different quadratic for each example; the trapezoid is exact.

    A batch is a pair (indices, weights).

    Parameters
    ----------
    slopes
        c (N, K).
    curvatures
        κ (N,). If all are 0, the loss is linear and a rule with one node is exact.
    """

    slopes: Array
    curvatures: Array
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(("theta",), (self.slopes.shape[1:],)))

    @classmethod
    def random(cls, *, curved: bool, seed: int = 0) -> Self:
        """N = 40 random examples and K = 3 parameters; κ_n = 0 unless ``curved``."""
        rng = np.random.default_rng(seed)
        curvatures = rng.gamma(2.0, size=40) if curved else np.zeros(40)
        return cls(rng.normal(0.3, 1.0, size=(40, 3)), curvatures)

    @property
    def n_examples(self) -> int:
        return len(self.slopes)

    @property
    def weight(self) -> None:
        return None

    @property
    def labels(self) -> Array:
        return np.arange(self.n_examples) % 2

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        return index, np.ones(len(index)) if weight is None else weight

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self.layout.check(theta, "theta")
        index, weight = self.batch(np.arange(self.n_examples)) if batch is None else batch
        share = weight / weight.sum()
        slope, curvature = share @ self.slopes[index], share @ self.curvatures[index]
        return float(slope @ theta + curvature * (theta @ theta) / 2), slope + curvature * theta

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        index = np.arange(self.n_examples) if batch is None else batch[0]
        grads = self.slopes[index] + self.curvatures[index, None] * theta
        scores: Array = np.abs(grads).sum(axis=1)
        return scores


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of many runs.

    Attributes
    ----------
    errors
        Estimate minus true allocation, (runs, STEPS, K).
    stderrs
        Stated standard errors of these values, (runs, STEPS, K), or ``None`` if the estimator states none.
    run_stderrs
        Stated standard errors of the sums over the steps of a run, (runs, K), or ``None``.
    """

    errors: Array
    stderrs: Array | None
    run_stderrs: Array | None


STOCHASTIC_CHECKS: list[Check] = []
Law = Callable[[StochasticEstimator, int, int], None]


def law(applies: Callable[[Any], bool]) -> Callable[[Law], Law]:
    """Register a statistical law for the stochastic estimators that satisfy ``applies``."""

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
    """The mean error of each parameter's total over many runs is zero (t-test, level 1e-6)."""
    totals = _errors(estimator, samples, seed).errors.sum(axis=1)
    _require_zero_mean(totals, "the error of the total")


@law(lambda estimator: True)
def standard_errors_are_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Stated standard errors have the mean square of the actual errors (t-test, level 1e-6)."""
    found = _errors(estimator, samples, seed)
    if found.stderrs is None:
        return
    excess = found.errors**2 - found.stderrs**2
    _require_zero_mean(excess.sum(axis=1), "error² - stderr²")


@law(lambda estimator: True)
def standard_errors_of_sums_are_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """The same for sums over steps, although neighbouring steps share samples (t-test, level 1e-6)."""
    found = _errors(estimator, 2 * samples, seed)  # correlations are harder to detect: twice the runs
    if found.run_stderrs is None:
        return
    excess = found.errors.sum(axis=1) ** 2 - found.run_stderrs**2
    # The sum over parameters has more power than the test of the worst parameter.
    _require_zero_mean(excess.sum(axis=1, keepdims=True), "error² - stderr² of sums over a run")


@law(lambda estimator: True)
def same_seed_same_values(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Two runs with the same seed and the same batches are bitwise equal."""
    one, other = (_one_run(estimator, run_seed=seed)[0] for _ in range(2))
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        require(np.array_equal(a, b), f"step {step}: the same seed gave different values.")


@law(lambda estimator: True)
def spends_no_more_than_it_declares(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """The mean cost per step, after the first three, is at most the declared cost.

    A gradient on n examples counts as n divided by the size of the training batch.
    """
    meter = ExampleCounter(SampledPolynomial.random(curved=estimator.degree >= 1))
    allocate_step = estimator.reseeded(seed).start(meter)
    spent = []
    for step in _train(meter.objective, np.random.default_rng(seed), steps=COUNTED_STEPS + BEGINNING):
        before = meter.examples
        allocate_step(step)
        spent.append((meter.examples - before) / TRAINING_BATCH)
    cost, found = estimator.cost, float(np.mean(spent[BEGINNING:]))
    examples = cost.full_gradients * meter.n_examples + cost.examples
    declared = cost.batch_gradients + examples / TRAINING_BATCH
    # Work that is done every n-th step may occur once more often than on average.
    once_more = (max(spent) - min(spent[BEGINNING:])) / COUNTED_STEPS
    require(
        found <= declared + once_more + tolerances.summed(declared, tolerances.EPS64),
        f"a step took {found:.3g} training-batch gradients, but {declared:.3g} are declared ({cost}).",
    )


@dataclass(eq=False)
class ExampleCounter:
    """Counts the examples whose gradients are evaluated."""

    objective: SampledPolynomial
    examples: int = 0

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    @property
    def n_examples(self) -> int:
        return self.objective.n_examples

    @property
    def weight(self) -> None:
        return self.objective.weight

    @property
    def labels(self) -> Array:
        return self.objective.labels

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        return self.objective.batch(index, weight)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self.examples += self.n_examples if batch is None else len(batch[0])
        return self.objective.loss_and_grad(theta, batch)

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        return self.objective.scores(theta, batch)


def _require_zero_mean(samples: Array, what: str) -> None:
    """Student's t-test for each column, at the level `FALSE_ALARM` for all of them together."""
    runs, columns = samples.shape
    spread = samples.std(axis=0, ddof=1) / np.sqrt(runs)
    # Where nothing varies, a mean that is not 0 is rounding or bias: more than 1e-9 counts as bias.
    t = samples.mean(axis=0) / np.maximum(spread, 1e-9)
    limit = float(stats.t.isf(FALSE_ALARM / (2 * columns), runs - 1))
    worst = int(np.argmax(np.abs(t)))
    of = f" of parameter {worst}" if columns > 1 else ""
    require(
        bool(abs(t[worst]) <= limit),
        f"over {runs} runs the mean of {what}{of} is {samples[:, worst].mean():.3g}, "
        f"{abs(t[worst]):.1f} standard errors from 0 (limit {limit:.1f}).",
    )


def _errors(estimator: StochasticEstimator, samples: int, seed: int) -> Errors:
    """The errors of ``RUNS_PER_SAMPLE · samples`` independent runs."""
    seeds = range(RUNS_PER_SAMPLE * samples)
    runs = [_one_run(estimator, run_seed=seed * 10_000_019 + i) for i in seeds]
    errors, stderrs, run_stderrs = zip(*runs, strict=True)
    return Errors(
        np.array(errors),
        None if stderrs[0] is None else np.array(stderrs),
        None if run_stderrs[0] is None else np.array(run_stderrs),
    )


def _one_run(estimator: StochasticEstimator, *, run_seed: int) -> tuple[Array, Array | None, Array | None]:
    """Errors of one run (STEPS, K), and the stated standard errors of its values and of their sum."""
    objective = SampledPolynomial.random(curved=estimator.degree >= 1)
    steps = list(_train(objective, np.random.default_rng(run_seed)))
    truth = [a.values for a in allocate(objective, steps, PathIntegral(TRAPEZOID), check=False)]
    values, stderrs, bars = [], [], ErrorBars(_ONE_GROUP_PER_PARAMETER)
    for a in allocate(objective, steps, estimator.reseeded(run_seed), check=False):
        values.append(a.values)
        stderrs.append(a.stderr)
        if a.replicates:
            bars.update(a)
    errors = np.array(values) - np.array(truth)
    if len(bars):
        return errors, bars.per_step(), bars.stderr()
    return errors, None if stderrs[0] is None else np.array(stderrs), None


_ONE_GROUP_PER_PARAMETER = Layout(("a", "b", "c"), ((), (), ())).groups("tensor")


def _train(objective: SampledPolynomial, rng: np.random.Generator, *, steps: int = STEPS) -> Iterator[Step]:
    """SGD with momentum on small batches, drawn independently with replacement; steps have every field."""
    return with_next(_steps(objective, rng, steps + 1))


def _steps(objective: SampledPolynomial, rng: np.random.Generator, steps: int) -> Iterator[Step]:
    theta, sgd = np.ones(objective.layout.size), SGD(0.05, momentum=0.5)
    state = sgd.init(theta)
    for index in range(steps):
        examples = rng.integers(objective.n_examples, size=TRAINING_BATCH)
        batch = objective.batch(examples)
        scores = ExampleScores(examples, objective.scores(theta, batch))
        halves = [objective.batch(half) for half in np.split(examples, 2)]
        grads = [objective.loss_and_grad(theta, half)[1] for half in halves]
        grad = (grads[0] + grads[1]) / 2
        micro_batches = tuple(map(MicroBatch, grads, leave_one_out(sgd, state, grads, theta)))
        slope = update_slope(sgd, state, grad, theta)
        state, delta = sgd.update(state, grad, theta)
        fields = {"gradient": grad, "micro_batches": micro_batches, "scores": scores, "update_slope": slope}
        yield Step(theta, theta + delta, index, batch, **fields)
        theta = theta + delta
