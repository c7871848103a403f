"""`Check`: a named law. `run_checks` runs a list of them and returns a `Report`.

A law is a function of the subject under test and a random case that raises `CheckFailure` if the law is
broken. Hypothesis draws the cases and reduces a failure to the smallest case that shows it.
"""

import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.control import _current_build_context
from hypothesis.errors import Flaky, Unsatisfiable, UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.testing._places import defined_at, raised_at
from lca.testing._process_state import process_restored

Status = Literal["passed", "FAILED", "declared", "UNDECLARED PASS", "not applicable", "skipped"]
OnFail: TypeAlias = Literal["raise", "warn"] | None
Progress: TypeAlias = Callable[[str], None]
Repeat: TypeAlias = Callable[[str], Sequence[str]]
"""From the name of a check to lines of code, or a command, that run it again."""
COMPARED = ("same_seed_same_values",)
"""Checks whose failure makes others fail that compare two runs."""
MOST_CHARACTERS = 200
"""Characters of the representation of a subject that a report repeats."""
MOST_NAMES = 5
"""Checks that were skipped and that a report names."""


class CheckFailure(AssertionError):
    """A law is broken; the message gives the expected and the actual number."""


class ConformanceError(LCAError, AssertionError):
    """At least one check failed; the first line names the checks, the rest is the complete report."""


@dataclass(frozen=True)
class Tally:
    """How many cases a check has tried, and how many of those it discarded; what a statistical check adds.

    >>> Tally(20, discarded=3).text
    '20 cases, 3 discarded'
    """

    cases: int = 0
    discarded: int = 0
    note: str = ""

    @property
    def text(self) -> str:
        """The result in words, for the table of a report."""
        discarded = f", {self.discarded} discarded" if self.discarded else ""
        return f"{self.cases} cases{discarded}" if self.cases else "statistical"


@dataclass(frozen=True)
class Check:
    """A named law.

    Parameters
    ----------
    name
        The name in reports and in ``expected_failures``.
    law
        ``law(subject, case)``; for a statistical check, ``law(subject, samples, seed)``. A text that it
        returns is shown in the report.
    cases
        A function from the subject to the hypothesis strategy of its cases; ``None`` for a statistical check.
    applies
        A function that says whether the law applies to a subject. The first line of its docstring, "Whether
        ...", tells the condition in reports.
    part
        A costly law is checked on one in ``part`` samples, and on at least one.
    """

    name: str
    law: Callable[..., str | None]
    cases: Callable[[Any], SearchStrategy[Any]] | None
    applies: Callable[[Any], bool]
    part: int = 1

    @property
    def description(self) -> str:
        """The first line of the law's docstring."""
        return (self.law.__doc__ or "").strip().partition("\n")[0]

    @property
    def condition(self) -> str:
        """The condition under which the law applies, as ``"only if ..."``; empty if the docstring does not
        say so.

        >>> def signed(subject): "Whether the values have signs."
        >>> Check("signs", print, None, signed).condition
        'only if the values have signs'
        """
        said, whether, condition = (self.applies.__doc__ or "").partition("\n")[0].partition("Whether ")
        return f"only if {condition.removesuffix('.')}" if whether and not said else ""

    def run(self, subject: Any, *, samples: int = 20, seed: int = 0, shrink: bool = True) -> Tally:
        """Check the law on ``samples`` random cases.

        Parameters
        ----------
        subject
            The estimator, objective, backend or array type under test.
        samples
            Number of cases; a statistical check makes a number of training runs proportional to it.
        seed
            The same seed gives the same cases.
        shrink
            Whether to reduce a failing case to a smaller one.

        Raises
        ------
        CheckFailure
            If the law is broken, for the smallest failing case that was found, or no case could be drawn.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LCAWarning)  # the losses of the cases have any scale
            if self.cases is None:
                return Tally(note=self.law(subject, samples, seed) or "")
            # The draws here are independent of those of a test of the user that calls this function.
            with _current_build_context.with_value(None):
                return self._run_drawn(
                    self.cases(subject), subject, max(1, samples // self.part), seed, shrink
                )

    def _run_drawn(
        self, cases: SearchStrategy[Any], subject: Any, samples: int, case_seed: int, shrink: bool
    ) -> Tally:
        tried = discarded = 0
        failed: list[tuple[Any, Exception]] = []  # the last one is the smallest
        phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

        @seed(case_seed)
        @settings(
            max_examples=samples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(cases)
        def law(case: Any) -> None:
            nonlocal tried, discarded
            tried += not failed
            try:
                with process_restored():
                    self.law(subject, case)
            except UnsatisfiedAssumption:
                discarded += not failed
                raise
            except Exception as error:
                failed.append((case, error))
                raise

        try:
            law()
        except Flaky as flaky:  # the subject is random or stateful: report the law, not hypothesis' replay
            if not failed:
                raise
            case, first = failed[0]
            again = "what ran before counts: random numbers, or a model that every make() shares"
            message = f"{_said(first)} (The same case passed in a second try, so {again}.)"
            raise _with_case(CheckFailure(message), subject, case) from flaky
        except Unsatisfiable as none:
            raise CheckFailure(f"no case could be drawn: {discarded} of {tried} were discarded.") from none
        except Exception as error:
            if not failed:
                raise
            raise _with_case(error, subject, failed[-1][0]) from error.__cause__
        return Tally(tried, discarded)


def _with_case(error: Exception, subject: Any, case: Any) -> Exception:
    """The error with the failing case in place of hypothesis' own notes."""
    known = hasattr(case, "lines") and hasattr(subject, "lines")
    lines = case.lines(subject) if known else [repr(case)]
    error.__notes__ = ["The smallest case found:", *(f"    {line}" for line in lines)]
    return error


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Result:
    """The outcome of one check; ``message`` is empty unless the check failed.

    Parameters
    ----------
    check
        The check.
    status
        ``"passed"``, ``"FAILED"``, ``"declared"`` (an expected failure), ``"UNDECLARED PASS"``,
        ``"not applicable"`` or ``"skipped"``.
    message
        Why it failed.
    tally
        What it counted, such as the number of cases; why it is not applicable.
    seconds
        How long it took.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.testing import check_estimator
    >>> report = check_estimator(PathIntegral(SIMPSON), samples=2)
    >>> result = next(r for r in report.results if r.check.name == "residual_is_what_is_left")
    >>> result.status, result.message, result.tally.cases
    ('passed', '', 2)
    """

    check: Check
    status: Status
    message: str = ""
    tally: Tally = Tally()
    seconds: float = 0.0


@dataclass(frozen=True)
class BoundCheck:
    """A check of one subject, ready to be called; `generate_checks` makes them.

    Calling it raises `CheckFailure` if the law is broken; `result` returns the outcome as data.

    Parameters
    ----------
    check
        The law.
    subject
        What it is applied to.
    samples, seed
        As in `check_estimator`.
    expected_failure
        The reason why the check is known to fail; empty if it is not.
    repeat
        A function from the name of a check to lines of code, or a command, that run it again.
    shrink
        Whether a case that fails is made as simple as possible.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.testing import generate_checks
    >>> bound = next(generate_checks(PathIntegral(SIMPSON), samples=2))
    >>> bound.result().status
    'passed'
    """

    check: Check
    subject: Any
    samples: int = 20
    seed: int = 0
    expected_failure: str = ""
    repeat: Repeat | None = None
    shrink: bool = True

    @property
    def name(self) -> str:
        """The name of the check."""
        return self.check.name

    @property
    def applies(self) -> bool:
        """Whether the law applies to the subject; it does if that raises, which the check then shows."""
        try:
            return self.check.applies(self.subject)
        except Exception:
            return True

    def __call__(self) -> Tally:
        """Run the check."""
        __tracebackhide__ = True  # pytest then shows the caller's line, and the message
        try:
            return self._run()
        except Exception as error:
            text, cause = self._text(error), None if isinstance(error, CheckFailure) else error
        raise CheckFailure(text) from cause

    def result(self) -> Result:
        """Run the check and return what came out; an expected failure that passes counts as a failure."""
        reason = self.expected_failure
        if not self.applies:
            if reason:
                return Result(
                    self.check, "UNDECLARED PASS", f"declared to fail, but does not apply: {reason}"
                )
            return Result(self.check, "not applicable", tally=Tally(note=self.check.condition))
        began, tally, message = time.perf_counter(), Tally(), ""
        try:
            tally = self._run()
        except Exception as error:
            message = self._text(error)
        seconds = time.perf_counter() - began
        status: Status = "FAILED" if message else "passed"
        if reason and message:
            status, message = "declared", f"declared: {reason}\n{message}"
        elif reason:
            status, message = "UNDECLARED PASS", f"declared to fail, but it passes: {reason}"
        return Result(self.check, status, message, tally, seconds)

    def _run(self) -> Tally:
        return self.check.run(self.subject, samples=self.samples, seed=self.seed, shrink=self.shrink)

    def _text(self, error: Exception) -> str:
        """The failure as text: what is wrong, where the user's code raised, the case, how to repeat it."""
        lines = [f"{type(error).__name__}: {error}", *raised_at(error), *getattr(error, "__notes__", [])]
        if "read-only" in str(error) or "not writeable" in str(error):
            lines.append("The array belongs to the caller; copy it before changing it: theta = theta.copy().")
        if self.repeat is not None:
            lines += ["To repeat this check alone:", *(f"    {line}" for line in self.repeat(self.name))]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """The outcome of a list of checks on one subject; prints as a table.

    Parameters
    ----------
    subject
        The name of what was checked.
    results
        The outcome of each check, in order.
    samples
        The number of random cases of each check.
    seed
        The seed of the random cases.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.testing import check_estimator
    >>> report = check_estimator(PathIntegral(SIMPSON), samples=2)
    >>> report.failed, report.rows()[0]["status"]
    ((), 'passed')
    """

    subject: str
    results: tuple[Result, ...]
    samples: int = 20
    seed: int = 0

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed without being declared, and those that passed although declared to fail."""
        return tuple(r for r in self.results if r.status in ("FAILED", "UNDECLARED PASS"))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of texts and numbers for each check, for a table or JSON."""
        return [
            {
                "check": r.check.name,
                "status": r.status,
                "message": r.message,
                "cases": r.tally.cases,
                "discarded": r.tally.discarded,
                "note": r.tally.note,
                "seconds": r.seconds,
                "samples": self.samples,
                "seed": self.seed,
            }
            for r in self.results
        ]

    def raise_if_failed(self) -> "Report":
        """Return the report, or raise `ConformanceError` with it if a check failed."""
        __tracebackhide__ = True
        return self.finish("raise")

    def finish(self, on_fail: OnFail) -> "Report":
        """Return the report; if a check failed, raise `ConformanceError` first, or warn, or do neither."""
        __tracebackhide__ = True
        if on_fail not in ("raise", "warn", None):
            raise LCAError(f"on_fail must be 'raise', 'warn' or None, got {on_fail!r}.")
        if self.failed and on_fail == "raise":
            raise ConformanceError(f"{self._headline()}\n\n{self}")
        if self.failed and on_fail == "warn":
            warnings.warn(f"{self._headline()}\n\n{self}", LCAWarning, stacklevel=3)
        return self

    def _headline(self) -> str:
        first = [r.check.name for r in self.failed if r.check.name in COMPARED]
        names = [*first, *(r.check.name for r in self.failed if r.check.name not in COMPARED)]
        text = f"{len(self.failed)} of {len(self.results)} checks failed: {', '.join(names)}."
        if first and len(names) > 1:
            text += f" Mend {first[0]} first: other checks compare runs, and may fail only because of it."
        return text

    def __str__(self) -> str:
        tried = [r for r in self.results if r.status != "skipped"]
        names, tallies = (
            max(map(len, column)) for column in ([r.check.name for r in tried], [_tried(r) for r in tried])
        )
        lines = [f"{self.subject}:"]
        for r in tried:
            said = (r.status == "not applicable" and r.tally.note) or r.check.description
            shown = f"  {r.check.name:<{names}}  {r.status:<15}  {_tried(r):<{tallies}}  {said}"
            lines.append(shown.rstrip())
        shown_by: dict[str, str] = {}  # what a message says first, and the check that shows it whole
        for r in sorted(self.results, key=lambda r: r.check.name not in COMPARED):
            if r.message:
                message = r.message.splitlines()
                first = shown_by.setdefault(message[0], r.check.name)
                message = message if first == r.check.name else [f"{message[0]} (as in {first})"]
                lines += ["", f"{r.check.name}: {r.status}", *(f"    {m}" for m in message)]
        skipped = [r.check.name for r in self.results if r.status == "skipped"]
        more = f" and {len(skipped) - MOST_NAMES} more" if len(skipped) > MOST_NAMES else ""
        lines += ["", f"  skipped: {', '.join(skipped[:MOST_NAMES])}{more}"] if skipped else []
        noted = [f"  {r.check.name}: {r.tally.note}" for r in tried if r.tally.note and _tried(r)]
        lines += ["", *noted] if noted else []
        counts = [f"{n} {status}" for status, n in _count(r.status for r in self.results).items()]
        seconds = sum(r.seconds for r in self.results)
        return "\n".join(
            [*lines, "", f"  {', '.join(counts)} ({self.samples} samples, seed {self.seed}, {seconds:.1f} s)"]
        )


def _tried(result: Result) -> str:
    return result.tally.text if result.status in ("passed", "UNDECLARED PASS") and result.seconds else ""


def bind(
    checks: Sequence[Check],
    subject: Any,
    *,
    samples: int = 20,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | str | None = None,
    skip: Collection[str] | str = (),
    repeat: Repeat | None = None,
    shrink: bool = True,
) -> Iterator[BoundCheck]:
    """The selected checks of ``subject``, also those that do not apply to it.

    Raises
    ------
    LCAError
        If ``samples`` is not positive, or ``expected_failures``, ``only`` or ``skip`` names no check.
    """
    if samples < 1:
        raise LCAError(f"samples must be at least 1, got {samples}.")
    expected = dict(expected_failures or {})
    names = [check.name for check in checks]
    only = [only] if isinstance(only, str) else only
    skip = [skip] if isinstance(skip, str) else skip
    for what, listed in (("expected_failures", expected), ("only", only or ()), ("skip", skip or ())):
        for name in listed:
            if name not in names:
                raise UnknownNameError(f"check in {what}", name, names)
    for name, reason in expected.items():
        if not str(reason).strip():
            raise LCAError(f"expected_failures[{name!r}] must say why the check is known to fail.")
    chosen = [c for c in checks if (only is None or c.name in only) and c.name not in (skip or ())]
    if not chosen:
        raise LCAError("no check is left to run; name at least one in only, or skip fewer.")
    for check in chosen:
        reason = expected.get(check.name, "")
        yield BoundCheck(check, subject, samples, seed, reason, repeat, shrink)


def run_checks(
    checks: Sequence[Check],
    subject: Any,
    *,
    samples: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Run every check that applies to ``subject``; an expected failure that passes counts as a failure.

    The parameters are those of `bind` and `check_estimator`.

    Raises
    ------
    LCAError
        As `bind`, and if no check applies: nothing would be tested.
    """
    bound = list(bind(checks, subject, samples=samples, seed=seed, **options))
    results: list[Result] = []
    began = time.perf_counter()
    for i, check in enumerate(bound):
        if progress is not None:
            progress(_progress(i, len(bound), check.name, time.perf_counter() - began))
        results.append(check.result())
    shown = repr(subject)
    if all(result.status == "not applicable" for result in results):
        raise LCAError(
            f"none of {len(results)} checks applies to {_shortened(shown)}, so nothing was tested; "
            f"are its declarations complete?"
        )
    report = f"{_shortened(shown)}{defined_at(subject)}"
    return Report(report, _with_skipped(checks, bound, results), samples, seed)


def _with_skipped(
    checks: Sequence[Check], bound: Sequence[BoundCheck], results: Sequence[Result]
) -> tuple[Result, ...]:
    """The results in the order of the checks; those that were not selected are reported as skipped."""
    found = {b.name: result for b, result in zip(bound, results, strict=True)}
    return tuple(found.get(check.name) or Result(check, "skipped") for check in checks)


def _progress(done: int, total: int, name: str, seconds: float) -> str:
    left = f", about {seconds / done * (total - done):.0f} s left" if done else ""
    return f"{done + 1}/{total} {name} ({seconds:.0f} s{left})"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _count(items: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
