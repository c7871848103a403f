"""`lca cite`: BibTeX for what a run used."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lca.commands.command import Command
from lca.record.citation import citation, cite_record


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca cite`."""
    parser.add_argument("record", nargs="?", type=Path, help="of the run; none: what every run uses")


def run(args: Namespace) -> None:
    """Print the entries."""
    print(citation() if args.record is None else cite_record(args.record), end="")


CITE = Command("cite", "Print BibTeX entries for what a run used.", add_arguments, run)
