"""Records written by older versions open under the present names; they are not continued.

``run-0.1.0.zarr.tar.xz`` was written by lca 0.1.0: three steps of two losses,
the second of which was not measured, with ``values="float32"``, one traced parameter and blocks of two rows.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lca import Layout, Record, StepAllocation, Trajectory, measure, open_record, open_runs
from lca._cli import main
from lca.analysis import checked_windows
from lca.record import SCHEMA_VERSION, RecordError, _about, _record, _schema
from lca.record._schema import columns
from lca.reference import Quadratic
from lca.runs._balance import check_conservation
from lca.runs._run import Run

LAYOUT = Layout(("fc.weight", "fc.bias"), ((2, 2), (2,)))


@pytest.fixture
def old(tmp_path):
    return extracted("run-0.1.0", tmp_path / "old.zarr")


def extracted(name, path):
    with tarfile.open(Path(__file__).with_name(f"{name}.zarr.tar.xz")) as archive:
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


def test_a_record_from_before_the_self_check_has_none(tmp_path):
    run = open_record(extracted("run-0.1.0", tmp_path / "old.zarr"))
    assert run.attrs["schema_version"] == 1
    assert run.total.values[:, 0].tolist() == [values(step, 0).sum() for step in range(3)]
    assert run.sampled.values.tolist() == [[False, True]] * 3
    assert np.isnan(run.checked_change.values).all()
    assert np.isnan(run.path_difference.values).all()
    for measured in ("train", "sampled"):
        windows, margin = checked_windows(run, measured)
        assert (windows, np.isnan(margin)) == ([], True)
    for_page = Run(run)
    assert check_conservation(for_page, "sampled").verdict()[1].startswith("Not checked: this estimator")


def test_a_record_of_schema_4_does_not_know_what_was_added_since(tmp_path, monkeypatch):
    added = {"checked_examples", "state_moved"}

    def without(cells):
        return lambda *given: {name: v for name, v in cells(*given).items() if name not in added}

    quadratic, points = Quadratic(np.eye(2)), [np.ones(2), np.zeros(2)]
    with monkeypatch.context() as patched:
        patched.setattr(_about, "SCHEMA_VERSION", 4)
        patched.setattr(_schema, "columns", lambda has: [c for c in columns(has) if c.name not in added])
        patched.setattr(_record, "step_cells", without(_record.step_cells))
        patched.setattr(_record, "loss_cells", without(_record.loss_cells))
        measure(quadratic, Trajectory(points), record=tmp_path / "r")
    run = open_record(tmp_path / "r").load()
    assert run.attrs["schema_version"] == 4
    assert np.isnan(run.checked_examples.values).all()
    assert (run.get("state_moved"), Run(run).state_moved_steps) == (None, 0)
    with pytest.raises(RecordError, match=r"\(schema version 4\): it can be read, .* cannot continue it"):
        Record(tmp_path / "r", mode="a")
    measure(quadratic, Trajectory(points), record=Record(tmp_path / "r", mode="w"))
    assert added <= set(open_record(tmp_path / "r").variables)


def test_an_old_record_is_not_continued_but_can_be_replaced(old):
    with pytest.raises(
        RecordError, match=rf"by lca 0\.1\.0 \(schema version 1\): it can be read, .*{SCHEMA_VERSION}, cannot"
    ):
        Record(old, mode="a")
    assert open_record(old).sizes["step"] == 3
    with Record(old, LAYOUT, mode="w") as record:
        record.update(StepAllocation(values(0, 0), 2.0, 1.0, residual=0.0, mass=1.0))
    assert open_record(old).attrs["schema_version"] == SCHEMA_VERSION


def test_an_old_record_is_compared_with_others(old, tmp_path):
    shutil.copytree(old, tmp_path / "copy.zarr")
    runs = open_runs([old, tmp_path / "copy.zarr"])
    assert runs.series().sizes["run"] == 2


def edited(old, **attributes):
    """An old record, which has no digests, with other attributes."""
    file = old / "zarr.json"
    description = json.loads(file.read_text())
    description["attributes"] |= attributes
    file.write_text(json.dumps(description))
    return old


def layout(**changes):
    stored = {"names": ["fc.weight", "fc.bias"], "shapes": [[2, 2], [2]], "neuron_axes": [0, 0], **changes}
    return json.dumps(stored)


HOSTILE = {
    "settings": {"settings": "text"},
    "null": {"settings": None},
    "block": {"block": 10**12},
    "block as text": {"block": "8"},
    "measured": {"measured": ["a"]},
    "a huge layer": {"layout": layout(shapes=[[20_000, 10_000], [20_000]])},
    "huge, and of one axis": {"layout": layout(shapes=[[200_000_000], [2]], neuron_axes=[0, 0])},
    "deep": {"layout": "[" * 100_000},
    "deep content": {"content": '{"a":' * 100_000},
    "no layout": {"layout": "{}"},
}


@pytest.mark.parametrize("attributes", HOSTILE.values(), ids=HOSTILE)
def test_edited_attributes_are_an_error_in_one_line(old, attributes):
    with pytest.raises(RecordError) as caught:
        open_record(edited(old, **attributes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_description_of_great_depth_is_an_error(old, capsys):
    (old / "zarr.json").write_text('{"attributes": ' + "[" * 100_000 + "]" * 100_000 + "}")
    for use in (open_record, lambda path: Record(path, LAYOUT, mode="w")):
        with pytest.raises(
            RecordError, match=r"is not a record, or its zarr.json is damaged \(RecursionError"
        ):
            use(old)
    for command in (["report", str(old)], ["record", "check", str(old)], ["cite", str(old)]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_an_old_record_is_not_checked(old, capsys):
    assert main(["record", "check", str(old)]) == 2
    assert "was written by lca 0.1.0, which kept no digests" in capsys.readouterr().err
