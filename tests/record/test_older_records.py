"""Records written by older versions open under the present names; they are not continued.

``run-0.1.0.zarr.tar.xz`` was written by lca 0.1.0: three steps of two losses,
the second of which was not measured, with ``values="float32"``, one traced parameter and blocks of two rows.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from lca import Layout, Record, StepAllocation, open_record
from lca.record import SCHEMA_VERSION, RecordError, open_records

LAYOUT = Layout(("fc.weight", "fc.bias"), ((2, 2), (2,)))


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.zarr"
    with tarfile.open(Path(__file__).with_name("run-0.1.0.zarr.tar.xz")) as archive:
        # Before 3.11.4, Python has no filters; this archive is our own.
        archive.extractall(path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return path


def values(step, seed):
    """What was recorded."""
    return np.random.default_rng([seed, step]).integers(-2, 3, 6) / 8


def test_a_record_of_0_1_0_opens_under_the_present_names(old):
    run = open_record(old).load()
    assert (run.attrs["schema_version"], run.attrs["lca_version"]) == (1, "0.1.0")
    for seed, name in enumerate(("train", "sampled")):
        mine = run.sel(measured=name)
        rows = np.array([values(step, seed) for step in range(3)])
        weight, bias = rows[:, :4], rows[:, 4:]
        np.testing.assert_array_equal(mine["values"], rows)
        np.testing.assert_array_equal(mine.tensor_total, np.stack([weight.sum(1), bias.sum(1)], 1))
        for column, of in (("helping", np.less), ("hurting", np.greater), ("zero", np.equal)):
            counts = np.stack([of(weight, 0).sum(1), of(bias, 0).sum(1)], 1)
            np.testing.assert_array_equal(mine[f"tensor_{column}"], counts)
            np.testing.assert_array_equal(mine[f"layer_{column}"], counts.sum(1, keepdims=True))
        assert mine.sampled.values.tolist() == [bool(seed)] * 3
    assert not {name for name in run.variables if "helped" in name or name.endswith("_hurt")}


def test_an_old_record_has_the_variables_of_a_new_one(old, tmp_path):
    path = tmp_path / "new.zarr"
    with Record(path, LAYOUT, values="float32") as record:
        record.update({"train": StepAllocation(values(0, 0), 2.0, 1.0, residual=0.0, mass=1.0)})
    traced = {"trace_theta", "trace_movement", "trace_values", "traced", "traced_name"}
    assert set(open_record(old).variables) - traced == set(open_record(path).variables)


def test_an_old_record_is_not_continued_but_can_be_replaced(old):
    with pytest.raises(
        RecordError, match=rf"by lca 0\.1\.0 \(schema version 1\): it can be read, .*{SCHEMA_VERSION}, cannot"
    ):
        Record(old, mode="a")
    assert open_record(old).sizes["step"] == 3
    with Record(old, LAYOUT, mode="w") as record:
        record.update(StepAllocation(values(0, 0), 2.0, 1.0, residual=0.0, mass=1.0))
    assert open_record(old).attrs["schema_version"] == SCHEMA_VERSION


def test_old_records_are_compared_with_each_other(old):
    assert open_records([old, old]).sampled.dims[0] == "run"
