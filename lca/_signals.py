"""Ctrl-C and SIGTERM in the program `lca`: one line and the usual exit status, without a traceback.

While the program is still importing, there is nothing to clean up, so a signal ends it at once. While a
command runs, the signal raises `Stopped`, so that temporary folders are removed on the way out.
"""

import contextlib  # this module is imported first, and so imports only what is quick to import
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None
_WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}


class Stopped(KeyboardInterrupt):
    """The program was asked to end by the signal with the number ``signal``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def message(number: int) -> str:
    """What the program says when this signal ends it.

    >>> message(2)
    'lca: interrupted.'
    """
    return f"lca: {_WORDS[signal.Signals(number).name]}."


def end_at_once() -> None:
    """Let the signals end the program `lca` at once, with a line; does nothing in any other program."""
    if not _is_program():
        return
    for name in _WORDS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            _set(number, _end)


@contextlib.contextmanager
def raised(stopped: list[int]) -> Iterator[None]:
    """Context manager in which signals raise `Stopped`, and their numbers are appended to ``stopped``.

    The list tells what happened if the exception is swallowed, or becomes another one, in the code of others.
    """

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        raise Stopped(number)

    before = {}
    for name in _WORDS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = _set(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            _set(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{message(number)}\n".encode())
    os._exit(128 + number)


def _set(number: int, handler: _Handler) -> _Handler:
    """Set a handler and return the previous one; only the main thread can."""
    before = signal.getsignal(number)
    with contextlib.suppress(ValueError):
        signal.signal(number, handler)
    return before


def _is_program() -> bool:
    """Whether this process was started as ``lca`` or ``python -m lca``."""
    started = sys.argv[0] if getattr(sys, "argv", None) else ""
    if started == "-m":
        at = sys.orig_argv.index("-m") if "-m" in sys.orig_argv else len(sys.orig_argv)
        return sys.orig_argv[at + 1 : at + 2] == ["lca"]
    return os.path.basename(started).removesuffix(".exe") == "lca"
