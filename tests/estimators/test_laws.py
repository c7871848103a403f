"""Every built-in estimator keeps every law of the shipped kit."""

import lca
from lca.testing.checks import parametrize_with_checks

RULES = [
    lca.LEFT,
    lca.RIGHT,
    lca.MIDPOINT,
    lca.TRAPEZOID,
    lca.SIMPSON,
    lca.BOOLE,
    lca.gauss_legendre(3),
    lca.gauss_lobatto(4),
    lca.composite(lca.SIMPSON, 2),
]
ADAPTIVE = [lca.Adaptive(), lca.Adaptive(1e-6, nested_tol=1e-3), lca.Adaptive(0.01, per="run", audit=None)]


@parametrize_with_checks(
    [*map(lca.PathIntegral, RULES), lca.PathIntegral(lca.RK4, tol=1e-3), *ADAPTIVE], samples=5
)
def test_built_in_estimators_keep_the_laws(check):
    check()
