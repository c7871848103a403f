"""`validation.large_models`: the figures of docs/scale.md are those of the script."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from validation.large_models import memory, replays, run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = json.loads((ROOT / "validation" / "large_models" / "results.json").read_text())


def test_the_page_has_the_tables_of_the_script():
    text = run.tables(RESULTS)
    page = (ROOT / "docs" / "scale.md").read_text()
    assert (ROOT / "validation" / "large_models" / "tables.md").read_text() == text
    assert [line for line in text.splitlines() if line not in page.splitlines()] == []


def test_everything_that_is_listed_was_measured():
    assert list(RESULTS["memory"]) == list(memory.OPTIONS)
    assert list(RESULTS["replays"]) == list(replays.FORMS)


def test_the_networks_are_of_the_size_that_the_page_states():
    page = (ROOT / "docs" / "scale.md").read_text()
    assert f"{memory.parameters() / 1e6:.1f} million parameters" in page
    assert f"{replays.parameters() / 1e6:.1f} million parameters" in page


def test_memory_on_the_host_is_the_same_vectors():
    for estimator in memory.ESTIMATORS:
        device, host = (RESULTS["memory"][name][estimator] for name in list(memory.OPTIONS)[:2])
        assert device["vectors, ordinary"] == host["vectors, ordinary"]
