"""The conformance kit: tells anyone whether an estimator, an objective or a backend is right.

Needs the extra ``testing`` (hypothesis, pytest). The names below are loaded when first used, because the
engine itself takes its rounding limits from `lca.testing.tolerances` and must not load hypothesis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lca.extras import extra

if TYPE_CHECKING:
    from lca.testing.checks import (
        check_backend,
        check_estimator,
        check_objective,
        parametrize_with_checks,
    )
    from lca.testing.problems import Problem, make_problem
    from lca.testing.report import CheckFailure, ConformanceError, Report

_HOME = {
    "CheckFailure": "report",
    "ConformanceError": "report",
    "Problem": "problems",
    "Report": "report",
    "check_backend": "checks",
    "check_estimator": "checks",
    "check_objective": "checks",
    "make_problem": "problems",
    "parametrize_with_checks": "checks",
}

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
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra("testing"):
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
