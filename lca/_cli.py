"""The `lca` program: runs a subcommand, and turns errors into one line and an exit status.

Exit status: 0 success; 1 a check failed; 2 the request cannot be carried out (one line says why); 130
interrupted; 141 the output was closed by its reader.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import lca
from lca._commands import COMMANDS
from lca.errors import LCAError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lca` with the given arguments (default: those of the process) and return its exit status."""
    args = _parser().parse_args(argv)
    try:
        status = args.run(args) or 0
        sys.stdout.flush()  # here, where a closed output can still be caught
        return status
    except LCAError as error:
        if args.traceback:
            raise
        print(f"lca: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlca: interrupted; nothing was written.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lca demo | head` closed the output, and Python must not flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lca", description="Loss Change Allocation: which parameters made the loss fall."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {lca.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(sub)
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        sub.set_defaults(run=command.run)
    return parser
