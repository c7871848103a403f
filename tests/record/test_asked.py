"""What no record can hold is refused in one line, before anything is written."""

import os
import re

import numpy as np
import pytest

from lca import Layout, LCAError, Record, Step, StepAllocation, open_record
from lca.record import RecordError

LAYOUT = Layout(("a.weight", "a.bias"), ((2, 3), (2,)))


def allocation(step=0, values=None):
    values = np.arange(8.0) - 4 if values is None else values
    return StepAllocation(values, 2.0, 2.0, residual=0.0, mass=1.5, step=step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": True}, "block must be a whole number of rows from 1 to 65536, got True"),
        ({"block": "8"}, "block must be"),
        (
            {"mode": "a", "resume_at": "3"},
            "resume_at must be the index of a step, a whole number ≥ 0, got '3'",
        ),
        ({"mode": "a", "resume_at": 2.5}, "got 2.5"),
        ({"mode": "a", "resume_at": -1}, "got -1"),
        ({"mode": "a", "resume_at": True}, "got True"),
        ({"mode": "r"}, "unknown mode 'r'"),
        ({"values": "float16"}, "values must be 'float32', 'float64' or None, got 'float16'"),
        ({"theta": np.float32}, "theta must be"),
        ({"neurons": "no"}, "neurons must be True or False, got 'no'"),
        ({"histogram": 1}, "histogram must be"),
        ({"trace": "a.bias[0]"}, re.escape("pass trace=['a.bias[0]']")),
        ({"trace": [None]}, "trace holds None"),
        ({"trace": [1.5]}, "trace holds 1.5"),
        ({"settings": {1: 2}}, "the key 1, which is not a string"),
        ({"settings": "text"}, "settings must be a dictionary"),
        ({"layout": "x"}, "layout must be a lca.Layout, got 'x'"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(tmp_path, options, message):
    with pytest.raises(LCAError, match=message):
        Record(tmp_path / "r", options.pop("layout", LAYOUT), **options)
    assert not (tmp_path / "r").exists()
    Record(tmp_path / "r", LAYOUT).close()  # the lock is free


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, "a step is a StepAllocation, or one for each measured loss by name, got {}"),
        (None, "got None"),
        ([allocation()], "a step is a StepAllocation"),
        ({"train": "x"}, "the loss 'train' needs a StepAllocation, got 'x'"),
        ({"": allocation()}, "the name of a measured loss must be a string, got ''"),
        ({1: allocation()}, "must be a string, got 1"),
        (
            allocation(1.5),
            "the index of a step must be a whole number below 2^62, got 1.5".replace("^", r"\^"),
        ),
        (allocation(2**70), "the index of a step"),
        (allocation(values=np.full(8, np.nan)), "allocations of train in step 0 hold NaN or Inf"),
        (allocation(values=np.full(8, 1j)), "in step 0 are complex128, which a record cannot hold"),
        (allocation(values=np.array([np.inf, -np.inf, 0, 0, 0, 0, 0, 0])), "hold NaN or Inf"),
    ],
)
def test_a_step_that_is_none_is_refused_and_the_record_goes_on(tmp_path, step, message):
    with Record(tmp_path / "r", LAYOUT) as record:
        with pytest.raises(RecordError, match=message):
            record.update(step)
        record.update(allocation())
    assert open_record(tmp_path / "r").sizes["step"] == 1


def test_final_losses_are_finite_numbers(tmp_path):
    record = Record(tmp_path / "r", LAYOUT)
    record.update(allocation())
    with pytest.raises(RecordError, match="the final loss 'train' is nan; omit it"):
        record.close(final_losses={"train": float("nan")})
    record.close(final_losses={"train": np.float32(1)})
    assert open_record(tmp_path / "r").attrs["final_losses"] == {"train": 1.0}


def test_the_program_may_change_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with Record("run.zarr", LAYOUT, block=2) as record:
        record.update(allocation(0))
        os.chdir("other")
        for step in range(1, 5):
            record.update(allocation(step))
    assert open_record(tmp_path / "run.zarr").sizes["step"] == 5
    assert not list((tmp_path / "other").iterdir())


def test_a_link_to_a_record_has_the_same_one_writer(tmp_path):
    with Record(tmp_path / "run.zarr", LAYOUT) as record:
        record.update(allocation())
    (tmp_path / "link").symlink_to("run.zarr")
    with Record(tmp_path / "link", mode="a") as record:
        with pytest.raises(RecordError, match="is being written"):
            Record(tmp_path / "run.zarr", mode="a")
        record.update(allocation(1))
    assert open_record(tmp_path / "run.zarr").sizes["step"] == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere", "is a link to 'nowhere', which does not exist"), ("r", "cannot be locked")],
)
def test_a_link_that_leads_nowhere_is_refused(tmp_path, target, message):
    (tmp_path / "r").symlink_to(target)
    with pytest.raises(RecordError, match=message):
        Record(tmp_path / "r", LAYOUT, mode="w")


def test_files_that_were_deleted_in_mid_run_are_an_error(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, block=2)
    for step in range(3):
        record.update(allocation(step))
    for file in sorted((tmp_path / "r").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(
        RecordError, match="files of the record .* were deleted .* the 2 complete rows are lost"
    ):
        record.flush()


def test_a_label_may_be_zero_or_empty(tmp_path):
    with Record(tmp_path / "r", Layout(("w",), ((8,),)), trace=[0]) as record:
        one = StepAllocation(
            np.arange(8.0), 2.0, 1.5, residual=0.0, mass=1.5, source=Step(np.zeros(8), np.ones(8), 0)
        )
        record.update(one)
    assert open_record(tmp_path / "r").traced.values.tolist() == [0]


def test_an_empty_path_is_no_folder():
    with pytest.raises(RecordError, match="the path is empty"):
        Record("", LAYOUT)
