"""`Check`: a named law. `run_checks` runs a list of them and returns a `Report`.

A law is a function of the subject under test and a random case that raises `CheckFailure` if the law is
broken. Hypothesis draws the cases and reduces a failure to the smallest case that shows it.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from lca.errors import LCAError, LCAWarning

Status = Literal["passed", "FAILED", "declared", "UNDECLARED PASS", "not applicable"]


class CheckFailure(AssertionError):
    """A law is broken; the message gives the expected and the actual number."""


class ConformanceError(LCAError, AssertionError):
    """At least one check failed; the message is the complete report."""


@dataclass(frozen=True)
class Check:
    """A named law.

    Parameters
    ----------
    name
        The name in reports and in ``expected_failures``.
    law
        ``law(subject, case)``; for a statistical check, ``law(subject, samples, seed)``.
    cases
        A function from the subject to the hypothesis strategy of its cases; ``None`` for a statistical check.
    applies
        A function that says whether the law applies to a subject.
    """

    name: str
    law: Callable[..., str | None]
    cases: Callable[[Any], SearchStrategy[Any]] | None
    applies: Callable[[Any], bool]

    @property
    def description(self) -> str:
        """The first line of the law's docstring."""
        return (self.law.__doc__ or "").strip().partition("\n")[0]

    def run(self, subject: Any, *, samples: int = 20, seed: int = 0, shrink: bool = True) -> None:
        """Check the law on ``samples`` random cases.

        Parameters
        ----------
        subject
            The estimator, objective or backend under test.
        samples
            Number of cases; a statistical check makes a number of training runs proportional to it.
        seed
            The same seed gives the same cases.
        shrink
            Whether to reduce a failing case to a smaller one.

        Raises
        ------
        CheckFailure
            If the law is broken, for the smallest failing case that was found.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LCAWarning)  # the losses of the cases have any scale
            if self.cases is None:
                self.law(subject, samples, seed)
            else:
                self._run_drawn(self.cases(subject), subject, samples, seed, shrink)

    def _run_drawn(
        self, cases: SearchStrategy[Any], subject: Any, samples: int, case_seed: int, shrink: bool
    ) -> None:
        phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

        @seed(case_seed)
        @settings(
            max_examples=samples,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(cases)
        def law(case: Any) -> None:
            try:
                self.law(subject, case)
            except CheckFailure as failure:
                failures.append(failure)
                raise

        failures: list[CheckFailure] = []
        try:
            law()
        except Flaky as flaky:  # the subject is random or stateful: report the law, not hypothesis' replay
            if failures:
                message = f"{failures[0]} (The same case also passed, so the failure is not reproducible.)"
                raise CheckFailure(message) from flaky
            raise


@dataclass(frozen=True)
class Result:
    """The outcome of one check; ``message`` is empty unless the check failed.

    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.testing import check_estimator
    >>> result = check_estimator(PathIntegral(SIMPSON), samples=2).results[0]
    >>> result.status, result.message
    ('passed', '')
    """

    check: Check
    status: Status
    message: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome of a list of checks on one subject; prints as a table.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.testing import check_estimator
    >>> check_estimator(PathIntegral(SIMPSON), samples=2).failed
    ()
    """

    subject: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed without being declared, and those that passed although declared to fail."""
        return tuple(r for r in self.results if r.status in ("FAILED", "UNDECLARED PASS"))

    def raise_if_failed(self) -> "Report":
        """Return the report, or raise `ConformanceError` with it if a check failed."""
        if self.failed:
            raise ConformanceError(str(self))
        return self

    def __str__(self) -> str:
        width = max(len(r.check.name) for r in self.results)
        lines = [f"{self.subject}:"]
        for r in self.results:
            lines.append(f"  {r.check.name:<{width}}  {r.status:<15}  {r.check.description}")
        for r in self.results:
            if r.message:
                lines += ["", f"{r.check.name}: {r.status}", *(f"    {m}" for m in r.message.splitlines())]
        counts = [f"{n} {status}" for status, n in _count(r.status for r in self.results).items()]
        return "\n".join([*lines, "", f"  {', '.join(counts)}"])


def run_checks(
    checks: Sequence[Check],
    subject: Any,
    *,
    samples: int = 20,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    shrink: bool = True,
) -> Report:
    """Run every check that applies to ``subject``; an expected failure that passes counts as a failure.

    The parameters are those of `check_estimator` and `Check.run`.

    Raises
    ------
    LCAError
        If ``expected_failures`` names no check.
    """
    expected = dict(expected_failures or {})
    unknown = set(expected) - {check.name for check in checks}
    if unknown:
        known = ", ".join(check.name for check in checks)
        raise LCAError(f"expected_failures names no check: {', '.join(sorted(unknown))}; known: {known}.")
    results = []
    for check in checks:
        if not check.applies(subject):
            results.append(Result(check, "not applicable"))
            continue
        message = _try(check, subject, samples, seed, shrink)
        reason = expected.get(check.name)
        if reason is None:
            results.append(Result(check, "FAILED" if message else "passed", message))
        elif message:
            results.append(Result(check, "declared", f"declared: {reason}\n{message}"))
        else:
            results.append(Result(check, "UNDECLARED PASS", f"declared to fail, but it passes: {reason}"))
    return Report(repr(subject), tuple(results))


def _try(check: Check, subject: Any, samples: int, seed: int, shrink: bool) -> str:
    """The failure as text, or an empty string. Every exception is a failure."""
    try:
        check.run(subject, samples=samples, seed=seed, shrink=shrink)
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        return "\n".join([f"{type(error).__name__}: {error}", *notes])
    return ""


def _count(items: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
