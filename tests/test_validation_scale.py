"""`validation.language_model.scale`: the figures of docs/scale.md are those of the script, and are right."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lca import tolerances
from lca.reference import DatasetLoss, logistic_regression
from lca.tracking import FunctionalTracker
from validation.language_model import scale
from validation.language_model.gpt import GPT, SIZES, next_token_loss

ROOT = Path(__file__).resolve().parents[1]
MEASURED = json.loads((ROOT / "validation" / "language_model" / "scale.json").read_text())


def test_the_page_has_the_tables_of_the_script():
    text = scale.tables(MEASURED["vectors_beyond_training"])
    page = (ROOT / "docs" / "scale.md").read_text()
    assert (ROOT / "validation" / "language_model" / "scale.md").read_text() == text
    assert [line for line in text.splitlines() if line not in page.splitlines()] == []


def test_the_operations_on_matrices_are_those_that_torch_counts():
    size, sequences = SIZES["tiny"], 3
    with FlopCounterMode(display=False) as counter:
        next_token_loss(GPT(size), torch.zeros(sequences, size.length + 1, dtype=torch.long)).backward()
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    attention = sequences * size.length * 12 * size.blocks * size.length * size.width
    assert scale.operations(size, sequences) == counted + attention


@pytest.mark.parametrize(
    ("name", "batches", "apart"),
    [
        ("next batch, right", 0, 0),
        ("samples", 1, 2),
        ("trapezoid", 4, 8),
        ("adaptive", 4, 8),
        ("rk4", 8, 12),
    ],
)
def test_a_full_gradient_is_as_many_batches_as_the_measured_data_hold(name, batches, apart):
    factor = 1 if name in ("next batch, right", "samples") else 2
    assert scale.Passes.of(name) == scale.Passes(name, batches, apart)
    twice = scale.Passes.of(name, measured=2 * scale.MEASURED)
    assert twice == scale.Passes(name, factor * batches, factor * apart)


@pytest.mark.parametrize("name", ["samples", "trapezoid", "adaptive", "rk4"])
def test_every_20th_step_costs_what_a_tracker_forecasts(name):
    data = DatasetLoss(logistic_regression(2, 2), np.eye(2)[np.arange(64) % 2], np.arange(64) % 2)
    tracker = FunctionalTracker(np.zeros(6), data, scale.ESTIMATORS[name], every=20)
    cost = tracker.estimate(steps=400).rows[0].cost
    batches = cost.full_gradients * scale.MEASURED / scale.BATCH + cost.examples / scale.BATCH
    apart = scale.Passes.of(name).apart
    assert abs(20 * batches - apart) <= tolerances.summed(apart, tolerances.EPS64)


def test_one_rank_sends_nothing_and_two_send_a_vector():
    assert set(scale.traffic(1000, 1).values()) == {0.0}
    assert set(scale.traffic(1000, 2).values()) == {4000.0}


def test_a_ring_sends_less_than_two_vectors_and_a_gather_grows_with_the_ranks():
    sent = scale.traffic(1000, 8)
    assert sent["training"] == 7000.0
    assert sent["cross-fit"] == 28_000.0


def test_every_estimator_was_measured_on_the_model_that_is_stated():
    assert list(MEASURED["vectors_beyond_training"]) == list(scale.ESTIMATORS)
    assert {name: scale.parameters(size) for name, size in scale.MODELS.items()} == {
        "10M": 10_048_640,
        "124M": 124_046_592,
        "1B": 1_013_573_632,
        "7B": 6_666_792_960,
    }
