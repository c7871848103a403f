"""What a record does when its writer is killed, the disk is full, or files are not what they should be."""

import gc
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from zarr.core.sync import sync

from lca import Layout, LCAError, Record, StepAllocation, open_record
from lca._cli import main
from lca.errors import LayoutError, LCAWarning, UnknownNameError
from lca.record import SCHEMA_VERSION, RecordError, close_record
from validation.record.kill import BLOCK, kill

LAYOUT = Layout(("w",), ((3,),))


def allocation(step, **kwargs):
    kwargs = {"residual": 0.0, "mass": 1.0} | kwargs
    return StepAllocation(np.full(3, step + 1.0), 1.0, 1.0, step=step, **kwargs)


@pytest.fixture
def path(tmp_path, one_block_a_file):
    """A complete record with five steps, in blocks of two."""
    with Record(tmp_path / "run.zarr", LAYOUT, block=2) as record:
        for step in range(5):
            record.update(allocation(step))
    return tmp_path / "run.zarr"


def change_json(file, **changes):
    held = json.loads(file.read_text())
    held["attributes"] |= changes
    file.write_text(json.dumps(held))


def test_a_killed_process_loses_at_most_a_block(tmp_path):
    rng = np.random.default_rng(0)
    rows = 0
    for _ in range(4):
        written = int(rng.integers(BLOCK, 3 * BLOCK))
        killed = kill(tmp_path / "run.zarr", written, rng.uniform(0.0, 0.1))  # checks every row that is left
        assert killed.began == rows
        # One more than was said, if the kill came when the row was there and had not been said yet.
        assert -1 <= killed.lost <= BLOCK
        rows = killed.kept
    assert rows > 0


class Full:
    """Lets so many files be written, then the disk is full."""

    def __init__(self, monkeypatch, files, slow=0.0):
        import zarr.storage._local as local  # noqa: PLC0415

        real, self.left = local._put, files

        def put(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            time.sleep(slow)
            return real(*args, **kwargs)

        monkeypatch.setattr(local, "_put", put)


@pytest.mark.parametrize("files", [0, 1, 15, 29])  # a block is written as 30 files
def test_a_full_disk_is_an_error_and_what_was_written_stays(tmp_path, monkeypatch, files):
    record = Record(tmp_path / "r", LAYOUT, block=2)
    for step in range(3):
        record.update(allocation(step))
    full = Full(monkeypatch, files)
    with pytest.raises(
        RecordError, match=r"No space left on device.*; its first 2 rows are complete.*Free some space"
    ):
        record.update(allocation(3))
    assert open_record(tmp_path / "r").load().step.values.tolist() == [0, 1]
    for step in (4, 5):
        with pytest.raises(RecordError, match="No space left"):
            record.update(allocation(step))  # kept, until there is room
    full.left = 10**6
    record.update(allocation(6))
    record.close()
    run = open_record(tmp_path / "r").load()
    assert run.step.values.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert run.total[:, 0].values.tolist() == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0]
    assert run.attrs["complete"] is True


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        layout = Layout(("w",), ((20_000,),))
        rng = np.random.default_rng(0)
        noise = (StepAllocation(rng.normal(size=20_000), 1.0, 0.5, 0.0, 1.0, step) for step in range(100))
        record = Record(disk / "r", layout, values="float64", block=2)
        with pytest.raises(RecordError, match="No space left on device"):
            [record.update(found) for found in noise]
        run = open_record(disk / "r").load()
        assert 0 < run.sizes["step"] < record.next_step
        with pytest.warns(LCAWarning, match="could not be written: .*No space left"):  # noqa: PT031
            del record  # it keeps the folder open, and may be garbage in a cycle
            gc.collect()
        assert np.isfinite(run["values"]).all()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("files", [0, 1, 18, 31, 58])  # at 18 and 58 another write is under way
def test_a_disk_that_is_full_at_once_leaves_nothing(tmp_path, monkeypatch, files):
    Full(monkeypatch, files, slow=0.03)  # of several writes at once, the first fails before the others end
    record = Record(tmp_path / "r", LAYOUT)
    with pytest.raises(RecordError, match="cannot write the record"):
        record.update(allocation(0))
    record.close()
    time.sleep(0.05)  # what was begun has ended
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_was_taken_in_is_not_taken_in_twice(tmp_path, monkeypatch):
    record = Record(tmp_path / "r", LAYOUT, block=2)
    record.update(allocation(0))
    full = Full(monkeypatch, 20)
    with pytest.raises(RecordError, match="No space left"):
        record.update(allocation(1))
    full.left = 10**6
    with pytest.raises(RecordError, match="step 1 is not new"):
        record.update(allocation(1))
    full.left = 0
    with pytest.raises(RecordError, match="No space left"):
        record.close()
    full.left = 10**6
    record.close()
    assert open_record(tmp_path / "r").step.values.tolist() == [0, 1]


def test_a_second_writer_is_refused_while_the_first_is_alive(path):
    first = Record(path, mode="a")
    with pytest.raises(RecordError, match="is being written in this process"):
        Record(path, mode="a")
    first.close()
    second = Record(path, mode="a")
    del second  # not closed, but gone
    third = Record(path, mode="a")
    code = "import sys, lca; lca.Record(sys.argv[1], mode='a')"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "is being written by another process" in done.stderr
    third.update(allocation(5))
    third.close()
    assert open_record(path).step.values.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_rows_of_a_record_that_is_collected_are_written(tmp_path):
    record = Record(tmp_path / "r", LAYOUT)
    record.update(allocation(0))
    record.add_metrics({"accuracy": 0.5}, step=1)
    del record
    found = open_record(tmp_path / "r")
    assert (found.step.values.tolist(), found.attrs["complete"]) == ([0], False)
    assert found.attrs["metrics"] == {"accuracy": {"step": [1], "value": [0.5]}}
    with Record(tmp_path / "r", mode="a") as record:
        assert record.next_step == 1


def test_a_record_in_a_cycle_makes_way_for_the_next_writer(tmp_path):
    record = Record(tmp_path / "r", LAYOUT)
    record.update(allocation(0))
    cycle = [record]
    cycle.append(cycle)
    del cycle, record
    with Record(tmp_path / "r", mode="a") as record:
        assert record.next_step == 1


def test_a_record_that_is_collected_in_the_thread_of_zarr_is_written(tmp_path):
    """There, nothing can wait for what Zarr writes."""
    held = [Record(tmp_path / "r", LAYOUT)]
    held[0].update(allocation(0))

    async def collect():
        held.clear()

    sync(collect())
    while (tmp_path / ".r.lock").exists():
        time.sleep(0.01)
    assert open_record(tmp_path / "r").step.values.tolist() == [0]


def test_rows_that_cannot_be_written_when_a_record_is_collected_are_told(tmp_path, monkeypatch):
    record = Record(tmp_path / "r", LAYOUT)
    record.update(allocation(0))
    full = Full(monkeypatch, 0)
    with pytest.warns(LCAWarning, match="record that was not closed could not be written: .*r'"):
        del record
    full.left = 10**6
    with pytest.raises(RecordError, match="exists already"):
        Record(tmp_path / "r")  # another may write it


def test_a_record_that_was_deleted_is_collected_without_a_word(tmp_path):
    record = Record(tmp_path / "r", LAYOUT)
    record.update(allocation(0))
    shutil.rmtree(tmp_path / "r")
    del record
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_a_record_that_is_not_closed_are_written_at_exit(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from lca import Layout, Record, StepAllocation\n"
        "record = Record(sys.argv[1], Layout(('w',), ((3,),)))\n"
        "record.update(StepAllocation(np.ones(3), 1.0, 1.0, residual=0.0, mass=1.0))\n"
        "raise KeyError('an error of the program')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.endswith("KeyError: 'an error of the program'\n")
    found = open_record(tmp_path / "r")
    assert (found.step.values.tolist(), found.attrs["complete"]) == ([0], False)
    assert [file.name for file in tmp_path.iterdir()] == ["r"]


def test_close_record_closes_what_nobody_can_close_any_more(tmp_path):
    writer = Record(tmp_path / "r", LAYOUT, mode="a")
    writer.update(allocation(0))
    with pytest.raises(RecordError, match=r"in this process, .* lca\.record\.close_record\('.*r'\)"):
        Record(tmp_path / "r", mode="a")
    close_record(tmp_path / "r")
    with Record(tmp_path / "r", mode="a") as record:
        assert record.next_step == 1
    with pytest.raises(RecordError, match="is closed"):
        writer.update(allocation(1))
    with pytest.raises(RecordError, match="writes no record at '.*r'; there is nothing to close"):
        close_record(tmp_path / "r")


def test_a_line_of_the_manifest_that_was_cut_off_does_not_spoil_the_next(path):
    """A kill, or a full disk, in the middle of a line."""
    manifest = path / "committed" / "manifest"
    manifest.write_bytes(manifest.read_bytes() + b"0123abcd {")
    with Record(path, mode="a") as record:
        with manifest.open("ab") as file:
            file.write(b"0123")
        record.update(allocation(5))
    assert open_record(path).load().step.values.tolist() == [0, 1, 2, 3, 4, 5]


def test_leftovers_of_a_killed_writer_go(path):
    leftover = path / "total" / "c" / "0" / "0.abc.partial"
    leftover.touch()
    Record(path, mode="a").close()
    assert not leftover.exists()


@pytest.mark.parametrize("use", [open_record, lambda path: Record(path, mode="a")], ids=["open", "continue"])
def test_a_record_of_a_newer_version_is_refused(path, use):
    change_json(path / "zarr.json", schema_version=SCHEMA_VERSION + 1, lca_version="9.9")
    with pytest.raises(
        RecordError,
        match=rf"version {SCHEMA_VERSION + 1}, written by lca 9\.9; .* up to {SCHEMA_VERSION}; install the",
    ):
        use(path)


def damage_lost_file(path):
    (path / "total" / "c" / "1" / "0").unlink()


def damage_lost_array(path):
    shutil.rmtree(path / "mass")


def damage_lost_layout(path):
    held = json.loads((path / "zarr.json").read_text())
    del held["attributes"]["layout"]
    (path / "zarr.json").write_text(json.dumps(held))


def damage_short_array(path):
    held = json.loads((path / "mass" / "zarr.json").read_text())
    held["shape"][0] = 3
    (path / "mass" / "zarr.json").write_text(json.dumps(held))


def damage_cut_json(path):
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text[: len(text) // 2])


def damage_cut_labels(path):
    (path / "tensor" / "c" / "0").write_bytes(b"")


DAMAGE = {
    "lost file": (damage_lost_file, r"is damaged: 'total/c/1/0' is missing\. Was it copied in part\?"),
    "lost array": (damage_lost_array, r"is damaged: .*'mass/zarr.json' cannot be read"),
    "lost layout": (damage_lost_layout, r"is damaged: the description in its zarr\.json .*'layout'"),
    "short array": (damage_short_array, r"is damaged: mass has 3 of 5 rows"),
    "cut zarr.json": (damage_cut_json, r"is not a record, or its zarr\.json is damaged"),
    "cut labels": (damage_cut_labels, r"is damaged"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_when_the_record_is_opened(path, what):
    damage, message = DAMAGE[what]
    damage(path)
    with pytest.raises(RecordError, match=message):
        open_record(path)


@pytest.mark.parametrize("damage", [damage_lost_array, damage_lost_layout])
def test_a_damaged_record_is_not_continued(path, damage):
    damage(path)
    with pytest.raises(RecordError, match=r"is damaged: .* cannot be read"):
        Record(path, mode="a")


def spoil(file, keep):
    """Slices the file, or turn over one bit of it if all is kept."""
    content = bytearray(file.read_bytes()[: int(keep * file.stat().st_size)])
    if keep == 1:
        content[-6] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["total", "layer_total", "loss_end", "values"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9, 1.0])
def test_a_spoilt_file_is_never_read_as_numbers(tmp_path, name, keep):
    path = tmp_path / "run.zarr"
    with Record(path, LAYOUT, values="float32") as record:
        [record.update(allocation(step)) for step in range(5)]
    [file, *_] = (found for found in sorted((path / name / "c").rglob("*")) if found.is_file())
    spoil(file, keep)
    if keep:
        run = open_record(path)
        with pytest.raises(RecordError, match=f"'{name}/c/.*' is not as it was written.* copy it again"):
            run[name].load()
        assert run.mass.load().shape == (5, 1)
    else:
        with pytest.raises(RecordError, match=f"'{name}/c/.*' is empty"):
            open_record(path)
    with pytest.raises(RecordError, match=rf"'{name}/c/.*' is (not as it was written|empty)"):
        Record(path, mode="a")


def test_the_command_says_what_is_damaged_in_one_line(path, tmp_path, capsys):
    spoil(path / "layer_total" / "c" / "0" / "0" / "0", 0.5)
    assert main(["report", str(path), "-o", str(tmp_path / "report.html")]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "'layer_total/c/0/0/0' is not as it was written" in line
    assert not (tmp_path / "report.html").exists()


def test_pickled_arrays_are_refused(path):
    held = json.loads((path / "total" / "zarr.json").read_text())
    held["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
    (path / "total" / "zarr.json").write_text(json.dumps(held))
    with pytest.raises(RecordError, match="'total/zarr.json' is not as it was written"):
        open_record(path)


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(RecordError, match="there is no record"):
        open_record(tmp_path / "nothing.zarr")
    with pytest.raises(RecordError, match="is not a record"):
        open_record(tmp_path)
    import zarr  # noqa: PLC0415

    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(RecordError, match="is a Zarr group, but not a record of lca"):
        open_record(tmp_path / "other.zarr")


def closed(path):
    record = Record(path, mode="a")
    record.close()
    return record


REFUSED = {
    "exists": (
        Record,
        RecordError,
        r".* exists already; .*replaces it: record=lca.Record.path, mode='w'.",
    ),
    "mode": (lambda p: Record(p, mode="r"), UnknownNameError, r"unknown mode 'r'; known: a, w, x"),
    "block": (
        lambda p: Record(p / "x", block=0),
        RecordError,
        r"block must be a whole number of rows from 1 to 65536, got 0",
    ),
    "resume": (lambda p: Record(p / "x", resume_at=3), RecordError, r"resume_at=3 needs mode='a'"),
    "layout": (
        lambda p: Record(p, Layout(("v",), ((3,),)), mode="a"),
        LayoutError,
        r"the record '.*' and the run must share one layout",
    ),
    "again": (
        lambda p: Record(p, mode="a").update(allocation(3)),
        RecordError,
        r"step 3 is not new to the record .* continues at step 5; .* or pass resume_at=3",
    ),
    "names": (
        lambda p: Record(p, mode="a").update({"heldout": allocation(5)}),
        RecordError,
        r"step 5 measures heldout, but the record '.*' holds train",
    ),
    "closed": (
        lambda p: closed(p).update(allocation(5)),
        RecordError,
        r"is closed; continue it with .*mode='a'",
    ),
    "no layout": (
        lambda p: Record(p / "x").update(allocation(0)),
        RecordError,
        r"does not know the layout.*Record\(path, objective\.layout\)",
    ),
    "values": (
        lambda p: Record(p / "x", Layout(("v",), ((4,),))).update(allocation(0)),
        LayoutError,
        r"values of step 0: expected shape \(4,\)",
    ),
    "no step": (
        lambda p: Record(p / "x", LAYOUT, theta="float32").update(allocation(0)),
        LCAError,
        r"theta and trace need θ, but the allocation of step 0 has no source",
    ),
    "trace": (
        lambda p: Record(p / "x", LAYOUT, trace=["v[0]"]),
        UnknownNameError,
        r"unknown tensor 'v'; known: w",
    ),
    "trace entry": (
        lambda p: Record(p / "x", LAYOUT, trace=["w[7]"]),
        LayoutError,
        r"'w\[7\]' is not an entry of 'w', which has shape \(3,\); the first entry is 'w\[0\]'",
    ),
    "trace, told later": (
        lambda p: Record(p / "x", trace=[3]).begin(LAYOUT),
        LayoutError,
        r"position 3 is outside θ, which has 3 entries",
    ),
    "other content": (
        lambda p: Record(p, mode="a", values="float32"),
        RecordError,
        r"was created with values=None and cannot be continued with values='float32'; omit the option",
    ),
    "settings": (
        lambda p: Record(p / "x", LAYOUT, settings={"model": object()}),
        RecordError,
        r"settings\['model'\] does not fit in JSON",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused(path, what):
    do, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        do(path)
    assert open_record(path).load().step.values.tolist() == [0, 1, 2, 3, 4]
    assert not (path / "x").exists()


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LCAError, match="cannot write to the folder"):
        Record(tmp_path / "file" / "run.zarr", LAYOUT)
