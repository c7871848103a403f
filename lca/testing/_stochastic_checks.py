"""The laws that hold for stochastic estimators only: bias, standard errors, seeds, and cost in the mean.

A bias cannot be seen in one run. These checks therefore repeat a short training run many times with
independent batches, and test the mean error against its standard error. A correct estimator fails a check
with probability `FALSE_ALARM`; the power to detect an incorrect one grows with ``samples``. Each check
returns the bias that it would have found with a probability of 99 %.

All laws of full-data estimators hold as well where examples agree (`lca.testing._replicated`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from scipy import stats

from lca import tolerances
from lca.allocation import Cost, StepAllocation, largest_cost_of
from lca.estimators._stochastic import StochasticEstimator
from lca.testing._domain import polynomial
from lca.testing._estimator_checks.law import is_sampled
from lca.testing._laws import require
from lca.testing._replicated import batch_size, begin, has_random_nodes, micro_batches_of
from lca.testing._report import Check
from lca.testing._sampled_runs import STEPS, TOP_POWER, SampledRidges, errors_of_runs, kit_rng, training_run

Array = np.ndarray
FALSE_ALARM = 1e-6
"""The level of each t-test."""
POWER = 0.99
RUNS_PER_SAMPLE = 10
RUNS_OF_RARE_NODES = 200
"""The least number of runs if nodes that are drawn in a quarter of the steps have most of the spread."""
COUNTED_STEPS = 60
SEEDS = (0, 1, 2, 3, 4, 2**16, 2**16 + 1, 2**20, 2**20 + 1)
"""Seeds that are tried; they differ in low and in high bits."""
BEGINNING = 3
"""Steps at the beginning of a run, which may cost more."""

STOCHASTIC_CHECKS: list[Check] = []
Law = Callable[[StochasticEstimator, int, int], str | None]


def statistical(law: Law, applies: Callable[[StochasticEstimator], bool]) -> Check:
    """The check of a statistical law for the stochastic estimators that satisfy ``applies``."""

    def sampled(estimator: Any) -> bool:
        return is_sampled(estimator) and applies(estimator)

    sampled.__doc__ = applies.__doc__
    return Check(law.__name__, law, None, sampled)


def law(applies: Callable[[StochasticEstimator], bool]) -> Callable[[Law], Law]:
    """Register a statistical law for the stochastic estimators that satisfy ``applies``."""

    def register(function: Law) -> Law:
        STOCHASTIC_CHECKS.append(statistical(function, applies))
        return function

    return register


def is_unbiased(estimator: StochasticEstimator) -> bool:
    """Whether the estimator is sampled and declares ``unbiased = True``."""
    return estimator.unbiased is True


def has_error_bars(estimator: StochasticEstimator) -> bool:
    """Whether the estimator is sampled and states standard errors."""
    return any(a.stderr is not None for a in _trial(estimator)) or _has_replicates(estimator)


def _has_replicates(estimator: StochasticEstimator) -> bool:
    """Whether the estimator is sampled and gives replicates."""
    return any(a.replicates for a in _trial(estimator))


def draws_nodes(estimator: StochasticEstimator) -> bool:
    """Whether the estimator is sampled and its nodes are random."""
    with suppress(Exception):
        return has_random_nodes(estimator)
    return False


def _trial(estimator: StochasticEstimator) -> list[StepAllocation]:
    """Two steps; none if the estimator cannot make them, which other laws will show."""
    with suppress(Exception):
        objective = SampledRidges.random(estimator.degree, kit_rng(0))
        allocate_step = estimator.start(objective)
        return [allocate_step(step) for step in training_run(objective, estimator, kit_rng(1), steps=2)]
    return []


@law(is_unbiased)
def mean_is_the_full_data_allocation(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """The mean error of each parameter's total over many runs is 0 (t-test, false alarms 1e-6)."""
    found = errors_of_runs(estimator, RUNS_PER_SAMPLE * samples, seed)
    totals = with_sum(found.errors.sum(axis=1))
    return require_zero_mean(totals, np.append(found.size, found.size.sum()), names_of("error", totals))


@law(draws_nodes)
def mean_is_exact_up_to_declared_degree(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """Where all examples agree, the mean over random nodes is the closed form (false alarms 1e-6).

    Also if most of the spread is due to nodes that are seldom drawn, which few runs do not show.
    """
    problem = polynomial(seed, min(estimator.degree + 1, TOP_POWER), steps=STEPS)
    assert problem.exact is not None
    truth = np.sum([problem.exact(step.start, step.end) for step in problem.trajectory], axis=0)
    errors = []
    for i in range(max(RUNS_PER_SAMPLE * samples, RUNS_OF_RARE_NODES)):
        allocate_step = begin(estimator.reseeded(seed * 1_000_003 + i), problem.objective)
        total = sum(allocate_step(step).values for step in problem.trajectory)
        errors.append(total - truth)
    totals, size = with_sum(np.array(errors)), np.append(np.abs(truth), np.abs(truth).sum())
    return require_zero_mean(totals, size, names_of("error", totals))


@law(has_error_bars)
def standard_errors_are_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """Stated standard errors have the mean square of the actual errors (t-test, false alarms 1e-6).

    Those of replicates and those of ``stderr``, if there are both.
    """
    found = errors_of_runs(estimator, RUNS_PER_SAMPLE * samples, seed)
    require(found.stderrs is not None, "standard errors are stated for some steps only.")
    assert found.stderrs is not None
    require(bool((found.stderrs >= 0).all()), "a standard error is negative.")
    squares = with_sum((found.errors**2).sum(axis=1))
    if found.beside is not None:
        names = names_of("error² - stderr², with the field stderr beside the replicates,", squares)
        stated = with_sum((found.beside**2).sum(axis=1))
        require_zero_mean(squares - stated, squares.mean(axis=0), names)
    stated = with_sum((found.stderrs**2).sum(axis=1))
    return require_zero_mean(squares - stated, squares.mean(axis=0), names_of("error² - stderr²", squares))


@law(_has_replicates)
def standard_errors_of_sums_are_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """The same for sums over steps, although neighbouring steps share samples (false alarms 1e-6)."""
    # Correlations are harder to detect: twice the runs.
    found = errors_of_runs(estimator, 2 * RUNS_PER_SAMPLE * samples, seed)
    assert found.run_stderrs is not None
    squares = (found.errors.sum(axis=1) ** 2).sum(axis=1, keepdims=True)
    # The sum over parameters has more power than the test of the worst parameter.
    excess = squares - (found.run_stderrs**2).sum(axis=1, keepdims=True)
    return require_zero_mean(excess, squares.mean(axis=0), ["error² - stderr² of sums over a run"])


@law(is_sampled)
def same_seed_same_values(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Two runs with one seed are bitwise equal; another seed gives another sample, if it is used."""
    objective = SampledRidges.random(estimator.degree, kit_rng(seed, 0))
    steps = list(training_run(objective, estimator, kit_rng(seed, 1)))
    drawn: list[Array] = []
    own_batch = objective.batch

    def batch(index: Array, weight: Array | None = None) -> Any:
        drawn.append(index)
        return own_batch(index, weight)

    object.__setattr__(objective, "batch", batch)

    def values(one: StochasticEstimator) -> Array:
        allocate_step = one.start(objective)
        return np.array([allocate_step(step).values for step in steps])

    own = values(estimator)
    require(
        np.array_equal(values(estimator), own),
        "two runs on the same steps gave different values: the estimator draws numbers that do not follow "
        "from its seed, or keeps a state from one run to the next. Make the generator in start(), from "
        "self.seed.",
    )
    reseeded = [estimator.reseeded(seed + more) for more in SEEDS]
    require(np.array_equal(values(estimator), own), "reseeded(seed) changed the estimator itself.")
    first, again = values(reseeded[0]), values(reseeded[0])
    for step, (a, b) in enumerate(zip(first, again, strict=True)):
        require(np.array_equal(a, b), f"step {step}: the same seed gave different values.")
    if not drawn or all(one is estimator or one == estimator for one in reseeded[1:]):
        return  # it draws no sample of these examples
    different = len({first.tobytes(), *(values(one).tobytes() for one in reseeded[1:])})
    require(
        different >= len(SEEDS) - 1,
        f"{len(SEEDS)} seeds gave {different} different runs; each seed must give a sample of its own.",
    )


@law(is_sampled)
def spends_no_more_than_it_declares(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """After the first three steps the mean cost is at most the declared one.

    Where another ``largest_cost`` is declared the mean depends on the run; then no step costs more than that.
    A gradient on n examples counts as n divided by the size of the training batch.
    """
    objective = SampledRidges.random(estimator.degree, kit_rng(seed, 0))
    allocate_step = estimator.reseeded(seed).start(objective)
    spent: dict[str, list[int]] = {name: [] for name in objective.counts}
    for step in training_run(objective, estimator, kit_rng(seed, 1), steps=COUNTED_STEPS + BEGINNING):
        objective.counts.update(dict.fromkeys(objective.counts, 0))
        allocate_step(step)
        for name, count in objective.counts.items():
            spent[name].append(count)
    n, size = objective.n_examples, batch_size(micro_batches_of(estimator))
    mean, largest = (_examples_of(cost, n, size) for cost in (estimator.cost, largest_cost_of(estimator)))
    for name, counts in spent.items():
        counted = counts[BEGINNING:]
        # Work that is done every n-th step may occur once more often than on average.
        once_more = (max(counts) - min(counted)) / COUNTED_STEPS
        known = largest == mean
        found = float(np.mean(counted)) if known else max(counted)
        bound = mean[name] + once_more if known else largest[name]
        require(
            found <= bound + tolerances.summed(bound, tolerances.EPS64),
            f"a step evaluated the {name} of {found:.3g} examples {'on average' if known else 'at most'}, "
            f"but {bound:.3g} are declared ({estimator.cost}; {n} examples, training batches of {size}).",
        )


def _examples_of(cost: Cost, n: int, size: int) -> dict[str, float]:
    """Gradients and losses of single examples in a cost."""
    return {
        "gradients": cost.full_gradients * n + cost.examples + cost.batch_gradients * size,
        "losses": cost.full_losses * n,
    }


def with_sum(samples: Array) -> Array:
    """A further column, the sum over parameters, which shows a small bias that all of them share."""
    return np.column_stack([samples, samples.sum(axis=1)])


def names_of(what: str, columns: Array) -> list[str]:
    parameters = [f"{what} of parameter {i}" for i in range(columns.shape[1] - 1)]
    return [*parameters, f"{what} of the sum over parameters"]


def require_zero_mean(samples: Array, size: Array, names: Sequence[str]) -> str:
    """Student's t-test for each column, at the level `FALSE_ALARM` for all of them together.

    Returns the power: the bias, as a fraction of ``size`` (columns,), that fails with 99 % in the median
    column.
    """
    runs, columns = samples.shape
    own = spread = samples.std(axis=0, ddof=1) / np.sqrt(runs)
    # Where nothing varies, a mean that is not 0 is rounding or bias: more than 1e-9 of the size is bias.
    spread = np.maximum(spread, 1e-10 * np.maximum(size, tolerances.EPS64))
    t = samples.mean(axis=0) / spread
    t[np.isnan(t)] = np.inf
    limit = float(stats.t.isf(FALSE_ALARM / (2 * columns), runs - 1))
    worst = int(np.argmax(np.abs(t)))
    mean, usual = samples[:, worst].mean(), float(size[worst])
    share = f", {mean / usual:+.0%} of {usual:.3g}, which it is compared with" if usual > 0 else ""
    far = f"{abs(t[worst]):.1f} standard errors from 0" if own[worst] else "the same in every run"
    require(
        bool(abs(t[worst]) <= limit),
        f"over {runs} runs the mean {names[worst]} is {mean:.3g}{share}: {far} (limit {limit:.1f} standard "
        f"errors, false alarms {FALSE_ALARM:g}).",
    )
    known = size > 0
    if not known.any():
        return f"{runs} runs; all of them are exact"
    detectable = float(np.median((limit + stats.norm.isf(1 - POWER)) * (spread[known] / size[known])))
    return (
        f"{runs} runs; finds a bias of {detectable:.2g} times the value with a probability of {POWER:.0%}; "
        f"false alarms {FALSE_ALARM:g}"
    )
