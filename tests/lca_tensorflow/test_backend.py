"""The tensorflow backend is held to the NumPy reference, and the demo run on it is the reference's run."""

import pytest

from lca._commands.demo_run import DemoSettings, run_demo
from lca.testing import check_backend
from lca.tolerances import EPS64
from lca_tensorflow import TensorFlowBackend
from tests.nightly import NIGHTLY

NUMBERS = (
    "allocations_equal_the_reference", "batch_statistics_are_those_of_the_measuring_batch",
    "calls_change_nothing", "dropout_is_off", "float32_agrees_with_float64", "frozen_parameters_get_zero",
    "frozen_statistics_are_used", "losses_equal_the_reference", "objectives_are_independent",
    "penalty_is_a_separate_term", "samples_equal_the_reference", "tied_parameters_count_once",
    "training_equals_the_reference",
)  # fmt: skip
"""Checks of what compilation could change; the whole kit takes more than half a minute uncompiled."""
BY_DAY = (
    "allocations_equal_the_reference", "batch_statistics_are_those_of_the_measuring_batch",
    "dropout_is_off", "frozen_statistics_are_used", "samples_equal_the_reference",
)  # fmt: skip
"""Of these, one for each way in which a batch is evaluated."""


def test_it_passes_the_kit():
    check_backend("tensorflow", samples=1)


def test_its_numbers_are_right_without_compilation():
    check_backend(TensorFlowBackend(run_eagerly=True), samples=1, only=NUMBERS if NIGHTLY else BY_DAY)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_the_demo_is_the_references_with_every_optimizer(optimizer):
    settings = {"model": "mlp:8", "steps": 12, "optimizer": optimizer, "dtype": "float64"}
    reference, ours = (
        run_demo(DemoSettings(backend=backend, **settings)).summary for backend in ("numpy", "tensorflow")
    )
    assert ours["per_tensor"].keys() == reference["per_tensor"].keys()
    for name, total in reference["per_tensor"].items():
        assert abs(ours["per_tensor"][name] - total) <= 1e-9 * reference["mass"], name
    assert abs(ours["loss_end"] - reference["loss_end"]) <= 2**20 * EPS64 * reference["loss_end"]
    assert ours["helping_percent"] == pytest.approx(reference["helping_percent"], abs=0.2)


def test_a_convolutional_demo_is_the_references():
    settings = {"model": "cnn", "steps": 4, "dtype": "float64"}
    reference, ours = (
        run_demo(DemoSettings(backend=backend, **settings)).summary for backend in ("numpy", "tensorflow")
    )
    for name, total in reference["per_tensor"].items():
        assert abs(ours["per_tensor"][name] - total) <= 1e-9 * reference["mass"], name
