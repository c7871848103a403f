"""The conformance kit: checks that an estimator, an objective or a backend is correct.

`check_estimator`, `check_objective` and `check_backend` run every applicable law on random cases and raise
`ConformanceError` with a report if one is broken. This package needs the extra ``testing`` (hypothesis,
pytest), and ``import lca`` does not import it.

Examples
--------
>>> import lca
>>> report = check_estimator(lca.PathIntegral(lca.SIMPSON), samples=2)
>>> len(report.failed)
0
"""

from lca import tolerances
from lca._extras import extra

with extra("testing"):
    from lca.testing._checks import check_backend, check_estimator, check_objective, parametrize_with_checks
    from lca.testing._report import CheckFailure, ConformanceError, Report, Result
    from lca.testing.problems import Problem, make_problem

__all__ = [
    "CheckFailure",
    "ConformanceError",
    "Problem",
    "Report",
    "Result",
    "check_backend",
    "check_estimator",
    "check_objective",
    "make_problem",
    "parametrize_with_checks",
    "tolerances",
]
