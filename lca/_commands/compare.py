"""`lca compare`: one page of HTML that compares groups of runs."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lca._commands.command import Command, find_record
from lca._commands.report import add_page_options, put_page
from lca.errors import LCAError

PAGE = "comparison.html"
BETWEEN = "--"
_BETWEEN = "\0between"
"""Stands for ``--`` while the arguments are parsed: argparse would drop it."""


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca compare`."""
    parse = parser.parse_known_args

    def keep_separators(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        kept = None if args is None else [_BETWEEN if arg == BETWEEN else arg for arg in args]
        parser.parse_known_args = parse  # type: ignore[method-assign]
        try:
            found, unknown = parser.parse_known_intermixed_args(kept, namespace)
        finally:
            parser.parse_known_args = keep_separators  # type: ignore[method-assign, assignment]
        for option, value in vars(found).items():
            if option != "records" and _BETWEEN in (value if isinstance(value, list) else [value]):
                parser.error(f"argument --{option}: expected one argument, got {BETWEEN}")
        return found, [BETWEEN if arg == _BETWEEN else arg for arg in unknown]

    parser.parse_known_args = keep_separators  # type: ignore[method-assign, assignment]
    parser.usage = "%(prog)s [options] RECORD ... [-- RECORD ...] ..."
    parser.add_argument("records", nargs="+", metavar="RECORD", help=_RECORDS_HELP)
    parser.add_argument("--name", action="append", default=[], help=_NAME_HELP)
    parser.add_argument("--by", action="append", default=[], metavar="SETTING", help=_BY_HELP)
    add_page_options(parser, PAGE)


_RECORDS_HELP = (
    "the runs of a condition, such as its seeds; -- begins the next condition "
    "(lca compare adam/*.zarr -- sgd/*.zarr)"
)
_NAME_HELP = (
    "name of a condition, once for each in their order, before the records "
    "(lca compare --name A --name S adam/*.zarr -- sgd/*.zarr; default: from the paths)"
)


_BY_HELP = (
    "a setting of the records that tells conditions apart, in place of --; several times for several "
    "(lca compare rec/*.zarr --by optimizer)"
)


def run(args: Namespace) -> None:
    """Read the records, write the page, print its path."""
    from lca.report import render_comparison, write_comparison  # noqa: PLC0415 - `lca --help` needs no extra
    from lca.runs import open_runs  # noqa: PLC0415 - the same

    groups = _groups(args)
    runs = open_runs(groups[""], by=args.by) if args.by else open_runs(groups)
    put_page(
        args,
        PAGE,
        [record for group in groups.values() for record in group],
        render=lambda: render_comparison(runs, title=args.title).encode(errors="replace"),
        write=lambda path: write_comparison(runs, path, title=args.title, overwrite=args.overwrite),
    )


def _groups(args: Namespace) -> dict[str, list[Path]]:
    """The records of each condition by its name; with --by, all of them under the empty name."""
    groups: list[list[Path]] = [[]]
    for text in args.records:
        if text == _BETWEEN:
            groups.append([])
        else:
            groups[-1].append(find_record(text))
    if not all(groups):
        raise LCAError("there is no record before or after a --; pass the runs of each condition.")
    if args.by:
        if len(groups) > 1 or args.name:
            raise LCAError("--by makes the conditions from the settings; omit -- and --name.")
        return {"": groups[0]}
    given = [path.resolve() for group in groups for path in group]
    twice = [str(path) for i, path in enumerate(given) if path in given[:i]]
    if twice:
        raise LCAError(f"the record {twice[0]!r} is given twice; pass each run once.")
    names = args.name or _names(groups)
    if len(names) != len(groups) or len(set(names)) < len(names):
        raise LCAError(
            f"{len(groups)} conditions need as many different names, got {names}; pass --name once for each."
        )
    return dict(zip(names, groups, strict=True))


def _names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """The folder of each group, or else what the names of its records have in common.

    >>> _names([[Path("adam/0.zarr"), Path("adam/1.zarr")], [Path("sgd/0.zarr")]])
    ['adam', 'sgd']
    >>> _names([[Path("adam-0.zarr"), Path("adam-1.zarr")], [Path("sgd-0.zarr"), Path("sgd-1.zarr")]])
    ['adam', 'sgd']
    """
    folders = [{path.resolve().parent for path in group} for group in groups]
    if all(len(found) == 1 for found in folders):
        names = [found.pop().name for found in folders]
        if len(set(names)) == len(names):
            return names
    stems = [os.path.commonprefix([path.stem for path in group]).rstrip("-_. ") for group in groups]
    if all(stems) and len(set(stems)) == len(stems):
        return stems
    return [str(group[0]) for group in groups]


COMPARE = Command(
    "compare", "Make one self-contained HTML page that compares groups of runs.", add_arguments, run
)
