"""`Check`, and what running a list of them leaves: a `Report` that prints as a table and can raise.

A check is a named law: a function of the thing under test and of one drawn case, which raises
`CheckFailure` where the law is broken. Cases are drawn by hypothesis, so a failure comes with the
smallest case that shows it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from lca.errors import LCAError

Status = Literal["passed", "FAILED", "declared", "UNDECLARED PASS", "not applicable"]


class CheckFailure(AssertionError):
    """A law is broken; the message says which number was expected and which came."""


class ConformanceError(LCAError, AssertionError):
    """At least one check failed; the message is the whole report."""


@dataclass(frozen=True)
class Check:
    """One named law.

    Parameters
    ----------
    name
        What reports and ``expected_failures`` call it.
    law
        ``law(subject, case)``, or ``law(subject, runs, seed)`` for a statistical check (no ``cases``).
    cases
        From the subject to the hypothesis strategy of its cases; ``None`` for a statistical check.
    applies
        Whether the law is meant for this subject.
    """

    name: str
    law: Callable[..., None]
    cases: Callable[[Any], SearchStrategy[Any]] | None
    applies: Callable[[Any], bool]

    @property
    def description(self) -> str:
        """The first line of the law's docstring."""
        return (self.law.__doc__ or "").strip().partition("\n")[0]

    def run(self, subject: Any, *, samples: int = 20, seed: int = 0, shrink: bool = True) -> None:
        """Try the law on ``samples`` cases drawn from ``seed``; raise `CheckFailure` at the smallest failure.

        A statistical check takes ``samples`` as the factor by which it repeats its runs beyond 20.
        """
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
        except Flaky as flaky:  # the subject is random or keeps state: report the law, not the replay
            if failures:
                raise CheckFailure(f"{failures[0]} (The same case also passed: not repeatable.)") from flaky
            raise


@dataclass(frozen=True)
class Result:
    """How one check went."""

    check: Check
    status: Status
    message: str = ""


@dataclass(frozen=True)
class Report:
    """How a list of checks went on one subject."""

    subject: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """Checks that failed undeclared, or passed although declared to fail."""
        return tuple(r for r in self.results if r.status in ("FAILED", "UNDECLARED PASS"))

    def raise_if_failed(self) -> "Report":
        """Return itself, or raise `ConformanceError` with the whole report."""
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
    """Run every applicable check on ``subject``; an expected failure that passes counts as a failure."""
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
            results.append(Result(check, "UNDECLARED PASS", f"it passes, yet was declared to fail: {reason}"))
    return Report(repr(subject), tuple(results))


def _try(check: Check, subject: Any, samples: int, seed: int, shrink: bool) -> str:
    """The failure as text, or nothing. Any exception is a failure: a crash is no pass."""
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
