"""The laws of trackers for `lca_torch.Tracker`."""

import pytest

from tests.laws.trackers import LAWS, MODEL_LAWS
from tests.lca_torch.tracked_run import TorchFramework


@pytest.mark.parametrize("law", [*LAWS, *MODEL_LAWS], ids=lambda law: law.__name__)
def test_torch(law, tmp_path):
    law(TorchFramework(), tmp_path)
