"""`Command`: the description of a subcommand of `lca`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand of `lca`.

    Parameters
    ----------
    name
        The word on the command line.
    help
        One line.
    add_arguments
        Adds its options to a parser.
    run
        Does the work; returns the exit status, or ``None`` for 0.
    """

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int | None]
