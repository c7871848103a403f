"""The laws of estimators of the full-data loss change, one function each.

A law is called with the estimator and a random `lca.testing.Problem`, and raises
`lca.testing.CheckFailure` if it is broken. "Exact problems" are polynomials that the estimator's declared
degree covers. On them every estimator equals the closed form to rounding, so the laws of the integral must
hold for the estimator.
"""

from lca.testing._estimator_checks import fields, honesty, integral, process, run, values
from lca.testing._report import Check

__all__ = ["ESTIMATOR_CHECKS"]

_MODULES = (process, values, integral, run, honesty, fields)
ESTIMATOR_CHECKS: list[Check] = [check for module in _MODULES for check in module.CHECKS]
