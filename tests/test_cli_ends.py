"""How `lca` owns its results, and how it ends: by signals, with a full device, with a wrong option."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

import lca._commands.demo
import lca._commands.demo_figures
import lca._commands.report
from lca import Record, open_record
from lca._cli import main
from lca._commands.demo import FIGURES, RESULTS
from tests.record.test_integrity import recorded

SMALL = ("--model", "mlp:4", "--steps", "2", "--batch-size", "50")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Leave the pictures out, but not their names."""
    monkeypatch.setattr(lca._commands.report, "report_file", lambda *_, **__: {})
    figures = {name: b"Software\0loss-change-allocation 0" for name in FIGURES}
    sampled = {name: figures[name] for name in ("cumulative.png", "totals.png")}
    monkeypatch.setattr(
        lca._commands.demo_figures, "draw_figures", lambda _, heldout: figures if heldout else sampled
    )


def demo(out, *options):
    return main(["demo", *SMALL, "--quiet", "--out", str(out), *options])


# --- ownership ---------------------------------------------------------------------------------------------


def fill(path, kind):
    if kind == "folder":
        (path / "precious").mkdir(parents=True)
        (path / "precious" / "data").write_text("mine")
    elif kind == "link":
        path.with_name("target").write_text('"generator": "loss-change-allocation 0.1.0"')
        path.symlink_to(path.with_name("target"))
    elif kind == "record and more":
        recorded(path)
        (path / "notes.txt").write_text("mine")
    else:
        path.write_text("mine: about loss-change-allocation")


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("kind", ["folder", "file", "link", "record and more"])
def test_the_demo_never_replaces_what_it_did_not_make(tmp_path, capsys, monkeypatch, name, kind):
    monkeypatch.setattr(lca._commands.demo, "run_demo", lambda *_: pytest.fail("trained for nothing"))
    out = tmp_path / "out"
    out.mkdir()
    fill(out / name, kind)
    before = tree(tmp_path)
    for options in ((), ("--overwrite",)):
        assert demo(out, *options) == 2
        error = capsys.readouterr().err
        assert f"{str(out / name)!r} exists already and was not made by lca, so --overwrite does not" in error
        assert tree(tmp_path) == before


def test_the_demo_replaces_its_own_results_on_request(tmp_path, capsys):
    assert demo(tmp_path) == 0
    (tmp_path / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    assert demo(tmp_path) == 2
    assert "exists already; pass --overwrite to replace it" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert demo(tmp_path, "--overwrite", "--estimator", "probe") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.txt", "summary.json", "run.zarr", "cumulative.png", "totals.png"}
    assert open_record(tmp_path / "run.zarr").attrs["settings"]["estimator"] == "probe"


def test_what_appears_during_the_run_is_not_replaced(tmp_path, monkeypatch):
    run = lca._commands.demo.run_demo

    def slow(*args):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "loss.png").write_text("mine")
        return run(*args)

    monkeypatch.setattr(lca._commands.demo, "run_demo", slow)
    assert demo(tmp_path / "out", "--overwrite") == 2
    assert tree(tmp_path) == {"out/loss.png": b"mine"}


def test_a_record_that_is_being_written_is_not_replaced(tmp_path, capsys):
    demo(tmp_path)
    with Record(tmp_path / "run.zarr", mode="a"):
        assert demo(tmp_path, "--overwrite") == 2
    assert "is being written" in capsys.readouterr().err


def test_a_failure_in_the_last_move_leaves_everything_as_it_was(tmp_path, monkeypatch):
    demo(tmp_path)
    before, rename = tree(tmp_path), type(tmp_path).rename

    def full(path, target):
        if target == tmp_path / "totals.png" and path.parent.name.startswith(".lca-"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", full)
    assert demo(tmp_path, "--overwrite", "--seed", "5") == 2
    assert tree(tmp_path) == before


# --- divergence --------------------------------------------------------------------------------------------


def test_a_demo_that_diverges_ends_with_status_1_and_says_so(tmp_path, capsys):
    options = ("--optimizer", "sgd", "--lr", "1e9", *SMALL, "--out", str(tmp_path))
    assert main(["demo", *options]) == 1
    assert "WARNING: the run diverged: the loss went from " in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] is True


# --- options -----------------------------------------------------------------------------------------------


COMMANDS = ["demo", "findings", "report", "compare", "record", "check", "estimators", "cite", "completion"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_shows_the_usage_of_the_subcommand(capsys, command):
    needed = {"report": ["x"], "compare": ["x"], "record": ["check", "x"], "completion": ["bash"]}.get(
        command, []
    )
    with pytest.raises(SystemExit, match="2"):
        main([command, *needed, "--nonsense"])
    error = capsys.readouterr().err
    assert error.startswith(f"usage: lca {command} ")
    assert f"lca {command}: error: unrecognized arguments: --nonsense" in error


def test_the_version_and_the_json(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["-V"])
    assert capsys.readouterr().out == f"lca {lca.__version__}\n"
    assert main(["demo", *SMALL, "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "summary.json").read_text())
    assert main(["estimators", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= {"rk4", "probe"}


def test_cite_finds_the_record_of_a_demo(tmp_path, capsys):
    demo(tmp_path)
    assert main(["cite", str(tmp_path)]) == 0
    assert "alpaydin1998digits" in capsys.readouterr().out
    assert main(["cite", "rk4"]) == 2
    assert "is an estimator and no record; pass --estimator rk4" in capsys.readouterr().err


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path, monkeypatch):
    recorded(tmp_path / "b\udcff.zarr")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["record", "check", str(tmp_path)]) == 0
    assert rb"b\udcff.zarr: 5 rows" in out.buffer.getvalue()


# --- ends --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Children inherit that SIGINT is ignored, as it is under ``nohup`` and in jobs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def program(*args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "lca", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


SLOW = """
import os, signal, sys
sys.argv[:], sys.orig_argv[:] = ["-m", *sys.argv[1:]], ["python", "-m", "lca", *sys.argv[1:]]
class Finder:
    def find_spec(self, name, *_):
        if name == WHERE:
            os.kill(os.getpid(), NUMBER)
sys.meta_path.insert(0, Finder())
from lca._cli import main
sys.exit(main(["demo", "--steps", "2", "--model", "mlp:2"]))
"""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        *(
            (where, "SIGINT")
            for where in ("lca.errors", "numpy", "lca._commands.check", "matplotlib", "tqdm")
        ),
        *((where, "SIGTERM") for where in ("numpy", "matplotlib")),
    ],
)
def test_a_signal_during_an_import_is_one_line(tmp_path, where, name):
    number = getattr(signal, name)
    status, said = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated")}[name]
    code = SLOW.replace("WHERE", repr(where)).replace("NUMBER", str(int(number)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip(), done.stdout) == (status, f"lca: {said}.", "")
    assert list(tmp_path.iterdir()) == []


def test_another_program_keeps_its_signals():
    code = (
        "import signal, lca; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; "
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "status", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_leaves_no_temporary_folder(tmp_path, name, status, said):
    process = program("demo", "--steps", "100000", cwd=tmp_path)
    while not any(tmp_path.glob(".lca-*/run.zarr")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err.strip(), out) == (status, f"lca: {said}.", "")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_says_nothing_of_coroutines_that_are_given_up(monkeypatch, capsys):
    async def pending():
        pass

    def run(_):
        waiting = pending()
        raise KeyboardInterrupt(waiting.__name__)

    monkeypatch.setattr("lca._cli._parse", lambda _: argparse.Namespace(run=run, traceback=False))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert main([]) == 130
    assert capsys.readouterr().err == "\nlca: interrupted.\n"
    assert not said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_output_is_an_error_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lca", "estimators"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "lca: error: cannot read or write the output (No space left on device).\n"


# --- completion --------------------------------------------------------------------------------------------


def completed(script, *words):
    call = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _lca; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{call}"], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_bash_completes_commands_options_and_values(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "lca", "de") == ["demo"]
    assert completed(script, "lca", "demo", "--over") == ["--overwrite"]
    assert completed(script, "lca", "demo", "--estimator", "rk") == ["rk4"]
    assert completed(script, "lca", "demo", "--dtype", "float") == ["float32", "float64"]
    assert completed(script, "lca", "estimators", "adap") == ["adaptive"]
    assert completed(script, "lca", "record", "ch") == ["check"]
    assert completed(script, "lca", "report", "x") == []  # file names are completed by bash


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_of_all_commands(capsys, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("demo", "report", "record", "estimators", "overwrite", "rk4", "float32"):
        assert word in script
