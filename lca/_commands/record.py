"""`lca record check`: finds what is intact in a damaged record, and saves it in a new record."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lca._commands.command import JSON, QUIET, Command, find_record
from lca._paths import local_path
from lca.record import RecordError

if TYPE_CHECKING:
    from lca.record._check import RecordCheck


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca record`."""
    add = parser.add_argument
    add("action", choices=["check"], help="check: compare every file with the digest of what was written")
    add("record", metavar="RECORD", help="a folder written by lca.Record, or one that holds a record")
    add(
        "--save",
        metavar="NEW",
        help="write the first rows, which are whole in all variables, to a new record",
    )
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


def run(args: Namespace) -> int:
    """Check, save, print; status 1 if something is damaged."""
    from lca._extras import extra  # noqa: PLC0415 - `lca --help` needs no extra

    with extra("report"):
        from lca.record._check import check_record, save_rows  # noqa: PLC0415

    found = check_record(find_record(args.record))
    if args.save is not None:
        save_rows(found, local_path(args.save, RecordError))
    if args.json:
        print(json.dumps(as_json(found)))
    elif not args.quiet:
        print(as_text(found))
        if args.save is not None:
            print(f"Wrote the first {found.whole_rows} rows to {args.save}.")
    return int(not found.whole)


def as_json(found: "RecordCheck") -> dict[str, object]:
    """What was found, for a program."""
    return {
        "record": str(found.path),
        "whole": found.whole,
        "complete": found.complete,
        "rows": found.rows,
        "whole_rows": found.whole_rows,
        "variables": {
            each.name or "zarr.json": {
                "whole": not each.damage,
                "damage": each.damage,
                "lost_rows": each.lost,
            }
            for each in found.variables
        },
    }


def as_text(found: "RecordCheck") -> str:
    """What was found, for a person."""
    end = "complete" if found.complete else "the run did not reach its end, or goes on"
    lines = [f"{found.path}: {found.rows} rows ({end})"]
    damaged = [each for each in found.variables if each.damage]
    width = max((len(each.name) for each in damaged), default=0)
    for each in damaged:
        lost = (
            f" (rows {', '.join(f'{first} to {end - 1}' for first, end in each.lost)})" if each.lost else ""
        )
        more = f" and {len(each.damage) - 1} more" if len(each.damage) > 1 else ""
        lines.append(f"  {each.name or 'the record':<{width}}  DAMAGED: {each.damage[0]}{more}{lost}")
    whole = sum(1 for each in found.variables if each.name and not each.damage)
    lines.append(f"{whole} of {sum(1 for each in found.variables if each.name)} variables are whole.")
    if damaged and found.whole_rows:
        lines.append(
            f"The first {found.whole_rows} rows are whole in all variables; save them with "
            f"lca record check {found.path} --save NEW"
        )
    elif damaged:
        lines.append("No row is whole in all variables, so nothing can be saved; copy the record again.")
    return "\n".join(lines)


RECORD_COMMAND = Command("record", "Check that a record is as it was written.", add_arguments, run)
