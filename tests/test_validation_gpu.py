"""`validation.gpu`: all of it runs on a CPU, with few packages, and what ends a part loses that part only."""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

pytest.importorskip("torch")

from validation.gpu import parts, run
from validation.gpu.shares import SHARES

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("accelerate", "bokeh", "dask", "jax", "keras", "lightning", "mlflow", "pytorch_lightning", "sybil")
ABSENT += ("selenium", "tensorboardX", "tensorflow", "wandb", "zarr")
"""Packages that are not on the machine the run is planned for, and that it must do without."""
BLOCK = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec.__func__

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT!r} else find(cls, name, path, target)

PathFinder.find_spec = classmethod(find_spec)
"""
"""As ``sitecustomize``, this makes every process find nothing of these packages."""


def test_the_rehearsal_runs_every_part_without_the_absent_packages(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "validation.gpu.run", "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    found = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in SHARES}
    assert done.returncode == 0, done.stdout + done.stderr + str(found)
    assert {results["status"] for results in found.values()} == {"done"}
    assert all(not found["kit"][name]["failed"] for name in ("float32", "float64"))
    assert found["cifar"]["steps"] == 2
    assert "cross-fit" in found["frontier"]["points"]
    assert sum(found["overhead"]["waits"]["Adaptive"].values()) <= 4  # as the README says


def test_the_package_is_found_where_it_is_not_installed(tmp_path):
    [found] = distributions(path=[str(run.metadata(tmp_path))])
    assert found.metadata["Name"] == run.PACKAGE
    assert found.version.count(".") == 2
    assert {entry.group for entry in found.entry_points} == {"lca.backends"}


def test_a_part_that_fails_writes_its_error_and_the_next_goes_on(tmp_path, monkeypatch):
    def fails(setting):
        setting.results.add(before=1)
        raise ValueError("no such device")

    monkeypatch.setitem(parts.PARTS, "kit", fails)
    monkeypatch.setitem(parts.PARTS, "overhead", lambda setting: setting.results.add(ratio=1.0))
    monkeypatch.setattr(sys, "argv", ["parts", "kit", "overhead", "--device", "cpu", "--out", str(tmp_path)])
    parts.main()
    kit, overhead = run.read(tmp_path, "kit"), run.read(tmp_path, "overhead")
    assert (kit["status"], kit["before"]) == ("failed", 1)
    assert "ValueError: no such device" in kit["error"]
    assert (overhead["status"], overhead["ratio"]) == ("done", 1.0)


HANGING = """
import pathlib, sys, time
pathlib.Path("kit.json").write_text('{"status": "running", "x": 1}')
"""


@pytest.mark.parametrize(
    ("then", "how"), [("time.sleep(60)", "stopped at its limit"), ("sys.exit(3)", "ended with 3")]
)
def test_a_part_that_hangs_or_dies_keeps_what_it_found_and_the_rest_is_still_to_run(
    then, how, tmp_path, monkeypatch
):
    start, command = subprocess.Popen, [sys.executable, "-c", HANGING + then]
    monkeypatch.setattr(run.subprocess, "Popen", lambda *args, **options: start(command, cwd=tmp_path))
    monkeypatch.setattr(run, "START", 3.0)
    options = argparse.Namespace(device="cpu", minutes=0.01, out=tmp_path)
    assert run.follow(["kit", "overhead"], options) == ["overhead"]
    assert run.read(tmp_path, "kit") == {"status": how, "x": 1}
