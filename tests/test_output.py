"""Result folders: invalid ones are refused early, files are written completely or not at all."""

from pathlib import Path

import pytest

from lca._output import check_writable, replace_folder, scratch_folder, write_files
from lca.errors import OutputError

OURS = b'"generator": "loss-change-allocation 0.1.0"'


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert tree(tmp_path) == []


def test_a_scratch_folder_is_on_the_same_file_system_and_is_removed_after_an_error(tmp_path):
    def fails(scratch):
        (scratch / "part").touch()
        assert scratch.parent == tmp_path  # the same file system, so a rename does not copy
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "a" / "b") as scratch:
        fails(scratch)
    assert tree(tmp_path) == []


def test_a_folder_replaces_another(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path) == ["old", "old/new.txt"]


@pytest.mark.parametrize("below", ["file", "file/a", "file/a/b"])
def test_a_folder_under_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write to the folder .*Not a directory.*choose another"):
        check_writable(tmp_path / below)
    with pytest.raises(OutputError, match="cannot write"):
        write_files(tmp_path / below, {"x": b"1"})
    assert tree(tmp_path) == ["file"]


def test_a_dangling_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="cannot write"):
        check_writable(tmp_path / "link" / "a")


def test_files_are_written_and_replaced(tmp_path):
    write_files(tmp_path / "a" / "b", {"x": b"1", "y": b"2"})
    with pytest.raises(OutputError, match="'.*x' exists already and was not made by lca"):
        write_files(tmp_path / "a" / "b", {"x": b"3"}, overwrite=True)
    (tmp_path / "a" / "b" / "x").write_bytes(OURS)
    with pytest.raises(OutputError, match="'.*x' exists already; pass --overwrite to replace it"):
        write_files(tmp_path / "a" / "b", {"x": b"3"})
    write_files(tmp_path / "a" / "b", {"x": b"3"}, overwrite=True)
    assert tree(tmp_path) == ["a", "a/b", "a/b/x", "a/b/y"]
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"3"


def test_a_failure_leaves_the_earlier_files_unchanged(tmp_path):
    write_files(tmp_path, {"x": b"old" + OURS})
    with pytest.raises(OutputError, match="No such file or directory"):
        write_files(tmp_path, {"x": b"new", "no/such/folder": b"2"}, overwrite=True)
    assert tree(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old" + OURS


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(path, content):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files(tmp_path, {"x": b"new"})
    assert tree(tmp_path) == []


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "data").touch()
    (tmp_path / "new").mkdir()
    rename, calls = Path.rename, []

    def fails_once(self, target):
        calls.append(self.name)
        if len(calls) == 2:
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(OSError, match="no space"):
        replace_folder(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path) == ["new", "old", "old/data"]
