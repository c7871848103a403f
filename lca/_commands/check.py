"""`lca check`: test any estimator or objective against the laws of `lca.testing`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np

from lca._commands.check_target import find_maker
from lca._commands.command import Command
from lca._extras import extra
from lca.allocation import Estimator
from lca.errors import LCAError
from lca.objective import Objective
from lca.reference._backend import Backend, load_backend


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca check`."""
    add = parser.add_argument
    add("target", nargs="?", metavar="MODULE:OBJECT", help=_TARGET_HELP)
    add("--samples", type=int, default=20, help="random cases a check (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the random cases (%(default)s)")
    add("--backend", metavar="NAME", help=_BACKEND_HELP)
    add("--expect", action="append", default=[], metavar="CHECK=REASON", help=_EXPECT_HELP)
    add("--list", action="store_true", help="list all checks with a description of each")


_TARGET_HELP = (
    "an estimator, an objective, or a class or function that makes one without arguments; also "
    "path/to/file.py:OBJECT"
)
_BACKEND_HELP = "for an objective: the installed backend whose vectors it takes, e.g. torch (default: numpy)"
_EXPECT_HELP = (
    "a check that is known to fail, and the reason; it counts as a failure if it passes (repeatable)"
)


def run(args: Namespace) -> int:
    """Find, check, print; status 1 if a check failed."""
    if args.list:
        print(_listing())
        return 0
    if args.target is None:
        raise LCAError("there is nothing to check; pass module:object, or --list to see the checks.")
    if args.samples < 1:
        raise LCAError(f"samples must be at least 1, got {args.samples}.")
    options = {"samples": args.samples, "seed": args.seed, "expected_failures": _expected(args.expect)}
    backend = None if args.backend is None else load_backend(args.backend)
    return _check(args.target, backend, options)


def _check(target: str, backend: Backend | None, options: dict[str, Any]) -> int:
    with extra("testing"):
        from lca.testing import ConformanceError, check_estimator, check_objective  # noqa: PLC0415 - needs hypothesis

    make = find_maker(target)
    subject = make()
    if backend is not None and isinstance(subject, Estimator):
        raise LCAError(f"{target} is an estimator, which is checked on NumPy objectives; omit --backend.")
    vector = np.asarray if backend is None else backend.vector
    try:
        if isinstance(subject, Estimator):
            report = check_estimator(subject, **options)
        else:
            report = check_objective(make, vector=vector, **options)
    except ConformanceError as failure:
        print(failure)
        if backend is None and not isinstance(subject, Estimator):
            print(_hint(subject), end="")
        return 1
    print(report)
    return 0


def _hint(objective: Objective) -> str:
    """Advice for an objective that does not accept a NumPy vector, and so fails every check."""
    try:
        objective.loss(np.zeros(objective.layout.size))
    except Exception as error:
        return (
            f"\nIt takes no NumPy vector ({type(error).__name__}: {error}).\n"
            "If it was written for a framework, name its backend, e.g. --backend torch.\n"
        )
    return ""


def _expected(declared: Sequence[str]) -> dict[str, str]:
    reasons = {}
    for text in declared:
        name, _, reason = text.partition("=")
        if not name or not reason.strip():
            raise LCAError(
                f"--expect takes CHECK=REASON, got {text!r}; state why the check is known to fail."
            )
        reasons[name] = reason
    return reasons


def _listing() -> str:
    with extra("testing"):
        from lca.testing._checks import ALL_ESTIMATOR_CHECKS  # noqa: PLC0415 - needs hypothesis
        from lca.testing._objective_checks import OBJECTIVE_CHECKS  # noqa: PLC0415

    lines = []
    for title, checks in (("estimators", ALL_ESTIMATOR_CHECKS), ("objectives", OBJECTIVE_CHECKS)):
        width = max(len(check.name) for check in checks)
        lines += ["", f"{title}:", *(f"  {check.name:<{width}}  {check.description}" for check in checks)]
    return "\n".join(lines[1:])


CHECK = Command("check", "Test an estimator or an objective against the laws of LCA.", add_arguments, run)
