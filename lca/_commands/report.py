"""`lca report`: one page of HTML about a run, made from its record, or about several."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lca._commands.command import JSON, OVERWRITE, QUIET, Command, find_record
from lca._output import check_free
from lca._paths import local_path
from lca.errors import LCAError

PAGE = "report.html"


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca report`."""
    parser.add_argument("records", nargs="+", metavar="RECORD", help=_RECORD_HELP)
    add_page_options(parser, PAGE)


_RECORD_HELP = (
    "a folder written by lca.Record, or one that holds a record; with several, the page compares them, and "
    "runs that differ only in the setting seed are pooled"
)


def add_page_options(parser: ArgumentParser, page: str) -> None:
    """The options of every command that writes a page."""
    add = parser.add_argument
    add("-o", "--out", default=page, metavar="FILE", help=f"the page, or the folder of {page}; - {_PRINTS}")
    add("--title", default="", help="title of the page (default: the name of the record)")
    add("--overwrite", action="store_true", help=OVERWRITE)
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


_PRINTS = "prints the page (./%(default)s)"


def run(args: Namespace) -> None:
    """Read the records, write the page, print its path."""
    from lca.report import render_comparison, write_comparison, write_report  # noqa: PLC0415 - `lca --help`

    records = [find_record(record) for record in args.records]
    if len(records) > 1:
        put_page(
            args,
            PAGE,
            records,
            render=lambda: render_comparison(records, title=args.title).encode(errors="replace"),
            write=lambda path: write_comparison(records, path, title=args.title, overwrite=args.overwrite),
        )
        return
    [record] = records
    put_page(
        args,
        PAGE,
        records,
        render=lambda: report_file(record, args.title or record.name)[PAGE],
        write=lambda path: write_report(record, path, title=args.title, overwrite=args.overwrite),
    )


def put_page(
    args: Namespace,
    page: str,
    records: Sequence[Path],
    *,
    render: Callable[[], bytes],
    write: Callable[[Path], Path],
) -> None:
    """Print the page, or write it where the options say and print the path."""
    if args.out == "-":
        if args.json:
            raise LCAError("-o - prints the page, and --json prints JSON; omit one of them.")
        sys.stdout.buffer.write(render())
        return
    out = local_path(args.out)
    is_folder = out.is_dir() or args.out.endswith(("/", os.sep))
    path = out / page if is_folder else out
    check_free(path, overwrite=args.overwrite)
    write(path)
    if args.json:
        about: Mapping[str, object] = (
            {"record": str(records[0])} if len(records) == 1 else {"records": [*map(str, records)]}
        )
        print(json.dumps({**about, "report": str(path), "bytes": path.stat().st_size}))
    elif not args.quiet:
        print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")


def report_file(record: Path, title: str) -> dict[str, bytes]:
    """The page by its file name, for a command that writes it with other files."""
    from lca.record import open_record  # noqa: PLC0415
    from lca.report import render_report  # noqa: PLC0415

    return {PAGE: render_report(open_record(record), title=title).encode(errors="replace")}


REPORT = Command("report", "Make one self-contained HTML page of one run, or of several.", add_arguments, run)
