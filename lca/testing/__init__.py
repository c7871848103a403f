"""The conformance kit: checks whether an estimator, an objective or a backend is correct.

Needs the extra ``testing`` (hypothesis, pytest).
"""

from lca import tolerances
from lca.extras import extra

with extra("testing"):
    from lca.testing.checks import check_backend, check_estimator, check_objective, parametrize_with_checks
    from lca.testing.problems import Problem, make_problem
    from lca.testing.report import CheckFailure, ConformanceError, Report

__all__ = [
    "CheckFailure",
    "ConformanceError",
    "Problem",
    "Report",
    "check_backend",
    "check_estimator",
    "check_objective",
    "make_problem",
    "parametrize_with_checks",
    "tolerances",
]
