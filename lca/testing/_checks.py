"""How to run the checks: functions that raise, and a decorator that makes one pytest test per check."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.objective import Batch, Objective
from lca.reference._backend import Backend, load_backend
from lca.reference._models import mlp
from lca.testing._backend_checks import BACKEND_CHECKS, make_case
from lca.testing._estimator_checks import ESTIMATOR_CHECKS
from lca.testing._objective_checks import OBJECTIVE_CHECKS, ObjectiveSubject
from lca.testing._report import Check, Report, run_checks
from lca.testing._stochastic_checks import STOCHASTIC_CHECKS

Expected = Mapping[str, str]
ALL_ESTIMATOR_CHECKS: list[Check] = [*ESTIMATOR_CHECKS, *STOCHASTIC_CHECKS]


def check_estimator(
    estimator: Estimator, *, samples: int = 20, seed: int = 0, expected_failures: Expected | None = None
) -> Report:
    """Check an estimator against every law that applies to it.

    Full-data estimators are checked on random polynomials and small networks, stochastic estimators on
    repeated short training runs.

    Parameters
    ----------
    estimator
        The estimator; it needs no registration.
    samples
        Random cases per check; more cases find rarer errors.
    seed
        The same seed gives the same cases.
    expected_failures
        ``{check: reason}`` for laws that the estimator is known to break. The declaration is strict: an
        expected failure that passes is reported as a failure.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    LCAError
        If ``estimator`` is not an estimator, or ``expected_failures`` names no check.
    ConformanceError
        If a check fails; the message is the report, with the smallest failing case of each check.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> len(check_estimator(PathIntegral(SIMPSON), samples=2).failed)
    0
    """
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise LCAError(
            f"expected an estimator (an object with target, degree, cost and start), got {estimator!r}."
        )
    report = run_checks(
        ALL_ESTIMATOR_CHECKS, estimator, samples=samples, seed=seed, expected_failures=expected_failures
    )
    return report.raise_if_failed()


def check_objective(
    make_objective: Callable[[], Objective],
    *,
    vector: Callable[[np.ndarray], Any] = np.asarray,
    batches: Iterable[tuple[float, Batch]] = (),
    state: Callable[[], Mapping[str, np.ndarray]] = dict,
    samples: int = 20,
    seed: int = 0,
    expected_failures: Expected | None = None,
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
        buffers) as arrays by name.
    samples, seed, expected_failures
        As in `check_estimator`.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    LCAError
        If ``make_objective`` is not callable.
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> from lca.reference import bowl
    >>> len(check_objective(lambda: bowl(3), samples=2).failed)
    0
    """
    if not callable(make_objective):
        raise LCAError(
            f"expected a function that returns a new objective, got {make_objective!r}; pass lambda: ..."
        )
    subject = ObjectiveSubject(make_objective, vector, batches=tuple(batches), state=state)
    report = run_checks(
        OBJECTIVE_CHECKS, subject, samples=samples, seed=seed, expected_failures=expected_failures
    )
    return report.raise_if_failed()


def check_backend(
    backend: str | Backend, *, samples: int = 20, seed: int = 0, expected_failures: Expected | None = None
) -> Report:
    """Compare a backend with the NumPy reference, and check its objectives against the laws of objectives.

    Parameters
    ----------
    backend
        The name of an installed backend, or a `lca.reference.Backend`.
    samples, seed, expected_failures
        As in `check_estimator`.

    Returns
    -------
    Report
        Prints as a table with one row per check.

    Raises
    ------
    UnknownNameError
        If no backend of this name is installed.
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> len(check_backend("numpy", samples=2).failed)
    0
    """
    found = load_backend(backend) if isinstance(backend, str) else backend
    report = run_checks(
        [*BACKEND_CHECKS, *_objective_checks_of_backends()],
        found,
        samples=samples,
        seed=seed,
        expected_failures=expected_failures,
    )
    return report.raise_if_failed()


def _objective_checks_of_backends() -> list[Check]:
    """The laws of objectives, applied to a backend's objective of a small tanh network."""

    def lift(check: Check) -> Check:
        def law(backend: Backend, seed: int) -> None:
            check.law(objective_of(backend), seed)

        law.__doc__ = check.law.__doc__
        return replace(check, law=law, applies=lambda backend: True)

    return [lift(check) for check in OBJECTIVE_CHECKS]


def objective_of(backend: Backend) -> ObjectiveSubject:
    """A backend's objective of a fixed small network with 17 examples, and its batches."""
    case = make_case(mlp((3, 4, 2), activation="tanh"), 0, "float64", weighted=True)
    batches = tuple((batch.total_weight, batch) for batch in case.measuring_batches)
    return ObjectiveSubject(lambda: case.objective(backend), backend.vector, batches=batches)


def parametrize_with_checks(
    estimators: Iterable[Estimator], *, samples: int = 20, seed: int = 0
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A pytest decorator that makes one test for each estimator and each check that applies to it.

    The decorated test has one argument, ``check``, and calls it.

    Parameters
    ----------
    estimators
        At least one estimator.
    samples, seed
        As in `check_estimator`.

    Raises
    ------
    LCAError
        If there is nothing to check.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> @parametrize_with_checks([PathIntegral(SIMPSON)])
    ... def test_my_estimator(check):
    ...     check()
    """
    import pytest  # noqa: PLC0415 - the kit is also used without pytest

    cases = [
        pytest.param(
            partial(check.run, estimator, samples=samples, seed=seed),
            id=f"{check.name}-{type(estimator).__name__}{i}",
        )
        for i, estimator in enumerate(estimators)
        for check in ALL_ESTIMATOR_CHECKS
        if check.applies(estimator)
    ]
    if not cases:
        raise LCAError("parametrize_with_checks needs at least one estimator, got none.")
    return pytest.mark.parametrize("check", cases)
