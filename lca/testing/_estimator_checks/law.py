"""How laws of full-data estimators are registered, and the problems on which they are checked."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca.allocation import Estimator, StepAllocation, allocate
from lca.objective import Objective
from lca.step import Trajectory
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import exact_problems, kinked_problems, smooth_problems

Array = np.ndarray
Law = Callable[[Estimator, Any], None]
Cases = Callable[[Estimator], st.SearchStrategy[Any]]


def law_into(checks: list[Check]) -> Callable[[Cases], Callable[[Law], Law]]:
    """Return a decorator that adds a law of full-data estimators to ``checks``, named after its function.

    The decorator is called with a function from the estimator to the hypothesis strategy of the law's cases.
    """

    def law(cases: Cases) -> Callable[[Law], Law]:
        def register(function: Law) -> Law:
            checks.append(Check(function.__name__, function, cases, _measures_full_loss))
            return function

        return register

    return law


def _measures_full_loss(estimator: Estimator) -> bool:
    return estimator.target == "full"


def exact_problem(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Polynomials of at most degree + 1 with closed-form allocations."""
    return exact_problems(estimator.degree + 1)


def any_problem(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Exact, smooth and kinked problems."""
    return exact_problem(estimator) | smooth_problems() | kinked_problems()


def run(estimator: Estimator, objective: Objective, points: Array) -> list[StepAllocation]:
    """The allocations of the steps between these points (T + 1, K)."""
    return list(allocate(objective, Trajectory(points), estimator, check=False))
