"""Every test draws the same weights each time."""

import pytest
import torch

from lca.estimators import CrossFit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def whole_micro_batches(monkeypatch):
    """Steps keep the micro-batches and halves themselves, which `CrossFit` otherwise reduces as they come."""
    monkeypatch.delattr(CrossFit, "reduced")
