"""The laws of trackers for a plain NumPy loop; those of the backends are with their tests."""

import pytest

from tests.laws.numpy_run import NumpyFramework
from tests.laws.trackers import LAWS


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_numpy_loop(law, tmp_path):
    law(NumpyFramework(), tmp_path)
