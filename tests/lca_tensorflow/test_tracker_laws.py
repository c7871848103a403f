"""The laws of trackers for `lca_tensorflow.Tracker`."""

import pytest

from tests.laws.trackers import LAWS, MODEL_LAWS
from tests.lca_tensorflow.tracked_run import TensorFlowFramework


@pytest.mark.parametrize("law", [*LAWS, *MODEL_LAWS], ids=lambda law: law.__name__)
def test_tensorflow(law, tmp_path):
    law(TensorFlowFramework(), tmp_path)
