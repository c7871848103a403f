"""Groups of a run in JAX: the sums of whole tensors, in the summary and in the record."""

import numpy as np
import pytest

import lca
from lca.analysis import group_totals
from lca.errors import LCAError
from lca.tolerances import EPS64, summed
from tests.lca_jax.tracked_run import JaxRun


def test_groups_add_up_and_are_recorded(tmp_path):
    run = JaxRun(groups={"first": "^fc1", "kind": {"biases": "bias$"}}, record=tmp_path / "run.zarr")
    with run.tracker:
        for at in range(3):
            run.update(np.arange(8 * at, 8 * at + 8) % 24)
    summary = run.tracker.summary()["train"]
    limit = summed(summary["mass"], EPS64)
    first = sum(total for name, total in summary["per_tensor"].items() if name.startswith("fc1"))
    assert abs(summary["per_group"]["group"]["first"] - first) <= limit
    record = lca.open_record(tmp_path / "run.zarr")
    for division, sums in summary["per_group"].items():
        assert abs(sum(sums.values()) - summary["lca_total"]) <= limit
        stored = group_totals(record, division).sum(axis=0)
        assert (np.abs(stored - np.array([*sums.values()])) <= limit).all()


def test_heads_of_a_network_without_attention_are_refused():
    with pytest.raises(LCAError, match="heads=2 divides attention layers, and no projection is known"):
        JaxRun(heads=2)
