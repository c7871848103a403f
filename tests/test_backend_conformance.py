"""The NumPy backend passes the kit's check of backends; a wrong one is refused by the check named for it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from lca.reference import NumpyBackend
from lca.testing import ConformanceError, check_backend
from lca.testing._backend_checks import BACKEND_CHECKS
from lca.testing._report import CheckFailure, run_checks
from tests.meta.zoo_backends import WRONG_BACKENDS

CHECKS = {check.name: check for check in BACKEND_CHECKS}
GENERAL = [
    "layout_is_the_networks",
    "vectors_keep_their_numbers",
    "losses_equal_the_reference",
    "allocations_equal_the_reference",
    "training_equals_the_reference",
    "loads_no_other_framework",
]
POLICIES = [wrong for wrong in WRONG_BACKENDS.values() if wrong.check not in GENERAL]


def test_the_numpy_backend_conforms():
    report = check_backend("numpy", samples=5)
    absent = {  # of its objective
        "state_is_copied_and_used",
        "states_do_not_depend_on_each_other",
        "batches_are_in_the_state",
        "batches_together_are_as_one_by_one",
        "asked_tensors_are_differentiated",
        "variants_keep_what_they_are",
    }
    assert {result.check.name for result in report.results if result.status != "passed"} == absent
    assert not report.failed


def test_a_wrong_backend_is_refused_with_a_report():
    wrong = WRONG_BACKENDS["weights dropped"]
    with pytest.raises(ConformanceError) as refused:
        check_backend(wrong.make(), only=[wrong.check])
    assert f"{wrong.check}: FAILED" in str(refused.value)


@pytest.mark.parametrize("wrong", POLICIES, ids=[wrong.check for wrong in POLICIES])
def test_a_wrong_policy_is_refused_by_the_check_named_for_it(wrong):
    named = [check for check in BACKEND_CHECKS if check.name not in GENERAL]
    report = run_checks(named, wrong.make(), samples=5, shrink=False)
    found = {result.check.name for result in report.failed}
    assert wrong.check in found, str(report)  # laws that compare losses may see it, too


@dataclass(frozen=True)
class Two(NumpyBackend):
    """Installed by the test below; loading it imports two frameworks."""

    name: ClassVar[str] = "two"


def test_a_backend_that_loads_two_frameworks_is_refused(monkeypatch, tmp_path):
    info = tmp_path / "two-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: two\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[lca.backends]\ntwo = two:Two\n")
    fakes = "for name in ('torch', 'jax'): sys.modules[name] = types.ModuleType(name)"
    (tmp_path / "two.py").write_text(f"import sys, types\n{fakes}\nTwo = object")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CheckFailure, match="jax, torch"):
        CHECKS["loads_no_other_framework"].run(Two())
