"""`lca check` as a user meets it: what it finds, what it prints, and how it refuses."""

import sys

import pytest

from lca._cli import main

WRONG = """
from dataclasses import dataclass, replace
from lca import Cost, PathIntegral

@dataclass(frozen=True)
class Forged:
    target = "full"
    degree = 3
    cost = PathIntegral().cost

    def start(self, objective):
        allocate_step = PathIntegral().start(objective)
        return lambda step: replace(allocate_step(step), residual=0.0)

class Nothing:
    pass

def required_fields(argument):
    return PathIntegral()

estimator = PathIntegral()
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mine_for_check.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_for_check", raising=False)
    return "mine_for_check"


def check(*options):
    return main(["check", "--samples", "2", *options])


def test_a_right_estimator_passes_with_a_line_a_check(capsys):
    assert check("lca:PathIntegral") == 0
    out = capsys.readouterr().out
    assert "exact_up_to_declared_degree" in out
    assert "passed" in out
    assert "FAILED" not in out


@pytest.mark.parametrize("target", ["mine_for_check:estimator", "mine_for_check.py:estimator"])
def test_modules_and_files_of_the_current_folder_are_found(module, target):
    before = sys.path.copy()
    assert check(target) == 0
    assert sys.path == before


def test_a_wrong_estimator_fails_with_the_law_it_breaks(module, capsys):
    assert check(f"{module}:Forged") == 1
    assert "residual_is_what_is_left: FAILED" in capsys.readouterr().out


def test_a_declared_failure_is_let_pass(module, capsys):
    declared = ["--expect", "residual_is_what_is_left=we like 0", "--expect", "terms_add_up=same = same"]
    assert check(f"{module}:Forged", *declared) == 0
    out = capsys.readouterr().out
    assert "declared: we like 0" in out
    assert "declared: same = same" in out


def test_a_declared_failure_that_passes_fails(capsys):
    assert check("lca:PathIntegral", "--expect", "terms_add_up=surely not") == 1
    assert "UNDECLARED PASS" in capsys.readouterr().out


def test_an_objective_is_told_from_an_estimator(module, tmp_path, capsys):
    (tmp_path / "objective_for_check.py").write_text(
        "from lca.reference._models import bowl\nmake = lambda: bowl(3)\n"
    )
    assert check("objective_for_check:make") == 0
    assert "gradient_matches_finite_differences" in capsys.readouterr().out


TORCH = """
import torch
from lca import Layout

class Squares:
    layout = Layout(("w",), ((3,),))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        wide = theta.double()
        return float(wide.pow(4).sum()), (4 * wide.pow(3)).to(theta.dtype)
"""


WRONG_LOSS = """
import numpy as np
from lca.reference import Quadratic

class Wrong(Quadratic):
    def __init__(self):
        super().__init__(np.eye(3))

    def loss(self, theta, batch=None):
        return 2 * super().loss(theta, batch)
"""


def test_an_objective_of_a_framework_gets_its_vectors(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lca_torch", reason="the torch backend is not installed")
    (tmp_path / "torch_for_check.py").write_text(TORCH)
    monkeypatch.chdir(tmp_path)
    assert check("torch_for_check.py:Squares", "--backend", "torch") == 0
    assert "FAILED" not in capsys.readouterr().out
    assert check("torch_for_check.py:Squares") == 1
    hint = capsys.readouterr().out.rpartition("It takes no NumPy vector")[2]
    assert "AttributeError: 'numpy.ndarray' object has no attribute 'double'" in hint
    assert "name its backend, e.g. --backend torch" in hint


def test_an_objective_that_takes_numpy_vectors_gets_no_hint(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong_for_check.py").write_text(WRONG_LOSS)
    monkeypatch.chdir(tmp_path)
    assert check("wrong_for_check.py:Wrong") == 1
    assert "NumPy vector" not in capsys.readouterr().out


def test_the_seed_is_passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr("lca.testing.check_estimator", lambda estimator, **options: seen.append(options))
    main(["check", "lca:PathIntegral", "--seed", "5", "--samples", "7"])
    assert seen == [{"samples": 7, "seed": 5, "expected_failures": {}}]


def test_the_list_names_every_check_with_its_line(capsys):
    assert main(["check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "objectives:" in lines
    assert any(line.split()[:1] == ["deterministic"] and len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to check"),
        (["lca"], "expected module:object"),
        (["lca:"], "expected module:object"),
        (["no_such_module:x"], "cannot import no_such_module"),
        (["no_such_file.py:x"], "no file no_such_file.py"),
        (["lca:PathIntegrl"], "Did you mean 'PathIntegral'"),
        (["mine_for_check:number"], "is an object of type int"),
        (["mine_for_check:Nothing"], "makes an object of type Nothing"),
        (["mine_for_check:required_fields"], "without arguments"),
        (["lca:PathIntegral", "--samples", "0"], "samples must be at least 1"),
        (["lca:PathIntegral", "--backend", "torhc"], "unknown backend 'torhc'"),
        (
            ["lca:PathIntegral", "--backend", "numpy"],
            "is an estimator, which is checked on NumPy objectives; omit",
        ),
        (["lca:PathIntegral", "--expect", "terms_add_up"], "CHECK=REASON"),
        (["lca:PathIntegral", "--expect", "=why"], "CHECK=REASON"),
        (["lca:PathIntegral", "--expect", "terms=why"], "names no check: terms"),
    ],
)
def test_bad_input_is_one_line_and_status_2(module, capsys, options, message):
    assert main(["check", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
