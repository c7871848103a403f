"""Estimators that have no name in the registry keep every law of the shipped kit as well."""

import lca
from lca.testing import parametrize_with_checks

OTHERS = [
    lca.PathIntegral(lca.composite(lca.SIMPSON, 2)),
    lca.PathIntegral(lca.SIMPSON),
    lca.Adaptive(1e-6, nested_tol=1e-3),
    lca.Adaptive(0.01, per="run", audit=None),
]


@parametrize_with_checks(OTHERS, samples=5)
def test_they_keep_the_laws(check):
    check()
