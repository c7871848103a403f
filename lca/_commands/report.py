"""`lca report`: one page of HTML about a run, made from its record."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from lca._commands.command import JSON, OVERWRITE, QUIET, Command, find_record
from lca._output import check_free
from lca._paths import local_path
from lca.errors import LCAError

PAGE = "report.html"


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca report`."""
    add = parser.add_argument
    add("record", metavar="RECORD", help="a folder written by lca.Record, or one that holds a record")
    add("-o", "--out", default=PAGE, metavar="FILE", help=_OUT_HELP)
    add("--title", default="", help="title of the page (default: the name of the record)")
    add("--overwrite", action="store_true", help=OVERWRITE)
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


_OUT_HELP = "the page, or the folder of report.html; - prints the page (./%(default)s)"


def run(args: Namespace) -> None:
    """Read the record, write the page, print its path."""
    from lca.report import write_report  # noqa: PLC0415 - `lca --help` needs no extra

    record = find_record(args.record)
    if args.out == "-":
        if args.json:
            raise LCAError("-o - prints the page, and --json prints JSON; omit one of them.")
        [page] = report_file(record, args.title or record.name).values()
        sys.stdout.buffer.write(page)
        return
    out = local_path(args.out)
    path = out / PAGE if out.is_dir() else out
    check_free(path, overwrite=args.overwrite)
    write_report(record, path, title=args.title, overwrite=args.overwrite)
    if args.json:
        print(json.dumps({"record": str(record), "report": str(path), "bytes": path.stat().st_size}))
    elif not args.quiet:
        print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")


def report_file(record: Path, title: str) -> dict[str, bytes]:
    """The page by its file name, for a command that writes it with other files."""
    from lca.record import open_record  # noqa: PLC0415
    from lca.report import render_report  # noqa: PLC0415

    return {PAGE: render_report(open_record(record), title=title).encode(errors="replace")}


REPORT = Command("report", "Make one self-contained HTML page of a run's record.", add_arguments, run)
