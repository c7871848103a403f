"""Hypothesis profiles, and where the large data sets are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with data that is too large to ship (mnist.npz): $LCA_DATA, or ../shared/data."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LCA_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set LCA_DATA to the folder that holds mnist.npz")
    return folder
