"""`lca cite`: BibTeX for what a run used."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lca._commands.command import Command, find_record
from lca._commands.targets import find_estimator
from lca.errors import LCAError
from lca.estimators._registry import REGISTRY
from lca.record._citation import citation, citations_of
from lca.record._reading import attributes_of


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca cite`."""
    add = parser.add_argument
    add("record", nargs="?", metavar="RECORD", help="the record of a run; without it: what every run uses")
    add("--estimator", metavar="NAME", help="without a record: what a run with this estimator uses")


def run(args: Namespace) -> None:
    """Print the entries."""
    if args.record is not None and args.estimator is not None:
        raise LCAError("a record names its own estimator; pass either the record or --estimator, not both.")
    if args.record in REGISTRY and not Path(args.record).exists():
        raise LCAError(f"{args.record!r} is an estimator and no record; pass --estimator {args.record}.")
    if args.record is not None:
        entries = citation(attributes_of(find_record(args.record)))
    elif args.estimator is not None:
        entries = citation({"citations": citations_of(find_estimator(args.estimator).make(1e-3))})
    else:
        entries = citation()
    print(entries, end="")


CITE = Command(
    "cite",
    "Print BibTeX entries for what a run used.",
    add_arguments,
    run,
    words={"--estimator": tuple(REGISTRY)},
)
