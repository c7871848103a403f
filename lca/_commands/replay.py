"""`lca replay`: the summary, and a record, of a run of which only checkpoints are left."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

from lca._commands.command import JSON, OVERWRITE, QUIET, Command
from lca._commands.targets import find_maker
from lca._paths import local_path
from lca.errors import LCAError, TrajectoryError
from lca.estimators._registry import REGISTRY, named_estimator
from lca.objective import Objective, leaves
from lca.step import Step, Trajectory


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca replay`."""
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CHECKPOINTS", help=_CHECKPOINTS)
    add("objective", metavar="MODULE:OBJECT", help=_OBJECTIVE)
    add("-o", "--out", metavar="RECORD", help="write a record, of which `lca report` makes a page")
    add("--estimator", default="adaptive", choices=[*REGISTRY], metavar="NAME", help="see `lca estimators`")
    add("--tol", type=float, default=1e-3, help="the largest |residual| of a step (default %(default)s)")
    add("--heads", type=int, metavar="N", help="the number of attention heads, whose sums are recorded")
    add("--group", action="append", default=[], metavar="NAME=PATTERN", help=_GROUP)
    add("--key", help="key of the dictionary in a file of torch that holds the tensors, as state_dict")
    add("--prefix", help="prefix of the names in a file of torch, as net.")
    add("--overwrite", action="store_true", help=OVERWRITE)
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


_GROUP = "a group of tensors: those in whose names the regular expression is found; several times for several"
_CHECKPOINTS = (
    "a folder of checkpoints, which are taken in the order of the numbers in their names; several files or "
    "folders in the order of training; or an HDF5 file with one parameter vector per row"
)
_OBJECTIVE = (
    "what is measured, as module:object or path/to/file.py:object: an objective of lca_torch or "
    "lca_tensorflow, several by name, or a function that returns them"
)


def run(args: Namespace) -> None:
    """Measure, print the summary, say what was written."""
    from lca.record import Record  # noqa: PLC0415 - `lca --help`
    from lca.tracking import measure  # noqa: PLC0415

    made = find_maker(args.objective, lambda found: isinstance(found, Mapping), built_in=False)()
    estimator = named_estimator(args.estimator).make(args.tol)
    given = {"key": args.key, "prefix": args.prefix}
    steps = steps_of(args.checkpoints, made, **{name: value for name, value in given.items() if value})
    groups = _groups(args.group)
    record = None if args.out is None else Record(args.out, mode="w" if args.overwrite else "x")
    progress = sys.stderr.isatty() and not (args.quiet or args.json) and find_spec("tqdm") is not None
    summary = measure(
        made, steps, estimator, record=record, groups=groups, heads=args.heads, progress=progress
    )
    if args.json:
        print(json.dumps(summary))
    elif not args.quiet:
        shown = {"tensor": True, "group": groups, "head": args.heads}
        print("\n\n".join(str(summary.table(by=by)) for by, given in shown.items() if given))
        if args.out is not None:
            print(f"Wrote {args.out}; lca report {args.out} makes a page of it.")


def _groups(given: list[str]) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in given]
    for name, sign, pattern in pairs:
        if not (name and sign and pattern):
            raise LCAError(f"--group {name + sign + pattern!r} must be NAME=PATTERN, as in 'mlp=[.]mlp[.]'.")
    return {name: pattern for name, _, pattern in pairs} or None


def steps_of(
    paths: list[str], objective: Objective | Mapping[str, Objective], **options: str
) -> Iterable[Step] | Trajectory:
    """The steps between checkpoints, read by the backend of the objective, or those in an HDF5 file.

    ``options`` are those of the function ``replay`` of the backend.

    Raises
    ------
    TrajectoryError
        If there is no such run.
    LCAError
        If no objective belongs to a backend that reads checkpoints, or that has no such option.
    """
    if len(paths) == 1 and local_path(paths[0], TrajectoryError).is_file():
        from lca.importers import replay_hdf5  # noqa: PLC0415 - needs h5py

        return replay_hdf5(paths[0], objective)
    replay = _replay_of(objective)
    unknown = [name for name in options if name not in signature(replay).parameters]
    if unknown:
        raise LCAError(f"{replay.__module__.partition('.')[0]}.replay has no option {unknown[0]}; omit it.")
    steps: Iterable[Step] = replay(paths[0] if len(paths) == 1 else paths, objective, **options)
    return steps


def _replay_of(objective: Objective | Mapping[str, Objective]) -> Any:
    """The function ``replay`` of the package of the first objective that has one."""
    packages = dict.fromkeys(type(own).__module__.partition(".")[0] for own in leaves(objective))
    for package in packages:
        replay = getattr(import_module(package), "replay", None)
        if replay is not None:
            return replay
    raise LCAError(
        f"checkpoints are read by the backend of the objective, and {', '.join(packages)} has no function "
        "replay; pass an objective of lca_torch or lca_tensorflow."
    )


REPLAY = Command(
    "replay",
    "Measure a run of which only checkpoints are left.",
    add_arguments,
    run,
    words={"--estimator": tuple(REGISTRY)},
)
