"""Correct estimators, which every check must accept: each kind of rule, and settings of `Adaptive`."""

from lca import (
    BOOLE,
    LEFT,
    MIDPOINT,
    RIGHT,
    SIMPSON,
    TRAPEZOID,
    Adaptive,
    PathIntegral,
    composite,
    gauss_legendre,
    gauss_lobatto,
)
from lca.allocation import Estimator

RULES = (
    LEFT,
    RIGHT,
    MIDPOINT,
    TRAPEZOID,
    SIMPSON,
    BOOLE,
    composite(SIMPSON, 2),
    gauss_legendre(3),
    gauss_legendre(8),
    gauss_lobatto(5),
)
RIGHT_ESTIMATORS: dict[str, Estimator] = {
    **{rule.name: PathIntegral(rule) for rule in RULES},
    "simpson with tol": PathIntegral(SIMPSON, tol=1e-4),
    "adaptive": Adaptive(),
    "adaptive fine": Adaptive(tol=1e-7, nested_tol=1e-3, audit=1),
    "adaptive limited": Adaptive(tol=1e-6, max_gradients=3),
    "adaptive per run": Adaptive(tol=0.01, per="run", audit=None),
}
