"""The laws of trackers for `lca.tracking.FunctionalTracker` in a JAX training loop."""

import pytest

from tests.laws.trackers import LAWS
from tests.lca_jax.tracked_run import JaxFramework


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_jax(law, tmp_path):
    law(JaxFramework(), tmp_path)
