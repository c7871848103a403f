"""How to run the checks: functions that raise, a generator, and a decorator for one pytest test per check."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from lca.allocation import Estimator
from lca.arrays import ArrayOps
from lca.errors import LCAError
from lca.objective import Batch, Objective
from lca.reference._backend import Backend, load_backend
from lca.reference._models import mlp
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import ArraySubject
from lca.testing._backend_cases import make_case
from lca.testing._backend_checks import BACKEND_CHECKS
from lca.testing._by_example_checks import BY_EXAMPLE_CHECKS
from lca.testing._estimator_checks import ESTIMATOR_CHECKS
from lca.testing._gradient_checks import GRADIENT_CHECKS
from lca.testing._member_calls import FIRST_CALLS, MEMBER_CALLS
from lca.testing._member_checks import MEMBER_CHECKS
from lca.testing._objective_checks import OBJECTIVE_CHECKS
from lca.testing._objective_subject import ObjectiveSubject
from lca.testing._report import BoundCheck, Check, OnFail, Progress, Report, bind, run_checks
from lca.testing._sampling_checks import SAMPLING_CHECKS
from lca.testing._stochastic_checks import STOCHASTIC_CHECKS
from lca.testing._variant_checks import VARIANT_CHECKS

Expected: TypeAlias = Mapping[str, str]
Names: TypeAlias = Collection[str] | str
ALL_ESTIMATOR_CHECKS: list[Check] = [*ESTIMATOR_CHECKS, *STOCHASTIC_CHECKS, *SAMPLING_CHECKS]
ALL_OBJECTIVE_CHECKS: list[Check] = [
    *OBJECTIVE_CHECKS[:1],
    FIRST_CALLS,
    *OBJECTIVE_CHECKS[1:],
    *GRADIENT_CHECKS,
    *MEMBER_CHECKS,
    *MEMBER_CALLS,
    *VARIANT_CHECKS,
    *BY_EXAMPLE_CHECKS,
]


def check_estimator(
    estimator: Estimator,
    *,
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | None = None,
    only: Names | None = None,
    skip: Names = (),
    on_fail: OnFail = "raise",
    progress: Progress | None = None,
) -> Report:
    """Check an estimator against every law that applies to it.

    Full-data estimators are checked on random polynomials and small networks, stochastic estimators on
    repeated short training runs.

    Parameters
    ----------
    estimator
        The estimator; it needs no registration.
    samples
        Random cases per check; more cases find rarer errors. The default is 20, and fewer for an objective of
        more than 100,000 parameters.
    seed
        The same seed gives the same cases.
    expected_failures
        ``{check: reason}`` for laws that the estimator is known to break. The declaration is strict: an
        expected failure that passes, or does not apply, is reported as a failure.
    only, skip
        Names of the checks to run, or not to run; the report names those that were skipped.
    on_fail
        ``"raise"`` a `ConformanceError`, ``"warn"``, or ``None``: only return the report.
    progress
        A function that is called with a line of text before each check, such as ``print``.

    Returns
    -------
    Report
        Prints as a table with one row per check; `Report.rows` are the same as data.

    Raises
    ------
    LCAError
        If ``estimator`` is not an estimator, a name is that of no check, or no check applies.
    ConformanceError
        If a check fails; the message is the report, with the smallest failing case of each check.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> len(check_estimator(PathIntegral(SIMPSON), samples=2).failed)
    0
    """
    __tracebackhide__ = True
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise LCAError(
            f"expected an estimator (an object with target, degree, cost and start), got {estimator!r}."
        )
    options = {"expected_failures": expected_failures, "only": only, "skip": skip}
    return _report(estimator, samples, seed, progress, options).finish(on_fail)


def check_objective(
    make_objective: Callable[[], Objective],
    *,
    vector: Callable[[np.ndarray], Any] = np.asarray,
    batches: Iterable[tuple[float, Batch]] = (),
    state: Callable[[], Mapping[str, np.ndarray]] = dict,
    points: Callable[[np.random.Generator], np.ndarray] | None = None,
    scale: float = 0.5,
    dtypes: Sequence[str] = ("float32", "float64"),
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | None = None,
    only: Names | None = None,
    skip: Names = (),
    on_fail: OnFail = "raise",
    progress: Progress | None = None,
) -> Report:
    """Check an objective against every law that estimators rely on.

    Parameters
    ----------
    make_objective
        A function without arguments that returns a new objective, always the same one.
    vector
        A function that converts a NumPy vector (K,) to the framework's vector type.
    batches
        ``(weight, batch)`` pairs that together are the whole data set, if the objective accepts batches.
    state
        A function that returns everything a call must not change (parameters of the model, optimizer state,
        buffers) as arrays by name. Global state and batches are always compared as well.
    points
        For an objective that is defined for some θ only: a function from a `numpy.random.Generator` to such a
        point (K,). The line between two points must be in the domain as well.
    scale
        Standard deviation of the random parameters, unless ``points`` is given. Most cases have this size;
        others a quarter or four times of it, or one entry that is at least 20 times as large.
    dtypes
        The dtypes of θ that the objective supports.
    samples, seed, expected_failures, only, skip, on_fail, progress
        As in `check_estimator`.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    LCAError
        If an argument is not of this form, or no check applies.
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> from lca.reference import bowl
    >>> len(check_objective(lambda: bowl(3), samples=2).failed)
    0
    """
    __tracebackhide__ = True
    subject = ObjectiveSubject(
        make_objective, vector, scale, tuple(batches), state=state, points=points, dtypes=tuple(dtypes)
    )
    options = {"expected_failures": expected_failures, "only": only, "skip": skip}
    return _report(subject, samples, seed, progress, options).finish(on_fail)


def check_backend(
    backend: str | Backend,
    *,
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | None = None,
    only: Names | None = None,
    skip: Names = (),
    on_fail: OnFail = "raise",
    progress: Progress | None = None,
) -> Report:
    """Compare a backend with the NumPy reference, and check its objectives and its array operations.

    Parameters
    ----------
    backend
        The name of an installed backend, or a `lca.reference.Backend`.
    samples, seed, expected_failures, only, skip, on_fail, progress
        As in `check_estimator`.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    UnknownNameError
        If no backend of this name is installed.
    LCAError
        If ``backend`` is not a backend.
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> len(check_backend("numpy", samples=1, only="losses_equal_the_reference").failed)
    0
    """
    __tracebackhide__ = True
    found = load_backend(backend) if isinstance(backend, str) else backend
    if not is_backend(found):
        raise LCAError(
            f"expected the name of a backend, or an object with name, vector, objective and train, got "
            f"{found!r}."
        )
    options = {"expected_failures": expected_failures, "only": only, "skip": skip}
    return _report(found, samples, seed, progress, options).finish(on_fail)


def check_array_ops(
    vector: Callable[[np.ndarray], Any],
    ops: ArrayOps | None = None,
    *,
    keeps_subnormals: bool = True,
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | None = None,
    only: Names | None = None,
    skip: Names = (),
    on_fail: OnFail = "raise",
    progress: Progress | None = None,
) -> Report:
    """Check the array operations of a framework against loops in Python and NumPy.

    Parameters
    ----------
    vector
        A function that converts a NumPy vector (K,) to the array type, with its dtype.
    ops
        The operations; by default those that are registered for the type.
    keeps_subnormals
        False if the framework may replace subnormal numbers by 0.
    samples, seed, expected_failures, only, skip, on_fail, progress
        As in `check_estimator`.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    LCAError
        If no operations are registered for the type.
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> len(check_array_ops(np.array, samples=1).failed)
    0
    """
    __tracebackhide__ = True
    subject = ArraySubject(vector, ops, keeps_subnormals=keeps_subnormals)  # type: ignore[arg-type]
    options = {"expected_failures": expected_failures, "only": only, "skip": skip}
    return _report(subject, samples, seed, progress, options).finish(on_fail)


Subject: TypeAlias = Estimator | ObjectiveSubject | Backend | ArraySubject


SAMPLES, FEWEST = 20, 3
ENTRIES = 2_000_000
"""Entries of θ that a check of an objective draws at most by default."""


def samples_for(subject: Subject, samples: int | None) -> int:
    """The number of cases, by default as many as take a minute or two.

    >>> from lca.reference import bowl
    >>> subject = ObjectiveSubject(lambda: bowl(3))
    >>> samples_for(subject, None), samples_for(subject, 7)
    (20, 7)
    """
    if samples is not None:
        return samples
    if not isinstance(subject, ObjectiveSubject):
        return SAMPLES
    return max(FEWEST, min(SAMPLES, ENTRIES // subject.example.layout.size))


def _report(
    subject: Subject, given: int | None, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Report:
    __tracebackhide__ = True
    samples = samples_for(subject, given)
    checks, repeat = checks_of(subject), _repeat(subject, samples, seed)
    return run_checks(
        checks, subject, samples=samples, seed=seed, progress=progress, repeat=repeat, **options
    )


def is_backend(found: object) -> bool:
    """Whether an object has the members of a `lca.reference.Backend`."""
    return all(hasattr(found, name) for name in ("name", "vector", "objective", "train"))


def checks_of(subject: Subject) -> list[Check]:
    """All checks of this kind of subject.

    Raises
    ------
    LCAError
        If there are none.
    """
    if isinstance(subject, ObjectiveSubject):
        return ALL_OBJECTIVE_CHECKS
    if isinstance(subject, ArraySubject):
        return ALL_ARRAY_CHECKS
    if isinstance(subject, type):
        raise LCAError(
            f"expected an object to check, got the class {subject.__name__}; make one: {subject.__name__}()."
        )
    if isinstance(subject, Estimator):
        return ALL_ESTIMATOR_CHECKS
    if is_backend(subject):
        return ALL_BACKEND_CHECKS
    hint = "; wrap it: ObjectiveSubject(lambda: ...)" if isinstance(subject, Objective) else ""
    raise LCAError(
        f"expected an estimator, an ObjectiveSubject, a backend or an ArraySubject, got {subject!r}{hint}."
    )


def _lifted_objective_checks() -> list[Check]:
    """The laws of objectives, applied to a backend's objective of a small tanh network."""

    def lift(check: Check) -> Check:
        def law(backend: Backend, case: Any) -> None:
            check.law(objective_of(backend), case)

        law.__doc__ = check.law.__doc__
        return replace(check, law=law, applies=lambda backend: check.applies(objective_of(backend)))

    return [lift(check) for check in ALL_OBJECTIVE_CHECKS]


def objective_of(backend: Backend) -> ObjectiveSubject:
    """A backend's objective of a fixed small network with 17 examples, and its batches."""
    case = make_case(mlp((3, 4, 2), activation="tanh"), 0, "float64", weighted=True)
    batches = tuple((batch.total_weight, batch) for batch in case.measuring_batches)
    return ObjectiveSubject(lambda: case.objective(backend), backend.vector, batches=batches)


def _vectors_of(backend: Backend) -> Callable[[np.ndarray], Any]:
    """Vectors that share no memory with the NumPy array; `Backend.vector` may return it as it is."""
    return lambda numbers: backend.vector(numbers.copy())


def _lifted_array_checks() -> list[Check]:
    """The laws of array operations, applied to a backend's vectors."""

    def lift(check: Check) -> Check:
        def law(backend: Backend, case: Any) -> None:
            check.law(ArraySubject(_vectors_of(backend), keeps_subnormals=False), case)

        law.__doc__ = check.law.__doc__
        return replace(check, law=law)

    return [lift(check) for check in ALL_ARRAY_CHECKS]


ALL_BACKEND_CHECKS: list[Check] = [*BACKEND_CHECKS, *_lifted_objective_checks(), *_lifted_array_checks()]


def _repeat(subject: Subject, samples: int, seed: int) -> Callable[[str], list[str]]:
    """Lines of Python that run one check of this subject again."""
    kinds = {ObjectiveSubject: "check_objective(make_objective, ...", ArraySubject: "check_array_ops(vector"}
    call = kinds.get(type(subject), "check_estimator(estimator" if isinstance(subject, Estimator) else "")
    call = call or f"check_backend({getattr(subject, 'name', 'backend')!r}"

    def lines(name: str) -> list[str]:
        return [
            f"from lca.testing import {call.partition('(')[0]}",
            f"{call}, only={name!r}, samples={samples}, seed={seed})",
        ]

    return lines


def generate_checks(
    subject: Subject,
    *,
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | None = None,
    only: Names | None = None,
    skip: Names = (),
) -> Iterator[BoundCheck]:
    """The checks that apply to a subject, one by one, each ready to be called.

    Parameters
    ----------
    subject
        An estimator, an `ObjectiveSubject`, a backend, or an `ArraySubject`.
    samples, seed, expected_failures, only, skip
        As in `check_estimator`.

    Yields
    ------
    BoundCheck
        Calling it raises `CheckFailure` if the law is broken; ``result()`` returns the outcome as data.

    Raises
    ------
    LCAError
        If no check applies, or a name is that of no check.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> for check in generate_checks(PathIntegral(SIMPSON), samples=2, only="terms_add_up"):
    ...     print(check.name, check.result().status)
    terms_add_up passed
    """
    cases = samples_for(subject, samples)
    options: dict[str, Any] = {"expected_failures": expected_failures, "only": only, "skip": skip}
    options["repeat"] = _repeat(subject, cases, seed)
    bound = list(bind(checks_of(subject), subject, samples=cases, seed=seed, **options))
    applied = [check for check in bound if check.applies or check.expected_failure]
    if not applied:
        raise LCAError(
            f"none of {len(bound)} checks applies to {subject!r}, so nothing would be tested; are its "
            "declarations complete?"
        )
    yield from applied


def parametrize_with_checks(
    subjects: Iterable[Subject],
    *,
    samples: int | None = None,
    seed: int = 0,
    expected_failures: Expected | Callable[[Any], Expected] | None = None,
    only: Names | None = None,
    skip: Names = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A pytest decorator that makes one test for each subject and each check that applies to it.

    The decorated test has one argument, ``check``, and calls it.

    Parameters
    ----------
    subjects
        At least one estimator, `ObjectiveSubject`, backend or `ArraySubject`.
    samples, seed, only, skip
        As in `check_estimator`.
    expected_failures
        ``{check: reason}``, or a function from a subject to such a mapping. The tests are marked as expected
        failures, and fail if they pass.

    Raises
    ------
    LCAError
        If there is nothing to check, also for one subject among several.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> @parametrize_with_checks([PathIntegral(SIMPSON)])
    ... def test_my_estimator(check):
    ...     check()
    """
    import pytest  # noqa: PLC0415 - the kit is also used without pytest

    cases = []
    for i, subject in enumerate(subjects):
        expected = expected_failures(subject) if callable(expected_failures) else expected_failures
        options: dict[str, Any] = {"samples": samples, "seed": seed, "only": only, "skip": skip}
        options["expected_failures"] = expected
        for check in generate_checks(subject, **options):
            reason = check.expected_failure
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(check, id=f"{check.name}-{_title(subject)}{i}", marks=marks))
    if not cases:
        raise LCAError("parametrize_with_checks needs at least one subject, got none.")
    return pytest.mark.parametrize("check", cases)


def _title(subject: Subject) -> str:
    return repr(subject) if isinstance(subject, ObjectiveSubject) else type(subject).__name__
