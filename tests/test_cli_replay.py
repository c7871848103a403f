"""`lca replay` as a user meets it: a folder of checkpoints and the objective of a module."""

import json
import sys

import pytest
import torch
from torch import nn

import lca
from lca._cli import main

CODE = """
import torch
from torch import nn
from lca_torch import Objective

def objective():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    data = torch.randn(30, 4), torch.arange(30) % 3
    return Objective(model, nn.functional.cross_entropy, data)

def by_name():
    return {"train": objective()}
"""


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints, and a module with the objective."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    for step in (0, 50, 200):
        torch.save(model.state_dict(), tmp_path / f"step-{step}.pt")
        with torch.no_grad():
            model.weight.add_(0.1)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize("name", ["objective", "by_name"])
def test_a_folder_of_checkpoints_is_measured_and_recorded(folder, name, capsys):
    out = str(folder / "run.zarr")
    assert main(["replay", str(folder), f"{folder}/mine.py:{name}", "-o", out]) == 0
    shown = capsys.readouterr().out
    assert "LCA of each tensor over 2 straight lines between the checkpoints" in shown
    assert "weight" in shown
    assert f"lca report {out}" in shown
    assert lca.open_record(out).step_end.values.tolist() == [50, 200]
    assert main(["replay", str(folder), f"{folder}/mine.py:{name}", "-o", out]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["replay", str(folder), f"{folder}/mine.py:{name}", "-o", out, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 2


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--json"]])
def test_a_terminal_sees_a_bar_unless_it_is_told_to_be_quiet(folder, options, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["replay", str(folder), f"{folder}/mine.py:objective", *options]) == 0
    assert ("0/2" in capsys.readouterr().err) == (not options)


def test_groups_have_a_table_of_their_own(folder, capsys):
    target = f"{folder}/mine.py:objective"
    assert main(["replay", str(folder), target, "--group", "weights=weight$", "--group", "biases=bias$"]) == 0
    assert "LCA of each group over 2 straight lines between" in capsys.readouterr().out
    assert main(["replay", str(folder), target, "--group", "weights"]) == 2
    assert "must be NAME=PATTERN" in capsys.readouterr().err


def test_files_of_lightning_are_read_by_key_and_prefix(folder, capsys):
    for path in folder.glob("step-*.pt"):
        tensors = {f"net.{name}": tensor for name, tensor in torch.load(path).items()}
        torch.save({"state_dict": tensors, "epoch": 1}, path)
    command = ["replay", str(folder), f"{folder}/mine.py:objective"]
    assert main(command) == 2
    assert "pass key='state_dict'" in capsys.readouterr().err
    assert main([*command, "--key", "state_dict", "--prefix", "net."]) == 0


def test_an_objective_without_a_backend_is_refused(folder, capsys):
    (folder / "plain.py").write_text(
        "import numpy as np\nfrom lca.reference import Quadratic\nloss = Quadratic(np.eye(2))"
    )
    assert main(["replay", str(folder), f"{folder}/plain.py:loss"]) == 2
    assert "has no function replay" in capsys.readouterr().err
    assert main(["replay", str(folder), "mine"]) == 2
    said = capsys.readouterr().err
    assert "expected module:object or path/to/file.py:object, got 'mine'" in said
    assert "estimator" not in said
