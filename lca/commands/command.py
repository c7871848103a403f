"""`Command`: what the `lca` program needs to know about one of its subcommands."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand: its name, a line of help, its options, and what it does.

    ``run`` returns the exit status; ``None`` is 0.
    """

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int | None]
