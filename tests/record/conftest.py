"""Fixtures of records."""

import pytest


@pytest.fixture
def one_block_a_file(monkeypatch):
    """Also small variables have several files, as in a long run."""
    monkeypatch.setattr("lca.record._schema.FILE_BYTES", 0)
