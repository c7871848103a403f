"""The `lca` program: runs a subcommand, and turns errors into one line and an exit status.

Exit status: 0 success; 1 a check failed; 2 the request cannot be carried out (one line says why); 130
interrupted; 141 the output was closed by its reader; 143 terminated.
"""

import io
import os
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress

import lca
from lca import _signals
from lca._commands import COMMANDS
from lca.errors import LCAError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lca` with the given arguments (default: those of the process) and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path or name may have characters the terminal has not
            stream.reconfigure(errors="backslashreplace")
    stopped: list[int] = []
    try:
        with _signals.raised(stopped):
            args = _parse(argv)
            try:
                status = args.run(args) or 0
                sys.stdout.flush()  # here, where a closed output can still be caught
                return status
            except (LCAError, OSError, MemoryError) as error:
                if stopped:  # while something was imported, say
                    raise _signals.Stopped(stopped[-1]) from error
                if args.traceback:
                    raise
                return _failed(error)
    except KeyboardInterrupt as error:
        number = error.signal if isinstance(error, _signals.Stopped) else 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines of Zarr that are given up
            traceback.clear_frames(error.__traceback__)
        _say(f"\n{_signals.message(number)}")
        return 128 + number


def _failed(error: Exception) -> int:
    """Say in one line what is wrong."""
    if isinstance(error, OSError) and not isinstance(error, LCAError):
        # The output cannot be written, and Python must not try it again at exit.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `lca demo | head`
            return 141
        place = "the output" if error.filename is None else repr(str(error.filename))
        _say(f"lca: error: cannot read or write {place} ({error.strerror or error}).")
    elif isinstance(error, MemoryError):
        _say(f"lca: error: there is not enough memory ({error}).".replace(" ()", ""))
    else:
        _say(f"lca: error: {' '.join(str(error).splitlines())}")
    return 2


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> Namespace:
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")  # with the usage of the subcommand
    return args


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lca", description="Loss Change Allocation: which parameters made the loss fall."
    )
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {lca.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(sub)
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        sub.set_defaults(run=command.run, parser=sub)
    return parser
