"""The runner of checks: what counts as a failure, and what a report contains."""

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from lca import PathIntegral
from lca.errors import LCAError
from lca.reference import bowl
from lca.testing import check_estimator, check_objective
from lca.testing._report import Check, CheckFailure, ConformanceError, run_checks


def check(law, cases=None, applies=lambda subject: True):
    return Check(law.__name__, law, lambda subject: st.integers(0, 1000) if cases is None else cases, applies)


def holds(subject, case):
    """Always true."""


def fails_from_seven_on(subject, case):
    """True below 7."""
    if case >= 7:
        raise CheckFailure(f"{case} is too large")


def crashes(subject, case):
    """Always crashes."""
    raise KeyError("no such thing")


def statuses(report):
    return {result.check.name: result.status for result in report.results}


def test_each_outcome_has_its_status():
    checks = [check(holds), check(fails_from_seven_on), check(crashes)]
    found = statuses(run_checks(checks, None))
    assert found == {"holds": "passed", "fails_from_seven_on": "FAILED", "crashes": "FAILED"}


def test_a_declared_failure_does_not_fail():
    report = run_checks([check(crashes)], None, expected_failures={"crashes": "known since 1901"})
    assert statuses(report) == {"crashes": "declared"}
    assert not report.failed
    assert "known since 1901" in str(report)
    assert report.raise_if_failed() is report


def test_a_declared_failure_that_passes_is_a_failure():
    report = run_checks([check(holds)], None, expected_failures={"holds": "never seen it work"})
    assert statuses(report) == {"holds": "UNDECLARED PASS"}
    with pytest.raises(ConformanceError, match="never seen it work"):
        report.raise_if_failed()


def test_an_unknown_declared_failure_is_refused():
    with pytest.raises(LCAError, match=r"names no check: hold; known: holds"):
        run_checks([check(holds)], None, expected_failures={"hold": "typing error"})


def test_a_check_that_does_not_apply_is_reported():
    report = run_checks([check(crashes, applies=lambda subject: False)], None)
    assert statuses(report) == {"crashes": "not applicable"}
    assert "1 not applicable" in str(report)


def test_a_crash_is_reported_with_its_kind():
    assert "KeyError: 'no such thing'" in str(run_checks([check(crashes)], None))


def test_the_smallest_failing_case_is_named():
    text = str(run_checks([check(fails_from_seven_on)], None, samples=50))
    assert "CheckFailure: 7 is too large" in text
    assert "case=7" in text


def test_the_same_seed_draws_the_same_cases():
    def drawn(seed):
        seen = []

        def collects(subject, case):
            seen.append(case)

        check(collects).run(None, samples=10, seed=seed)
        return seen

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize(
    "cases", [st.nothing(), st.integers().filter(lambda i: False)], ids=["none", "filtered"]
)
def test_a_check_without_cases_does_not_pass(cases):
    assert run_checks([check(holds, cases)], None).failed


def test_a_check_that_discards_all_its_cases_does_not_pass():
    def assumes_the_impossible(subject, case):
        assume(False)

    assert run_checks([check(assumes_the_impossible)], None).failed


def test_a_failure_that_does_not_repeat_is_the_failure_of_its_law():
    calls = []

    def fails_once(subject, case):
        calls.append(case)
        if len(calls) == 1:
            raise CheckFailure("another number this time")

    with pytest.raises(CheckFailure, match=r"another number this time \(The same case also passed"):
        check(fails_once).run(None, shrink=False)


def test_every_check_has_a_description_of_one_line():
    report = check_estimator(PathIntegral(), samples=1)
    assert all(result.check.description for result in report.results)
    assert all(f"{r.check.name} " in str(report) for r in report.results)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_estimator(PathIntegral), "expected an estimator"),
        (lambda: check_estimator(bowl(2)), "expected an estimator"),
        (lambda: check_objective(bowl(2)), "a function that returns a new objective"),
    ],
    ids=["class", "objective as estimator", "instance"],
)
def test_a_wrong_subject_is_refused_at_once(call, message):
    with pytest.raises(LCAError, match=message) as refused:
        call()
    assert not isinstance(refused.value, ConformanceError)
