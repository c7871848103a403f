"""The ways to run the kit from Python: plain calls that raise, and pytest parametrisation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.objective import Batch, Objective
from lca.reference.backend import Backend, load_backend
from lca.reference.models import mlp
from lca.testing.backend_checks import BACKEND_CHECKS, make_case
from lca.testing.estimator_checks import ESTIMATOR_CHECKS
from lca.testing.objective_checks import OBJECTIVE_CHECKS, ObjectiveSubject
from lca.testing.report import Check, Report, run_checks
from lca.testing.stochastic_checks import STOCHASTIC_CHECKS

Expected = Mapping[str, str]
ALL_ESTIMATOR_CHECKS: list[Check] = [*ESTIMATOR_CHECKS, *STOCHASTIC_CHECKS]


def check_estimator(
    estimator: Estimator, *, samples: int = 20, seed: int = 0, expected_failures: Expected | None = None
) -> Report:
    """Hold an estimator to every law that applies to it.

    Parameters
    ----------
    estimator
        What is to be checked; it needs no registration and no knowledge of this library's tests.
    samples
        Random cases a check; more cases find rarer errors.
    seed
        Same seed, same cases.
    expected_failures
        ``{check: reason}`` for laws the estimator is known to break. Strict: one that passes fails.

    Returns
    -------
    Report
        Prints as a table of checks.

    Raises
    ------
    ConformanceError
        If a check fails; the message is the report, with the smallest failing case of each.

    Examples
    --------
    >>> from lca import SIMPSON, PathIntegral
    >>> len(check_estimator(PathIntegral(SIMPSON), samples=2).failed)
    0
    """
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise LCAError(f"expected an estimator (target, degree, cost, start), got {estimator!r}.")
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
    """Hold an objective to every law that the engine relies on.

    Parameters
    ----------
    make_objective
        A function without arguments that makes the objective afresh.
    vector
        From a NumPy vector to the framework's own.
    batches
        ``(weight, batch)`` pairs that make up the whole data set, if the objective takes batches.
    state
        Returns what a call must leave alone (model, optimizer, buffers) as arrays by name.
    samples, seed, expected_failures
        As in `check_estimator`.

    Raises
    ------
    ConformanceError
        If a check fails; the message is the report.

    Examples
    --------
    >>> from lca.reference.models import bowl
    >>> len(check_objective(lambda: bowl(3), samples=2).failed)
    0
    """
    if not callable(make_objective):
        raise LCAError(
            f"expected a function that makes the objective afresh, got {make_objective!r}; pass lambda: ..."
        )
    subject = ObjectiveSubject(make_objective, vector, batches=tuple(batches), state=state)
    report = run_checks(
        OBJECTIVE_CHECKS, subject, samples=samples, seed=seed, expected_failures=expected_failures
    )
    return report.raise_if_failed()


def check_backend(
    backend: str | Backend, *, samples: int = 20, seed: int = 0, expected_failures: Expected | None = None
) -> Report:
    """Hold a backend to the NumPy reference, and its objective to every law of objectives.

    Parameters
    ----------
    backend
        The name of an installed backend, or a `Backend`.
    samples, seed, expected_failures
        As in `check_estimator`.

    Raises
    ------
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
    """The laws of objectives, applied to what a backend makes of a small tanh network."""

    def lift(check: Check) -> Check:
        def law(backend: Backend, seed: int) -> None:
            check.law(objective_of(backend), seed)

        law.__doc__ = check.law.__doc__
        return replace(check, law=law, applies=lambda backend: True)

    return [lift(check) for check in OBJECTIVE_CHECKS]


def objective_of(backend: Backend) -> ObjectiveSubject:
    """A backend's objective of a fixed small network on seventeen examples, with its batches."""
    case = make_case(mlp((3, 4, 2), activation="tanh"), 0, "float64", weighted=True)
    parts = [case.data.take(np.arange(i, min(i + 5, 17))) for i in range(0, 17, 5)]
    batches = tuple((part.total_weight, part) for part in parts)
    return ObjectiveSubject(lambda: case.objective(backend), backend.vector, batches=batches)


def parametrize_with_checks(
    estimators: Iterable[Estimator], *, samples: int = 20, seed: int = 0
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A pytest decorator: one test for each estimator and check that applies to it.

    The decorated test takes one argument, ``check``, and calls it::

        @parametrize_with_checks([MyEstimator()])
        def test_my_estimator(check):
            check()
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
        raise LCAError("parametrize_with_checks got no estimator to check.")
    return pytest.mark.parametrize("check", cases)
