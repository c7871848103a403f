"""`lca check`: test an estimator, an objective or a backend against the laws of `lca.testing`."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lca._commands.command import JSON, Command
from lca._commands.targets import find_maker
from lca._extras import extra
from lca.allocation import Estimator
from lca.errors import LCAError
from lca.objective import Objective
from lca.reference._backend import Backend, load_backend


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca check`."""
    add = parser.add_argument
    add("target", nargs="?", metavar="MODULE:OBJECT", help=_TARGET_HELP)
    add("--samples", type=int, help="random cases a check (20; fewer for an objective of many parameters)")
    add("--seed", type=int, default=0, help="seed of the random cases (%(default)s)")
    add("--backend", metavar="NAME", help=_BACKEND_HELP)
    add("--backend-object", metavar="MODULE:OBJECT", help="as --backend, for one that is not installed")
    add("--only", action="append", metavar="CHECK", help="run this check alone (repeatable)")
    add("--skip", action="append", default=[], metavar="CHECK", help="do not run this check (repeatable)")
    add("--expect", action="append", default=[], metavar="CHECK=REASON", help=_EXPECT_HELP)
    add("--json", action="store_true", help=JSON)
    add("--list", action="store_true", help="list all checks with a description of each")


_TARGET_HELP = (
    "an estimator, an objective, or a class or function that makes one without arguments; for an objective "
    "with batches, state or a restricted domain an lca.testing.ObjectiveSubject; also path/to/file.py:OBJECT"
)
_BACKEND_HELP = (
    "with an objective: the installed backend whose vectors it takes, e.g. torch (default: numpy); alone: "
    "check this backend"
)
_EXPECT_HELP = (
    "a check that is known to fail, and the reason; it counts as a failure if it passes (repeatable)"
)


def run(args: Namespace) -> int:
    """Find, check, print; status 1 if a check failed."""
    if args.list:
        print(_listing())
        return 0
    if args.backend is not None and args.backend_object is not None:
        raise LCAError("pass --backend or --backend-object, not both.")
    named = args.target or args.backend or args.backend_object
    if named is None:
        raise LCAError("there is nothing to check; pass module:object, or --list to see the checks.")
    if args.samples is not None and args.samples < 1:
        raise LCAError(f"samples must be at least 1, got {args.samples}.")
    options = {"expected_failures": _expected(args.expect), "only": args.only, "skip": args.skip}
    backend = _backend(args)
    subject = backend if args.target is None else _subject(args.target, backend)
    return _check(subject, args, options)


def _backend(args: Namespace) -> Backend | None:
    with extra("testing"):
        from lca.testing._checks import is_backend  # noqa: PLC0415 - needs hypothesis

    if args.backend_object is None:
        return None if args.backend is None else load_backend(args.backend)
    made: Backend = find_maker(args.backend_object, is_backend)()
    if not is_backend(made):
        raise LCAError(f"{args.backend_object} is not a backend: it lacks name, vector, objective or train.")
    return made


def _subject(target: str, backend: Backend | None) -> Any:
    """What the kit checks: an objective is made anew for every case, with the vectors of its backend."""
    with extra("testing"):
        from lca.testing import ArraySubject, ObjectiveSubject  # noqa: PLC0415 - needs hypothesis
        from lca.testing._checks import is_backend  # noqa: PLC0415

    kinds = (ObjectiveSubject, ArraySubject)
    make = find_maker(target, lambda made: isinstance(made, kinds) or is_backend(made))
    subject = make()
    if isinstance(subject, Objective):
        subject = ObjectiveSubject(make)
    if backend is None:
        return subject
    if not isinstance(subject, ObjectiveSubject):
        kind = (
            "an estimator, which is checked on NumPy objectives"
            if isinstance(subject, Estimator)
            else "no objective"
        )
        raise LCAError(f"{target} is {kind}; omit --backend.")
    return replace(subject, vector=backend.vector)


def _check(subject: Any, args: Namespace, options: dict[str, Any]) -> int:
    with extra("testing"):
        from lca.testing._checks import checks_of, samples_for  # noqa: PLC0415 - needs hypothesis
        from lca.testing._report import run_checks  # noqa: PLC0415

    samples = samples_for(subject, args.samples)
    report = run_checks(
        checks_of(subject),
        subject,
        samples=samples,
        seed=args.seed,
        progress=_progress if sys.stderr.isatty() else None,
        repeat=_command(args, samples),
        **options,
    )
    if sys.stderr.isatty():
        _progress("")
    if args.json:
        print(json.dumps({"subject": report.subject, "checks": report.rows()}, indent=2))
    else:
        print(report)
        if report.failed and hasattr(subject, "make") and args.backend is args.backend_object is None:
            print(_hint(subject.make()), end="")
    return 1 if report.failed else 0


def _progress(line: str) -> None:
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _command(args: Namespace, samples: int) -> Callable[[str], list[str]]:
    """The command that runs one check of the same subject again."""
    words = ["lca check", args.target]
    words += [f"--backend {args.backend}"] if args.backend else []
    words += [f"--backend-object {args.backend_object}"] if args.backend_object else []
    start = " ".join(word for word in words if word)
    return lambda name: [f"{start} --only {name} --samples {samples} --seed {args.seed}"]


def _hint(objective: Objective) -> str:
    """Advice for an objective that does not accept a NumPy vector, and so fails every check."""
    try:
        objective.loss(np.zeros(objective.layout.size))
    except (TypeError, AttributeError) as error:
        return (
            f"\nIt takes no NumPy vector ({type(error).__name__}: {error}).\n"
            "If it was written for a framework, name its backend, e.g. --backend torch.\n"
        )
    except Exception:  # another kind of error, which the report shows
        return ""
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
        from lca.testing._array_edges import ALL_ARRAY_CHECKS  # noqa: PLC0415 - needs hypothesis
        from lca.testing._backend_checks import BACKEND_CHECKS  # noqa: PLC0415
        from lca.testing._checks import ALL_ESTIMATOR_CHECKS, ALL_OBJECTIVE_CHECKS  # noqa: PLC0415

    lines = []
    for title, checks in (
        ("estimators", ALL_ESTIMATOR_CHECKS),
        ("objectives", ALL_OBJECTIVE_CHECKS),
        ("backends, beside those of objectives and array operations", BACKEND_CHECKS),
        ("array operations", ALL_ARRAY_CHECKS),
    ):
        width = max(len(check.name) for check in checks)
        lines += ["", f"{title}:", *(f"  {check.name:<{width}}  {check.description}" for check in checks)]
    return "\n".join(lines[1:])


CHECK = Command(
    "check", "Test an estimator, an objective or a backend against the laws of LCA.", add_arguments, run
)
