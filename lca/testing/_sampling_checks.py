"""The laws of the samples that a stochastic estimator draws, and of mean and spread on harder examples."""

from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import numpy as np

from lca.estimators._stochastic import StochasticEstimator
from lca.testing._estimator_checks.law import is_sampled
from lca.testing._laws import require
from lca.testing._replicated import EXAMPLES, Replicated, with_fields
from lca.testing._sampled_runs import Errors, SampledRidges, errors_of_runs, errors_on_long_steps
from lca.testing._stochastic_checks import (
    FALSE_ALARM,
    RUNS_PER_SAMPLE,
    draws_nodes,
    has_error_bars,
    is_unbiased,
    names_of,
    require_zero_mean,
    statistical,
    with_sum,
)
from lca.testing.problems import network

Array = np.ndarray
STEPS = 10
MOST_RUNS = 100
LONG_RUN = 24
MANY_EXAMPLES = 200_003
"""More than 16 bits can number."""
QUARTERS = 4
MOST_STALE = 3
"""Steps of a run that may draw an old sample by chance; 4 of them do with a probability below 1e-8."""
RARER = 4
"""An example may be drawn this many times less often than others, where all of them are alike."""


@dataclass(eq=False)
class _Drawing(Replicated):
    """Lists the examples of each batch that is made."""

    drawn: list[list[int]] = field(default_factory=list)

    def batch(self, index: Array, weight: Array | None = None) -> Any:
        self.drawn.append(np.asarray(index).tolist())
        return super().batch(index, weight)


def _draws(
    estimator: StochasticEstimator, seed: int, *, steps: int = STEPS, n_examples: int = EXAMPLES
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """The examples of all batches of a run, and of those that are made in each of its steps."""
    problem = network(0, steps=steps)
    objective = _Drawing(problem.objective, n_examples=n_examples)
    allocate_step, in_steps = estimator.reseeded(seed).start(objective), []
    for step in problem.trajectory:
        before = len(objective.drawn)
        allocate_step(with_fields(step, problem.objective, estimator))
        in_steps.append(objective.drawn[before:])
    return objective.drawn, in_steps


def large_data_sets_are_sampled(estimator: StochasticEstimator, samples: int, seed: int) -> str | None:
    """Of 200,003 examples every quarter is drawn (false alarms 1e-6), and all indices are in range."""
    counts, enough = np.zeros(QUARTERS), RARER * QUARTERS * log(QUARTERS / FALSE_ALARM)
    for run in range(MOST_RUNS):
        for index in _draws(estimator, seed * 1_000_003 + run, n_examples=MANY_EXAMPLES)[0]:
            numbers = np.asarray(index)
            outside = numbers[(numbers < 0) | (numbers >= MANY_EXAMPLES)]
            require(
                not outside.size,
                f"of {MANY_EXAMPLES} examples, those numbered {outside[:3].tolist()} were asked for.",
            )
            counts += np.bincount(numbers * QUARTERS // MANY_EXAMPLES, minlength=QUARTERS)
        if estimator.unbiased is not True or not counts.any():
            return None
        if counts.sum() > enough:
            missing = np.flatnonzero(counts == 0)
            require(
                not missing.size,
                f"of {MANY_EXAMPLES} examples, none of quarter {missing + 1} is in {counts.sum():.0f} draws.",
            )
            return f"{counts.sum():.0f} draws; false alarms {FALSE_ALARM:g}"
    return f"{counts.sum():.0f} draws, too few to tell"


def samples_do_not_recur(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Later steps draw new samples of 200,003 examples, as no generator begins anew in the course of a run.

    A sample may serve steps that follow each other, and an old one beside a new one. A run with the next
    seed draws others, so that runs can be averaged; what it draws in the same step may be no sample.
    """
    _, in_steps = _draws(estimator, seed, steps=3 * LONG_RUN, n_examples=MANY_EXAMPLES)
    _require_other_samples(in_steps, _draws(estimator, seed + 1, steps=LONG_RUN, n_examples=MANY_EXAMPLES)[1])
    known: set[tuple[int, ...]] = set()
    before: set[tuple[int, ...]] = set()
    stale = []
    for number, batches in enumerate(in_steps):
        drawn = _samples(batches)
        if drawn and drawn <= known - before:
            stale.append(number)
        known |= drawn
        before = drawn
    *_, last = late = in_steps[LONG_RUN:]
    require(
        not last or sum(map(len, last)) >= MANY_EXAMPLES or late.count(last) < len(late),
        f"every step from step {LONG_RUN} on draws the same examples.",
    )
    require(
        len(stale) <= MOST_STALE,
        f"the steps {stale} draw examples that earlier steps have drawn, and no others; make the generator "
        "once, in start().",
    )


def _samples(batches: list[list[int]]) -> set[tuple[int, ...]]:
    """The batches of a step that are neither single examples nor most of the data."""
    return {tuple(index) for index in batches if 1 < len(index) < MANY_EXAMPLES // 2}


def _require_other_samples(one: list[list[list[int]]], other: list[list[list[int]]]) -> None:
    """Two runs with seeds that follow each other do not draw the same samples in different steps."""
    everything = set().union(*map(_samples, one))
    shared = [
        number
        for number, (mine, theirs) in enumerate(zip(map(_samples, one), map(_samples, other), strict=False))
        if theirs and theirs <= everything - mine
    ]
    require(
        len(shared) <= MOST_STALE,
        f"a run with the next seed draws in the steps {shared} what this one draws in other steps, so that "
        "runs are not independent; make the generator of a run from the seed alone.",
    )


def mean_and_spread_last_in_long_runs(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """The mean error is 0, and standard errors are right, in the second half of runs of 24 steps."""
    runs = max(2, RUNS_PER_SAMPLE * samples // 4)
    found = errors_of_runs(estimator, runs, seed, steps=LONG_RUN)
    late = slice(LONG_RUN // 2, None)
    totals = with_sum(found.errors[:, late].sum(axis=1))
    said = require_zero_mean(totals, np.append(found.size, found.size.sum()), names_of("error", totals))
    if found.stderrs is not None:
        _require_spread(replace(found, errors=found.errors[:, late], stderrs=found.stderrs[:, late]))
    return said


def every_example_is_drawn(estimator: StochasticEstimator, samples: int, seed: int) -> str | None:
    """No example is left out of all samples of many runs (false alarms 1e-6)."""
    counts, enough = np.zeros(EXAMPLES), RARER * EXAMPLES * log(EXAMPLES / FALSE_ALARM)
    for run in range(MOST_RUNS):
        for index in _draws(estimator, seed * 1_000_003 + run)[0]:
            counts += np.bincount(index, minlength=EXAMPLES)
        if not counts.any():
            return "no batch of its own"
        if counts.sum() > enough:
            missing = np.flatnonzero(counts == 0).tolist()
            require(not missing, f"the examples {missing} of {EXAMPLES} are not in {counts.sum():.0f} draws.")
            return f"{counts.sum():.0f} draws; false alarms {FALSE_ALARM:g}"
    return f"{counts.sum():.0f} draws, too few to tell"


def steps_draw_samples_of_their_own(estimator: StochasticEstimator, samples: int, seed: int) -> None:
    """Not every step draws the same examples, as if the generator were seeded anew in each of them.

    A sample that is meant for the whole run is drawn once, in ``start``.
    """
    _, in_steps = _draws(estimator, seed)
    first, *others = in_steps[1:]  # the first step may draw for its start as well
    everything = len({i for index in first for i in index}) == EXAMPLES
    alike = bool(first) and not everything and all(other == first for other in others)
    require(
        not alike,
        f"every step draws the same examples, {first}; keep the generator from step to step, or make the "
        "batch once, in start().",
    )


def mean_is_right_for_skewed_examples(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """The same as `mean_is_the_full_data_allocation` where few examples have most of the gradient."""
    found = errors_of_runs(estimator, RUNS_PER_SAMPLE * samples, seed, make=SampledRidges.skewed)
    totals = with_sum(found.errors.sum(axis=1))
    return require_zero_mean(totals, np.append(found.size, found.size.sum()), names_of("error", totals))


def mean_is_right_for_misleading_scores(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """The same where scores are low for large gradients, 0 for some, and others at every point.

    Scores say which examples are worth drawing; importance weights make the mean right whatever they are.
    """
    found = errors_of_runs(estimator, RUNS_PER_SAMPLE * samples, seed, make=SampledRidges.misled)
    totals = with_sum(found.errors.sum(axis=1))
    return require_zero_mean(totals, np.append(found.size, found.size.sum()), names_of("error", totals))


def spread_of_all_values_is_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """Stated standard errors are right on the whole: a smaller error is found than in single parameters."""
    return _require_spread(errors_of_runs(estimator, 2 * RUNS_PER_SAMPLE * samples, seed))


def _require_spread(found: Errors) -> str:
    require(found.stderrs is not None, "standard errors are stated for some steps only.")
    assert found.stderrs is not None
    squares, stated = found.errors**2, found.stderrs**2
    # Every value counts the same, whatever its size, if it is not exact in all runs.
    error, said = squares.mean(axis=0), stated.mean(axis=0)
    size, counted = np.where(error > 0, error, said), (error > 0) | (said > 0)
    if not counted.any():
        return f"{len(squares)} runs; all values are exact, and their standard errors 0"
    excess = ((squares - stated)[:, counted] / size[counted]).mean(axis=1)[:, None]
    return require_zero_mean(excess, np.ones(1), ["(error² - stderr²) / mean error² of all values"])


def nodes_and_examples_are_drawn_apart(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """Random points of a step do not depend on the examples: the mean is right on long, curved steps.

    As if one random number served for both. The examples are in the order of their curvature.
    """
    found = errors_on_long_steps(estimator, RUNS_PER_SAMPLE * samples, seed, alike=False)
    totals = with_sum(found.errors.sum(axis=1))
    return require_zero_mean(totals, np.append(found.size, found.size.sum()), names_of("error", totals))


def spread_of_random_nodes_is_calibrated(estimator: StochasticEstimator, samples: int, seed: int) -> str:
    """Where all examples agree, stated standard errors are those of the random points of the step."""
    found = errors_on_long_steps(estimator, RUNS_PER_SAMPLE * samples, seed, alike=True)
    return _require_spread(found)


def _has_scores(estimator: StochasticEstimator) -> bool:
    """Whether the estimator is sampled, declares ``unbiased = True``, and requires scores."""
    return is_unbiased(estimator) and "scores" in estimator.required_fields


def _measures_any_step(estimator: StochasticEstimator) -> bool:
    """Whether the nodes are random, ``unbiased`` is True, and no fields are required."""
    return is_unbiased(estimator) and not estimator.required_fields and draws_nodes(estimator)


def _states_their_spread(estimator: StochasticEstimator) -> bool:
    """Whether the nodes are random, ``unbiased`` is True, no fields are required, and errors are stated."""
    return _measures_any_step(estimator) and has_error_bars(estimator)


SAMPLING_CHECKS = [
    statistical(law, applies)
    for law, applies in (
        (every_example_is_drawn, is_unbiased),
        (large_data_sets_are_sampled, is_sampled),
        (steps_draw_samples_of_their_own, is_sampled),
        (samples_do_not_recur, is_sampled),
        (mean_and_spread_last_in_long_runs, is_unbiased),
        (mean_is_right_for_skewed_examples, is_unbiased),
        (mean_is_right_for_misleading_scores, _has_scores),
        (spread_of_all_values_is_calibrated, has_error_bars),
        (nodes_and_examples_are_drawn_apart, _measures_any_step),
        (spread_of_random_nodes_is_calibrated, _states_their_spread),
    )
]
