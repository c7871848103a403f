"""`lca report`: one page of HTML about a run, made from its record."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lca._commands.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca report`."""
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD", help="a folder written by lca.Record, e.g. run.zarr")
    add(
        "-o", "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (./%(default)s)"
    )
    add("--title", default="", help="title of the page (default: the name of the record)")


def run(args: Namespace) -> None:
    """Read the record, write the page, print its path."""
    from lca.report import write_report  # noqa: PLC0415 - `lca --help` needs no extra

    path = write_report(args.record, args.out, title=args.title)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")


def report_file(record: Path, title: str) -> dict[str, bytes]:
    """The page by its file name, for a command that writes it with other files."""
    from lca.record import open_record  # noqa: PLC0415
    from lca.report import render_report  # noqa: PLC0415

    return {"report.html": render_report(open_record(record), title=title).encode()}


REPORT = Command("report", "Make one self-contained HTML page of a run's record.", add_arguments, run)
