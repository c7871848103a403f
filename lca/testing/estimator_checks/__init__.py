"""The laws every estimator of the full-data loss change must keep, one small function each.

A law takes the estimator and a drawn `Problem`, and raises `CheckFailure` where it is broken. "Exact
problems" are polynomials within the declared degree: there an estimator must equal the closed form to
rounding, whatever it does inside, so the laws of the integral become laws of the estimator.
"""

from lca.testing.estimator_checks import honesty, integral, run, values
from lca.testing.report import Check

__all__ = ["ESTIMATOR_CHECKS"]

ESTIMATOR_CHECKS: list[Check] = [*values.CHECKS, *integral.CHECKS, *run.CHECKS, *honesty.CHECKS]
