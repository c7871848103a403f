"""How laws of estimators are registered, and the problems on which they are checked."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca.allocation import Estimator, StepAllocation
from lca.estimators._stochastic import StochasticEstimator
from lca.objective import Objective
from lca.reference._models import Quadratic
from lca.step import Step, Trajectory
from lca.testing._domain import anything
from lca.testing._replicated import begin, has_random_nodes
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import exact_problems, kinked_problems, smooth_problems

Array = np.ndarray
Law = Callable[[Estimator, Any], None]
Cases = Callable[[Estimator], st.SearchStrategy[Any]]
Applies = Callable[[Estimator], bool]


def measures_full_loss(estimator: Estimator) -> bool:
    """Whether the full loss is measured, without samples."""
    return estimator.target == "full" and not isinstance(estimator, StochasticEstimator)


def is_sampled(estimator: Estimator) -> bool:
    """Whether the estimator is sampled."""
    return isinstance(estimator, StochasticEstimator)


def is_any(estimator: Estimator) -> bool:
    """Whether the estimator declares what the laws of all estimators need."""
    return measures_full_loss(estimator) or is_sampled(estimator)


def has_fixed_nodes(estimator: Estimator) -> bool:
    """Whether the nodes are not random.

    Each value, and not only its mean, is then exact where all examples agree.
    """
    with suppress(Exception):  # whatever is wrong with it, the laws will show it
        return is_any(estimator) and not has_random_nodes(estimator)
    return is_any(estimator)


MOST_WEIGHT = 64.0
"""The largest ``Σ|w|`` that is believed; 58 for the closed Newton-Cotes rule of 17 nodes."""


def weight_mass(estimator: Estimator) -> float:
    """``Σ|w_k|`` of the nodes, 1 for positive weights: the mass of a step on ``L(θ) = θ``, divided by |Δ|."""
    with suppress(Exception):  # whatever is wrong with it, the laws will show it
        [a] = run(estimator, _LINE, [Step(np.zeros(1), np.ones(1))])
        if 1 <= a.mass <= MOST_WEIGHT:
            return a.mass
    return 1.0


_LINE = Quadratic(np.zeros((1, 1)), linear=np.ones(1))


def law_into(checks: list[Check]) -> Callable[..., Callable[[Law], Law]]:
    """Return a decorator that adds a law to ``checks``, named after its function.

    The decorator is called with a function from the estimator to the hypothesis strategy of the law's cases,
    and with the condition under which the law applies. A costly law gets one of ``part`` samples.
    """

    def law(cases: Cases, applies: Applies = is_any, *, part: int = 1) -> Callable[[Law], Law]:
        def register(function: Law) -> Law:
            checks.append(Check(function.__name__, function, cases, applies, part))
            return function

        return register

    return law


def exact_problem(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Polynomials of at most degree + 1 with closed-form allocations."""
    return exact_problems(estimator.degree + 1)


def any_problem(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Exact, smooth and kinked problems, on any layout and path."""
    return exact_problem(estimator) | anything(estimator.degree + 1) | smooth_problems() | kinked_problems()


def run(estimator: Estimator, objective: Objective, steps: Iterable[Step]) -> list[StepAllocation]:
    """The allocations of these steps."""
    allocate_step = begin(estimator, objective)
    return [allocate_step(step) for step in steps]


def between(points: Array) -> list[Step]:
    """The steps between these points (T + 1, K)."""
    return list(Trajectory(points))


def in_dtype(problem: Problem, dtype: Any) -> Problem:
    """The same problem with the points in another dtype."""
    return replace(problem, points=problem.points.astype(dtype))
