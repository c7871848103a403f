"""The folder of the large data sets. The hypothesis profiles are in conftest.py at the root."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the data sets that are too large to ship (mnist.npz): $LCA_DATA, or ../shared/data."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LCA_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set LCA_DATA to the folder that holds mnist.npz")
    return folder
