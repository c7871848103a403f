"""The conformance kit: checks that an estimator, an objective, a backend or its array operations are correct.

`check_estimator`, `check_objective`, `check_backend` and `check_array_ops` run every applicable law on random
cases and raise `ConformanceError` with a report if one is broken. This package needs the extra ``testing``
(hypothesis, pytest), and ``import lca`` does not import it.

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
    from lca.testing._array_subject import ArraySubject
    from lca.testing._checks import (
        check_array_ops,
        check_backend,
        check_estimator,
        check_objective,
        generate_checks,
        parametrize_with_checks,
    )
    from lca.testing._objective_subject import ObjectiveSubject
    from lca.testing._report import BoundCheck, CheckFailure, ConformanceError, Report, Result
    from lca.testing.problems import Problem, make_problem

__all__ = [
    "ArraySubject",
    "BoundCheck",
    "CheckFailure",
    "ConformanceError",
    "ObjectiveSubject",
    "Problem",
    "Report",
    "Result",
    "check_array_ops",
    "check_backend",
    "check_estimator",
    "check_objective",
    "generate_checks",
    "make_problem",
    "parametrize_with_checks",
    "tolerances",
]
