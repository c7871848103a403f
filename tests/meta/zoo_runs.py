"""Estimators that are wrong in a resumed run, at random points, or in what they leave behind."""

import gc
import logging
import sys
from dataclasses import dataclass, replace
from math import nan
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, Adaptive, Cost, PathIntegral
from lca.errors import NonFiniteError
from lca.estimators import Integral, Path
from lca.objective import Evaluation
from tests.meta.animals import Altered, Wrong
from tests.meta.zoo_cheap import PAIR
from tests.meta.zoo_stochastic import Changed, PairsOfPoints, RandomPoints, antithetic

# --- estimators of the full loss -------------------------------------------------------------------------


def _matched_by_last_part(a, step, objective):
    last = {name.split("/")[-1]: term for name, term in a.terms.items()}
    return replace(a, terms={name: last[name.split("/")[-1]] for name in a.terms})


def _without_zero_terms(a, step, objective):
    kept = {name: term for name, term in a.terms.items() if term.loss_start or term.loss_end}
    return replace(a, terms=kept)


@dataclass(frozen=True)
class ResumesAnew:
    """A right estimator whose ``resume`` begins a new run."""

    inner: Adaptive = Adaptive()
    target: ClassVar[str] = "full"
    largest: Cost | None = None

    @property
    def degree(self):
        return self.inner.degree

    @property
    def cost(self):
        return self.inner.cost

    @property
    def largest_cost(self):
        return self.largest or self.inner.largest_cost

    def start(self, objective):
        return self.inner.start(objective)

    def resume(self, objective, memory):
        return self.inner.start(objective)


class CountsFromZero(ResumesAnew):
    """Continues what it remembers, but counts the steps anew."""

    def resume(self, objective, memory):
        return self.inner.resume(objective, {**memory, "steps": 0})


class LargestTooLow(ResumesAnew):
    """Declares a largest cost that steps across kinks exceed."""

    def resume(self, objective, memory):
        return self.inner.resume(objective, memory)


class StateFaultHidden(PathIntegral):
    """A loss that is NaN in the new state is taken for a state that did not move."""

    def start(self, objective):
        allocate_step = super().start(objective)

        def hiding(step):
            try:
                return allocate_step(step)
            except NonFiniteError:
                if step.state is None or step.state[0] is step.state[1]:
                    raise
                return allocate_step(replace(step, state=(step.state[0], step.state[0])))

        return hiding


def leaves_behind(act):
    """An estimator that calls ``act()`` in each step."""

    def change(a, step, objective):
        act()
        return a

    return lambda: Altered(change)


# --- stochastic estimators -------------------------------------------------------------------------------


def same_point(rng, n):
    return np.full(n, rng.random())


def _stderr(a):
    parts = [np.array(list(replicates), np.float64) for replicates in a.replicates.values()]
    return np.sqrt(sum(part.var(axis=0, ddof=1) / len(part) for part in parts))


def _wide_stderr(a, step, memory):
    return replace(a, replicates={}, stderr=_stderr(a))


def _signed_stderr(a, step, memory):
    return replace(a, replicates={}, stderr=(_stderr(a) * np.sign(a.values)).astype(a.values.dtype))


@dataclass(frozen=True)
class OneNumberForBoth(RandomPoints):
    """The examples at a random point follow from the number that has chosen the point."""

    def start(self, objective):
        rng, weight = np.random.default_rng(self.seed), objective.weight
        share = np.full(objective.n_examples, 1.0) if weight is None else weight
        edges = np.cumsum(share) / share.sum()

        def gradient_at(objective, point):
            near = (point.s + np.linspace(0, 0.1, self.size)) % 1
            index = np.minimum(np.searchsorted(edges, near), objective.n_examples - 1)
            _, gradient = objective.loss_and_grad(point.theta, objective.batch(index))
            return Evaluation(nan, gradient), Cost(examples=self.size)

        path = Path(objective, gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            segment = path.segment(step)
            integral = Integral(segment)
            for s in self.points(rng, self.samples):
                integral.add(1 / self.samples, segment.at(float(s)))
            return integral.allocation()

        return allocate_step


@dataclass(frozen=True)
class CoarseSeed(Changed):
    """Several seeds give one sample."""

    coarse: Any = None

    def reseeded(self, seed):
        return replace(self, inner=self.inner.reseeded(self.coarse(seed)))


RESUMED, LEFT_ALONE, SPREAD = (
    "a_resumed_run_goes_on",
    "the_process_is_left_alone",
    "spread_of_random_nodes_is_calibrated",
)
WRONG_RUNS: dict[str, Wrong] = {
    "terms by last part": Wrong(
        "terms matched by the last part of their names",
        "terms_add_up",
        lambda: Altered(_matched_by_last_part),
    ),
    "terms of zero": Wrong(
        "terms whose losses are 0 left out", "terms_add_up", lambda: Altered(_without_zero_terms)
    ),
    "resumes anew": Wrong("resume() begins a new run", RESUMED, ResumesAnew),
    "counts from zero": Wrong("resume() counts the steps from 0", RESUMED, CountsFromZero),
    "largest cost too low": Wrong(
        "a largest cost that refined steps exceed",
        "reported_cost_is_true",
        lambda: LargestTooLow(Adaptive(1e-6), largest=Cost(full_gradients=3)),
    ),
    "fault of a state hidden": Wrong(
        "a loss of NaN in the state after a step hidden",
        "non_finite_numbers_are_refused",
        lambda: StateFaultHidden(SIMPSON),
    ),
    "collector off": Wrong("gc.disable() for speed", LEFT_ALONE, leaves_behind(gc.disable)),
    "deeper recursion": Wrong(
        "sys.setrecursionlimit called while measuring",
        LEFT_ALONE,
        leaves_behind(lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1)),
    ),
    "prints four digits": Wrong(
        "np.set_printoptions called while measuring",
        LEFT_ALONE,
        leaves_behind(lambda: np.set_printoptions(precision=4)),
    ),
    "logs nothing": Wrong(
        "logging.disable called while measuring",
        LEFT_ALONE,
        leaves_behind(lambda: logging.disable(logging.CRITICAL)),
    ),
}
WRONG_NODES: dict[str, Wrong] = {
    "antithetic pair": Wrong(
        "an antithetic pair counted as two replicates", SPREAD, lambda: RandomPoints(points=antithetic)
    ),
    **{
        f"antithetic pair, degree {degree}": Wrong(
            f"an antithetic pair counted as two replicates by an estimator of degree {degree}",
            SPREAD,
            lambda degree=degree: RandomPoints(points=antithetic, degree=degree),
        )
        for degree in (0, 1, 2)
    },
    "narrow pairs of points": Wrong(
        "three quarters of the spread of pairs that are exact up to the declared degree",
        SPREAD,
        lambda: PairsOfPoints(samples=4, points=antithetic, degree=1, spread=0.75),
    ),
    "one point for both": Wrong(
        "two samples at one random point counted as independent",
        SPREAD,
        lambda: RandomPoints(points=same_point),
    ),
    "one number for both": Wrong(
        "one random number for the point and its examples",
        "nodes_and_examples_are_drawn_apart",
        OneNumberForBoth,
    ),
    "wide standard errors": Wrong(
        "standard errors in float64 in a float32 run",
        "returns_one_value_per_parameter",
        lambda: Changed(_wide_stderr),
    ),
    "signed standard errors": Wrong(
        "standard errors with the signs of the values",
        "standard_errors_are_calibrated",
        lambda: Changed(_signed_stderr),
    ),
    "half the seeds": Wrong(
        "seeds 2n and 2n + 1 give one sample",
        "same_seed_same_values",
        lambda: CoarseSeed(lambda a, step, memory: a, PAIR, coarse=lambda seed: seed // 2),
    ),
    "short seeds": Wrong(
        "seeds of 16 bits",
        "same_seed_same_values",
        lambda: CoarseSeed(lambda a, step, memory: a, PAIR, coarse=lambda seed: seed % 2**16),
    ),
}
