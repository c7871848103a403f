"""`lca check` as a user meets it: what it finds, what it prints, and how it refuses."""

import json
import sys

import pytest

from lca._cli import main

WRONG = """
from dataclasses import dataclass, replace
from lca import SIMPSON, Cost, PathIntegral

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
rule = SIMPSON
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
    names = (
        "residual_is_what_is_left",
        "fields_are_right_in_float32",
        "fields_are_right_in_large_models_and_long_runs",
    )
    declared = [option for name in names for option in ("--expect", f"{name}=we like 0 = 0")]
    assert check(f"{module}:Forged", *declared) == 0
    assert "declared: we like 0 = 0" in capsys.readouterr().out


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


def test_seed_samples_and_selection_are_passed_on(capsys):
    options = ["--seed", "5", "--samples", "7", "--only", "terms_add_up", "--only", "mass_bounds_the_values"]
    assert main(["check", "lca:PathIntegral", *options, "--skip", "terms_add_up"]) == 0
    out = capsys.readouterr().out
    assert " 1 passed (7 samples, seed 5, " in out
    assert "7 cases" in out


def test_the_report_as_json(capsys):
    assert check("lca:PathIntegral", "--only", "terms_add_up", "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {c["status"] for c in checks} == {"passed", "skipped"}
    assert {c["cases"] for c in checks if c["status"] == "passed"} == {2}


POISSON = """
import numpy as np
from lca import Layout
from lca.testing import ObjectiveSubject

x, y = np.random.default_rng(0).normal(size=(17, 3)), np.arange(17) % 3

class Poisson:
    layout = Layout(("weight",), ((3,),))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        x_, y_ = (x, y) if batch is None else batch
        z = x_ @ theta.astype(np.float64)
        return float((np.exp(z) - y_ * z).mean()), (x_.T @ (np.exp(z) - y_) / len(y_)).astype(theta.dtype)

class NoSuchBatch(Poisson):
    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            raise KeyError("no such batch")
        return super().loss_and_grad(theta)

BATCHES = [(10, (x[:10], y[:10])), (7, (x[10:], y[10:]))]
right = ObjectiveSubject(Poisson, batches=BATCHES)
wrong = ObjectiveSubject(NoSuchBatch, batches=BATCHES)
"""


def test_an_objective_with_batches_is_checked_on_them(tmp_path, monkeypatch, capsys):
    (tmp_path / "poisson_for_check.py").write_text(POISSON)
    monkeypatch.chdir(tmp_path)
    assert check("poisson_for_check.py:right") == 0
    assert "whole_is_the_mean_of_its_batches     passed" in capsys.readouterr().out
    assert check("poisson_for_check.py:wrong", "--only", "deterministic") == 0
    only = "whole_is_the_mean_of_its_batches"
    assert check("poisson_for_check.py:wrong", "--only", only) == 1
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.partition(f"{only}: FAILED")[2].splitlines()[1:]]
    assert lines[0] == "KeyError: 'no such batch'"
    assert lines[1].startswith("raised in poisson_for_check.py:")
    assert lines[2] == 'raise KeyError("no such batch")'
    code = lines[lines.index("The smallest case found:") + 1 : lines.index("To repeat this check alone:")]
    exec("\n".join(code), {})  # imports the user's class, and evaluates it at the point
    assert f"lca check poisson_for_check.py:wrong --only {only} --samples 2 --seed 0" in lines


HALF = """
from lca.reference import NumpyBackend

class Half(NumpyBackend):
    def vector(self, theta):
        return theta.astype("float32")
"""


def test_a_backend_is_checked_by_name_or_as_an_object(tmp_path, monkeypatch, capsys):
    (tmp_path / "backend_for_check.py").write_text(HALF)
    monkeypatch.chdir(tmp_path)
    only = ["--only", "vectors_keep_their_numbers"]
    assert check("--backend", "numpy", *only) == 0
    assert check("--backend-object", "lca.reference:NumpyBackend", *only) == 0
    assert check("lca.reference:NumpyBackend", *only) == 0
    assert check("--backend-object", "backend_for_check.py:Half", "--samples", "9", *only) == 1
    assert "--backend-object backend_for_check.py:Half --only vectors" in capsys.readouterr().out


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
        (
            ["lca:PathIntegral", "--backend", "numpy", "--backend-object", "lca.reference:NumpyBackend"],
            "not both",
        ),
        (["--backend-object", "lca:PathIntegral"], "lca:PathIntegral is not a backend"),
        (["lca:PathIntegral", "--only", "term_adds_up"], "unknown check in only 'term_adds_up'"),
        (["lca:PathIntegral", "--skip", "x"], "unknown check in skip 'x'"),
        (["lca:PathIntegral", "--expect", "terms_add_up"], "CHECK=REASON"),
        (["lca:PathIntegral", "--expect", "=why"], "CHECK=REASON"),
        (["lca:PathIntegral", "--expect", "terms=why"], "unknown check in expected_failures 'terms'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(module, capsys, options, message):
    assert main(["check", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_rule_and_the_name_of_a_built_in_estimator_are_checked_as_estimators(module, capsys):
    for target in (f"{module}:rule", "simpson"):
        assert main(["check", target, "--only", "residual_is_what_is_left", "--samples", "2"]) == 0
        assert "1 passed" in capsys.readouterr().out


def test_a_name_that_no_estimator_has_is_named(capsys):
    assert main(["check", "simson"]) == 2
    assert "Did you mean 'simpson'?" in capsys.readouterr().err


def test_the_demo_measures_with_an_estimator_of_the_users_own(module, capsys):
    options = ["--steps", "3", "--batch-size", "20", "--json"]
    assert main(["demo", "--estimator", f"{module}:rule", *options, "-o", "own"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["demo", "--estimator", "simpson", *options, "-o", "known"]) == 0
    assert own["per_tensor"] == json.loads(capsys.readouterr().out)["per_tensor"]
    assert main(["estimators", f"{module}:estimator"]) == 0
    assert capsys.readouterr().out.startswith(f"{module}:estimator: ")
    assert main(["demo", "--estimator", f"{module}:number"]) == 2
    assert "is an object of type int" in capsys.readouterr().err
