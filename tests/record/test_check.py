"""`lca record check` finds what is damaged, names what is whole, and saves it."""

import json
import shutil

import pytest

from lca import Record, open_record
from lca._cli import main
from lca.record import RecordError
from lca.record._check import check_record, save_rows
from tests.record.test_integrity import LAYOUT, allocation, recorded


@pytest.fixture
def path(tmp_path, one_block_a_file):
    return recorded(tmp_path / "run.zarr", 7)


def test_a_whole_record_is_whole(path):
    found = check_record(path)
    assert (found.whole, found.complete, found.rows, found.whole_rows) == (True, True, 7, 7)
    names = {each.name for each in found.variables} - {"", "committed"}
    assert names == set(open_record(path).variables) - {"step"} | {"step"}


def damage(path, what):
    file = path / what
    if what.endswith("zarr.json"):
        file.write_bytes(file.read_bytes().replace(b'"', b"'", 1))
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"\0\0")


@pytest.mark.parametrize(
    ("what", "lost", "rows"),
    [
        ("total/c/1/0", [(2, 4)], 2),
        ("residual/c/3/0", [(6, 7)], 6),
        ("step/c/0", [(0, 2)], 0),
        ("layer/c/0", [], 0),
        ("mass/zarr.json", [], 0),
        ("zarr.json", [], 0),
    ],
)
@pytest.mark.parametrize("gone", [True, False], ids=["missing", "changed"])
def test_damage_is_found_where_it_is(path, what, lost, rows, gone):
    variable = what.partition("/")[0].replace("zarr.json", "")
    (path / what).unlink() if gone else damage(path, what)
    found = check_record(path)
    assert not found.whole
    assert found.whole_rows == rows
    damaged = {each.name: each for each in found.variables if each.damage}
    assert list(damaged) == [variable]
    assert damaged[variable].damage == [f"{what} is {'missing' if gone else 'not as it was written'}"]
    assert damaged[variable].lost == lost


def test_the_rows_that_are_whole_are_saved_and_continued(path, tmp_path):
    (path / "total/c/2/0").unlink()
    with pytest.raises(RecordError, match="is damaged"):
        open_record(path)
    found = check_record(path)
    save_rows(found, tmp_path / "new.zarr")
    assert open_record(tmp_path / "new.zarr").total.values.ravel().tolist() == [3.0] * 4
    assert check_record(tmp_path / "new.zarr").whole
    with Record(tmp_path / "new.zarr", mode="a") as record:
        assert record.next_step == 4
        record.update(allocation(4, 2.0))
    assert open_record(tmp_path / "new.zarr").total.values.ravel().tolist() == [3.0] * 4 + [6.0]
    with pytest.raises(RecordError, match="exists already"):
        save_rows(found, tmp_path / "new.zarr")
    assert check_record(path).whole_rows == 4  # the damaged one is as it was


def test_nothing_is_saved_of_nothing(path, tmp_path):
    (path / "total/c/0/0").unlink()
    with pytest.raises(RecordError, match="no row of the record"):
        save_rows(check_record(path), tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()


def test_a_record_that_is_being_written_is_whole(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, block=4)
    [record.update(allocation(step)) for step in range(6)]
    record.flush()
    found = check_record(tmp_path / "r")
    assert (found.whole, found.complete, found.rows) == (True, False, 6)
    record.close()


def test_the_command_says_it_in_text_and_json(path, tmp_path, capsys):
    assert main(["record", "check", str(tmp_path)]) == 0
    assert "7 rows (complete)" in capsys.readouterr().out
    (path / "total/c/2/0").unlink()
    assert main(["record", "check", str(path), "--save", str(tmp_path / "new")]) == 1
    printed = capsys.readouterr().out
    assert "total  DAMAGED: total/c/2/0 is missing (rows 4 to 5)" in printed
    assert "The first 4 rows are whole in all variables" in printed
    assert open_record(tmp_path / "new").sizes["step"] == 4
    assert main(["record", "check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["whole"], found["rows"], found["whole_rows"]) == (False, 7, 4)
    assert found["variables"]["total"] == {
        "whole": False,
        "damage": ["total/c/2/0 is missing"],
        "lost_rows": [[4, 6]],
    }
    assert main(["record", "check", str(path), "--quiet"]) == 1
    assert capsys.readouterr().out == ""


def test_what_cannot_be_checked_is_named(path, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (path / "committed/manifest").write_bytes(b"")
    for place, said in (
        (tmp_path / "empty", "is not a record and holds none"),
        (tmp_path / "none", "does not exist"),
        (path, "'committed/manifest'"),
    ):
        assert main(["record", "check", str(place)]) == 2
        assert said in capsys.readouterr().err
    shutil.rmtree(path)
