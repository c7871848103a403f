"""A record is read as it was written, or not at all; its name has one writer."""

import asyncio
import json
import os
import random
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
from zarr.storage import LocalStore

import lca
from lca import Layout, Record, StepAllocation, open_record
from lca.record import RecordError
from lca.record._check import check_record
from lca.record._store import BlockStore
from validation.record import damage

LAYOUT = Layout(("w",), ((3,),))


def allocation(step, value=1.0):
    return StepAllocation(np.full(3, value), 1.0, 1.0, residual=0.0, mass=1.0, step=step)


def recorded(path, steps=5, **options):
    with Record(path, LAYOUT, block=2, **options) as record:
        [record.update(allocation(step)) for step in range(steps)]
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    damage.make(path)
    return path, damage.everything(path)


@pytest.mark.parametrize("kind", [*damage.RANDOM, *damage.DIRECTED])
def test_damage_is_never_read_as_a_record(whole, tmp_path, kind):
    path, truth = whole
    rng = random.Random(kind)
    hurt = {**damage.RANDOM, **damage.DIRECTED}[kind]
    outcomes = [damage.trial(path, tmp_path / "copy.zarr", hurt, rng, truth) for _ in range(3)]
    assert "wrong" not in outcomes
    assert "error" in outcomes


def test_the_judge_of_damage_knows_a_wrong_record(whole, tmp_path):
    path, truth = whole
    other = {**truth, "total": [[0.0]] * damage.STEPS}
    assert damage.trial(path, tmp_path / "c.zarr", lambda *_: None, random.Random(0), truth) == "intact"
    assert damage.trial(path, tmp_path / "c.zarr", lambda *_: None, random.Random(0), other) == "wrong"


def test_an_open_reader_notices_that_the_record_was_cut(tmp_path):
    path = recorded(tmp_path / "r", 6)
    reader = open_record(path)
    with Record(path, mode="a", resume_at=2) as record:
        for step in range(2, 6):
            record.update(allocation(step, value=9.0))
    with pytest.raises(RecordError, match="was cut or replaced after it was opened; open it again"):
        reader.total.load()
    assert open_record(path).total.values.ravel().tolist() == [3.0, 3.0, 27.0, 27.0, 27.0, 27.0]


def test_an_open_reader_sees_its_rows_while_more_are_written(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, block=4)
    [record.update(allocation(step)) for step in range(6)]
    record.flush()
    reader = open_record(tmp_path / "r")
    record.update(allocation(6))
    record.flush()  # writes the file of row 5 again
    assert reader.total.values.ravel().tolist() == [3.0] * 6
    record.close()


@pytest.fixture
def killed_in_a_rewrite(tmp_path, monkeypatch):
    """A record whose writer was killed when the files with three rows had replaced those with two."""
    record = Record(tmp_path / "r", LAYOUT, block=4)
    [record.update(allocation(step)) for step in range(2)]
    record.flush()
    record.update(allocation(2))
    append = type(record._blocks._store._manifest).append

    def killed(manifest, path, **entry):
        if "rows" in entry:
            raise KeyboardInterrupt
        append(manifest, path, **entry)

    with monkeypatch.context() as patched:
        patched.setattr(type(record._blocks._store._manifest), "append", killed)
        with pytest.raises(KeyboardInterrupt):
            record.flush()
    record._release()
    return tmp_path / "r"


def test_a_writer_killed_while_it_rewrites_a_file_leaves_a_whole_record(killed_in_a_rewrite):
    assert open_record(killed_in_a_rewrite).total.values.ravel().tolist() == [3.0, 3.0]
    assert check_record(killed_in_a_rewrite).whole
    with Record(killed_in_a_rewrite, mode="a") as again:
        again.update(allocation(2))
    assert open_record(killed_in_a_rewrite).total.values.ravel().tolist() == [3.0] * 3


def test_damage_is_found_also_in_files_that_were_being_replaced(killed_in_a_rewrite):
    total, mass = (killed_in_a_rewrite / name / "c" / "0" / "0" for name in ("total", "mass"))
    total.write_bytes(mass.read_bytes())
    with pytest.raises(RecordError, match="'total/c/0/0' is not as it was written"):
        open_record(killed_in_a_rewrite).total.load()
    found = check_record(killed_in_a_rewrite)
    assert [each.name for each in found.variables if each.damage] == ["total"]


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """Otherwise the old contents would be compared with the new digest."""
    record = Record(tmp_path / "r", LAYOUT, block=2)
    [record.update(allocation(step)) for step in range(2)]
    reader, get = open_record(tmp_path / "r"), LocalStore.get

    async def slow(self, key, *args, **kwargs):
        found = await get(self, key, *args, **kwargs)
        if key == "total/c/0/0" and record.steps == 2:
            thread = Thread(target=lambda: [record.update(allocation(step)) for step in (2, 3)])
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(LocalStore, "get", slow)
    monkeypatch.setattr("lca.record._files.sync", asyncio.run)
    monkeypatch.setattr("zarr.core.array.sync", asyncio.run)
    assert reader.total.values.ravel().tolist() == [3.0, 3.0]
    assert open_record(tmp_path / "r").sizes["step"] == 4
    record.close()


def test_a_file_that_is_removed_after_the_record_was_opened_is_an_error(tmp_path):
    path = recorded(tmp_path / "r")
    reader = open_record(path)
    (path / "total" / "c" / "0" / "0").unlink()
    with pytest.raises(RecordError, match="'total/c/0/0' is not as it was written"):
        reader.total.load()


# --- few files -------------------------------------------------------------------------------------------


def files_in(path):
    return sum(file.is_file() for file in path.rglob("*"))


def test_a_short_run_of_few_parameters_takes_few_files(tmp_path):
    few, many = recorded(tmp_path / "few", 2), recorded(tmp_path / "many", 80)  # 1 and 40 blocks
    assert files_in(many) <= files_in(few) + 4 <= 100  # the two histograms have two files each
    assert open_record(many).total.values.ravel().tolist() == [3.0] * 80


def test_files_of_a_long_run_are_filled_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("lca.record._schema.FILE_BYTES", 8 * 2 * 3)  # three blocks of two numbers
    path = recorded(tmp_path / "r", 15)
    assert sorted(file.name for file in (path / "total" / "c").iterdir()) == ["0", "1", "2"]
    monkeypatch.undo()  # another version of lca may choose other files
    with Record(path, mode="a") as record:
        [record.update(allocation(step, value=2.0)) for step in range(15, 21)]
    assert open_record(path).total.values.ravel().tolist() == [3.0] * 15 + [6.0] * 6
    assert len(list((path / "total" / "c").iterdir())) == 4
    assert check_record(path).whole


def test_the_manifest_does_not_grow_with_every_block(tmp_path, monkeypatch):
    monkeypatch.setattr("lca.record._manifest._LONG", 1000)
    path, manifest = tmp_path / "r", tmp_path / "r" / "committed" / "manifest"
    with Record(path, LAYOUT, block=1) as record:
        record.update(allocation(0))
        short = manifest.stat().st_size
        for step in range(1, 40):
            record.update(allocation(step))
            assert open_record(path).sizes["step"] == step + 1
            assert manifest.stat().st_size < 1000 + 6 * short
    assert check_record(path).whole


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
def test_a_folder_that_goes_in_mid_run_is_an_error(tmp_path, what):
    record = Record(tmp_path / "r", LAYOUT, block=2)
    [record.update(allocation(step)) for step in range(3)]
    (tmp_path / "r").rename(tmp_path / "elsewhere")
    if what == "deleted":
        (tmp_path / "elsewhere").rename(tmp_path / ".trash")
    if what == "replaced":
        recorded(tmp_path / "other").rename(tmp_path / "r")
    with pytest.raises(RecordError, match="deleted, moved or replaced while the record was written"):
        record.update(allocation(3))


# --- one writer --------------------------------------------------------------------------------------------

WRITERS = [(exists, a, b) for exists in (False, True) for a in ("wa" if exists else "xwa") for b in "xwa"]


OTHER = """
import json, sys, lca

for line in sys.stdin:
    path, mode = json.loads(line)
    try:
        lca.Record(path, mode=mode)
        found = "it can be written"
    except lca.LCAError as error:
        found = str(error)
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def said_elsewhere():
    """A function from a path and a mode to what another process says that begins to write there."""
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def said(path, mode):
            other.stdin.write(json.dumps([str(path), mode]) + "\n")
            other.stdin.flush()
            return json.loads(other.stdout.readline())

        yield said
        other.stdin.close()


@pytest.mark.parametrize(("exists", "first", "second"), WRITERS)
def test_a_name_has_one_writer_in_every_mode(tmp_path, said_elsewhere, exists, first, second):
    path = tmp_path / "run.zarr"
    if exists:
        recorded(path)
    writer = Record(path, LAYOUT, mode=first)
    with pytest.raises(RecordError, match="is being written in this process"):
        Record(path, LAYOUT, mode=second)
    assert "is being written by another process" in said_elsewhere(path, second)
    writer.update(allocation(7))
    writer.close()
    assert open_record(path).step.values[-1] == 7
    assert [found.name for found in tmp_path.iterdir()] == ["run.zarr"]


def test_a_lock_survives_that_the_record_is_replaced(tmp_path):
    path = recorded(tmp_path / "r")
    writer = Record(path, LAYOUT, mode="w")
    writer.update(allocation(0))  # now the folder is another one
    with pytest.raises(RecordError, match="is being written"):
        Record(path, mode="a")
    writer.close()
    Record(path, mode="a").close()


def test_what_others_put_there_in_the_meantime_is_not_replaced(tmp_path):
    record = Record(tmp_path / "r", LAYOUT)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "precious").touch()
    with pytest.raises(RecordError, match="exists already"):
        record.update(allocation(0))
    assert (tmp_path / "r" / "precious").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")  # by JAX, if it is imported
def test_a_forked_child_neither_writes_nor_holds_the_lock(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, block=1)
    record.update(allocation(0))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            record.update(allocation(1))
        except RecordError as error:
            os.write(write, str(error).encode())
        os.read(os.open(os.devnull, os.O_RDONLY), 1)
        os._exit(0)
    assert b"from which this one was forked" in os.read(read, 1000)
    record.close()
    Record(tmp_path / "r", mode="a").close()  # also while a child lives
    os.waitpid(child, 0)
    assert open_record(tmp_path / "r").step.values.tolist() == [0]


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    other = recorded(tmp_path / "r")
    assert not other.exists()
    monkeypatch.setenv("RANK", "0")
    assert open_record(recorded(tmp_path / "r")).sizes["step"] == 5


def test_complete_is_what_the_manifest_says(tmp_path):
    path = recorded(tmp_path / "r")
    held = json.loads((path / "zarr.json").read_text())
    assert held["attributes"]["complete"] is True
    record = Record(path, mode="a")
    assert open_record(path).attrs["complete"] is False
    record.close(complete=False)
    assert open_record(path).attrs["complete"] is False


# --- what is not a record stays as it is -------------------------------------------------------------------


@pytest.mark.parametrize("what", ["precious/data", "notes.txt", "total/c/0/0/x", "total/notes"])
def test_a_record_with_something_else_in_it_is_not_replaced(tmp_path, what):
    path = recorded(tmp_path / "r")
    (path / what).parent.mkdir(parents=True, exist_ok=True) if what[:5] != "total" else None
    if what == "total/c/0/0/x":
        what = "total/c/x"
    (path / what).write_text("mine")
    with pytest.raises(RecordError, match="in it is not part of a record; move that"):
        Record(path, LAYOUT, mode="w")
    assert (path / what).read_text() == "mine"
    (path / what).unlink()
    if what == "precious/data":
        (path / "precious").rmdir()
    recorded(path, 3, mode="w")
    assert open_record(path).sizes["step"] == 3


def test_a_link_to_a_record_is_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to(recorded(tmp_path / "r"))
    with pytest.raises(RecordError, match="it is a link"):
        Record(tmp_path / "link", LAYOUT, mode="w")
    assert open_record(tmp_path / "link").sizes["step"] == 5


@pytest.mark.parametrize(
    "name", ["s3://b/r.zarr", "memory://r", "simplecache::s3://b", "a\0b", "\ud800", "x" * 300]
)
def test_what_is_no_local_path_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for use in (open_record, lambda path: Record(path, LAYOUT), lambda path: Record(path, LAYOUT, mode="a")):
        with pytest.raises(RecordError, match="is a URL|no path can have|File name too long"):
            use(name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_whose_lock_would_be_too_long_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"cannot be locked \(File name too long\)"):
        Record(tmp_path / ("x" * 255), LAYOUT)


@pytest.mark.parametrize("settings", ["text", [1], 3])
def test_settings_are_a_dictionary(tmp_path, settings):
    with pytest.raises(RecordError, match="settings must be a dictionary"):
        Record(tmp_path / "r", LAYOUT, settings=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [{1, 2}, np.float32(1), float("nan"), b"x"])
def test_a_setting_that_is_no_json_is_named_before_training(tmp_path, value):
    with pytest.raises(RecordError, match=r"settings\['lr'\] does not fit in JSON .*float\(x\)"):
        Record(tmp_path / "r", settings={"seed": 1, "lr": value})


@pytest.mark.parametrize("estimator", ["adaptive", 5, lca.Adaptive])
def test_an_estimator_is_one(tmp_path, estimator):
    with pytest.raises(RecordError, match="estimator must be an Estimator, got"):
        Record(tmp_path / "r", estimator=estimator)
    with pytest.raises(RecordError, match="estimator must be an Estimator, got"):
        Record(tmp_path / "r").begin(LAYOUT, estimator=estimator)


def test_settings_of_great_depth_and_names_that_are_no_text_are_refused(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecordError, match=r"settings\['deep'\] does not fit in JSON"):
        recorded(tmp_path / "r", settings={"deep": deep})
    odd = Layout(("w\ud800",), ((3,),))
    with pytest.raises(RecordError, match=r"the name 'w.ud800' contains characters that cannot be encoded"):
        Record(tmp_path / "r", odd).update(allocation(0))
    assert not (tmp_path / "r").exists()


def test_values_that_do_not_fit_the_dtype_are_refused(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, values="float32")
    record.update(allocation(0))
    with pytest.raises(RecordError, match=r"values up to 1e\+39 do not fit in float32; .*values='float64'"):
        record.update(allocation(1, 1e39))
    record.update(allocation(1))
    record.close()
    assert open_record(tmp_path / "r").sizes["step"] == 2


def test_two_writers_killed_before_they_counted_leave_a_readable_record(tmp_path, monkeypatch):
    """The array ``committed`` is written after the manifest, so a kill may leave it one block behind."""
    write, path = BlockStore.write, tmp_path / "run"

    def killed(self, *written):
        with monkeypatch.context() as patch:
            patch.setattr(self, "_count", np.zeros(1))  # the count is lost
            write(self, *written)

    for first in (0, 3):
        record = Record(path, LAYOUT, mode="a")
        for step in range(first, first + 3):
            record.update(allocation(step))
        with monkeypatch.context() as patch:
            patch.setattr(BlockStore, "write", killed)
            record.flush()
        record._blocks = None
        record.close()
        assert open_record(path).sizes["step"] == first + 3
