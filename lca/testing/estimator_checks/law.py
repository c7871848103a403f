"""How a law of full-data estimators is written down, and on which problems one is tried."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca.allocation import Estimator, StepAllocation, allocate
from lca.objective import Objective
from lca.step import Trajectory
from lca.testing.problems import Problem
from lca.testing.report import Check
from lca.testing.strategies import exact_problems, kinked_problems, smooth_problems

Array = np.ndarray
Law = Callable[[Estimator, Any], None]
Cases = Callable[[Estimator], st.SearchStrategy[Any]]


def law_into(checks: list[Check]) -> Callable[[Cases], Callable[[Law], Law]]:
    """A decorator that adds a law of full-data estimators to ``checks`` under its function's name."""

    def law(cases: Cases) -> Callable[[Law], Law]:
        def register(function: Law) -> Law:
            checks.append(Check(function.__name__, function, cases, _measures_full_loss))
            return function

        return register

    return law


def _measures_full_loss(estimator: Estimator) -> bool:
    return estimator.target == "full"


def exact(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Polynomials within the declared degree, where the closed form is known."""
    return exact_problems(estimator.degree + 1)


def anything(estimator: Estimator) -> st.SearchStrategy[Problem]:
    """Exact, smooth and kinked problems."""
    return exact(estimator) | smooth_problems() | kinked_problems()


def run(estimator: Estimator, objective: Objective, points: Array) -> list[StepAllocation]:
    """The allocations of the steps between these points."""
    return list(allocate(objective, Trajectory(points), estimator, check=False))
