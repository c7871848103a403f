"""The runner of checks: what counts as a failure, and what a report contains."""

import re
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lca import PathIntegral
from lca.errors import LCAError, LCAWarning
from lca.reference import NumpyBackend, Quadratic, bowl
from lca.testing import (
    ArraySubject,
    ObjectiveSubject,
    check_estimator,
    check_objective,
    generate_checks,
    parametrize_with_checks,
)
from lca.testing._array_subject import LONG, Values
from lca.testing._report import Check, CheckFailure, ConformanceError, run_checks
from tests.meta.zoo_arrays import WRONG_ARRAYS


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
    with pytest.raises(LCAError, match=r"check in expected_failures 'hold'; known: holds"):
        run_checks([check(holds)], None, expected_failures={"hold": "typing error"})


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_name_of_no_check_is_refused(option):
    with pytest.raises(LCAError, match=rf"unknown check in {option} 'hold'; known: holds"):
        run_checks([check(holds)], None, **{option: "hold"})


def test_an_expected_failure_needs_a_reason():
    with pytest.raises(LCAError, match="must say why"):
        run_checks([check(crashes)], None, expected_failures={"crashes": " "})


def inapplicable(subject):
    return False


def test_a_check_that_does_not_apply_is_reported():
    report = run_checks([check(holds), check(crashes, applies=inapplicable)], None)
    assert statuses(report) == {"holds": "passed", "crashes": "not applicable"}
    assert "1 not applicable" in str(report)


def signed(subject):
    """Whether the values have signs.

    And no more than that.
    """
    return False


def test_a_check_that_does_not_apply_gives_the_reason():
    report = run_checks([check(holds), check(crashes, applies=signed)], None)
    reasons = {row["check"]: row["note"] for row in report.rows()}
    assert reasons == {"holds": "", "crashes": "only if the values have signs"}
    assert re.search("crashes  not applicable +only if the values have signs\n", str(report))
    assert str(report).count("signs") == 1


def test_nothing_applied_is_refused():
    with pytest.raises(LCAError, match="none of 2 checks applies to None, so nothing was tested"):
        run_checks([check(holds, applies=inapplicable), check(crashes, applies=inapplicable)], None)


def test_an_expected_failure_that_does_not_apply_is_a_failure():
    checks = [check(holds), check(crashes, applies=inapplicable)]
    report = run_checks(checks, None, expected_failures={"crashes": "always did"})
    assert [result.check.name for result in report.failed] == ["crashes"]
    assert "does not apply: always did" in str(report)


def test_checks_are_selected_and_skipped_by_name():
    checks = [check(holds), check(crashes)]
    expected = {"holds": "passed", "crashes": "skipped"}
    assert statuses(run_checks(checks, None, only="holds")) == expected
    report = run_checks(checks, None, skip=["crashes"])
    assert statuses(report) == expected
    assert "skipped: crashes" in str(report)
    assert "  crashes  " not in str(report)
    with pytest.raises(LCAError, match="no check is left to run"):
        run_checks(checks, None, skip=["holds", "crashes"])


def test_progress_is_reported_before_each_check():
    lines = []
    run_checks([check(holds), check(crashes)], None, progress=lines.append)
    assert [line.split(" (")[0] for line in lines] == ["1/2 holds", "2/2 crashes"]
    assert "left" in lines[1]


def test_cases_and_discarded_ones_are_counted():
    def discards_even_numbers(subject, case):
        assume(case % 2)

    report = run_checks([check(discards_even_numbers), check(holds)], None, samples=10, seed=3)
    discarding, plain = (result.tally for result in report.results)
    assert (plain.cases, plain.discarded) == (10, 0)
    assert discarding.cases - discarding.discarded == 10
    assert discarding.discarded > 0
    assert f"{discarding.cases} cases, {discarding.discarded} discarded" in str(report)
    assert "10 samples, seed 3" in str(report)
    assert report.rows()[0]["discarded"] == discarding.discarded


def test_what_a_statistical_check_says_is_in_the_report():
    def says(subject, samples, seed):
        return f"{samples} runs"

    report = run_checks([Check("says", says, None, lambda subject: True)], None, samples=7)
    assert "says: 7 runs" in str(report)


def test_the_outcome_of_a_failure_is_chosen():
    report = run_checks([check(crashes)], None)
    assert report.finish(None) is report
    with pytest.warns(LCAWarning, match="1 of 1 checks failed: crashes"):
        assert report.finish("warn") is report
    with pytest.raises(ConformanceError) as raised:
        report.finish("raise")
    assert str(raised.value).splitlines()[0] == "1 of 1 checks failed: crashes."
    with pytest.raises(LCAError, match="on_fail must be"):
        report.finish("ignore")


def test_a_crash_is_reported_with_its_kind():
    assert "KeyError: 'no such thing'" in str(run_checks([check(crashes)], None))


def test_the_smallest_failing_case_is_named():
    repeat = "lca check x --only {}".format
    report = run_checks([check(fails_from_seven_on)], None, samples=50, repeat=lambda name: [repeat(name)])
    lines = report.results[0].message.splitlines()
    assert lines[0] == "CheckFailure: 7 is too large"
    assert lines[-4:] == [
        "The smallest case found:",
        "    7",
        "To repeat this check alone:",
        "    lca check x --only fails_from_seven_on",
    ]


def test_the_line_of_the_users_code_that_raised_is_shown():
    text = str(run_checks([check(crashes)], None))
    assert "test_report.py" in text
    assert 'raise KeyError("no such thing")' in text


@settings(max_examples=2)
@given(st.integers(0, 3))
def test_a_check_may_be_called_inside_a_test_that_draws(number):
    tally = check(holds).run(None, samples=5)
    assert tally.cases == 5
    with pytest.raises(CheckFailure, match="7 is too large"):
        check(fails_from_seven_on).run(number, samples=50)


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

    with pytest.raises(CheckFailure, match=r"another number this time \(The same case passed in a"):
        check(fails_once).run(None, shrink=False)


def test_checks_are_generated_one_by_one():
    checks = list(generate_checks(PathIntegral(), samples=2, skip="terms_add_up"))
    assert "terms_add_up" not in [check.name for check in checks]
    assert checks[0]() is not None
    assert checks[0].result().status == "passed"
    kinds = (ObjectiveSubject(lambda: bowl(2)), NumpyBackend(), ArraySubject(np.array))
    assert all(next(generate_checks(subject, samples=1)).result().status == "passed" for subject in kinds)


@pytest.mark.parametrize(
    "subject", [bowl(2), 3, PathIntegral, None], ids=["objective", "number", "class", "None"]
)
def test_what_cannot_be_checked_is_refused(subject):
    with pytest.raises(LCAError, match="expected an"):
        list(generate_checks(subject))


def test_expected_failures_are_marked_for_pytest():
    @parametrize_with_checks([PathIntegral()], expected_failures={"terms_add_up": "known"}, samples=2)
    def test(check):
        check()

    marked = {param.id: param.marks for param in test.pytestmark[0].args[1]}
    assert [marks[0].kwargs["reason"] for marks in marked.values() if marks] == ["known"]
    assert marked["terms_add_up-PathIntegral0"][0].kwargs["strict"]


def test_a_generated_check_fails_with_its_text_and_without_our_frames():
    wrong = ObjectiveSubject(lambda: Doubled(np.eye(2)))
    [found] = generate_checks(wrong, only="loss_agrees_with_loss_and_grad", samples=3)
    with pytest.raises(CheckFailure, match="To repeat this check alone") as raised:
        found()
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_failure_of_array_operations_shows_the_vectors_that_were_drawn():
    wrong = WRONG_ARRAYS["no movement"]
    [found] = generate_checks(wrong.make(), only=wrong.check, samples=1)
    shown = found.result().message.partition("The smallest case found:")[2].partition("To repeat")[0]
    names = {}
    exec(dedent(shown), names)  # the lines can be run
    assert names["vectors"].shape == (4, LONG)
    assert not names["values"].any()
    assert repr(Values(names["values"])) == "values = np.zeros(21, np.float32)"


class Doubled(Quadratic):
    def loss(self, theta, batch=None):
        return 2 * super().loss(theta, batch)


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
