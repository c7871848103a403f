"""pytest in a fork of this process, which has imported what takes long and nothing that is mutated."""

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "validation.mutation.quick_hypothesis")
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # plugins were imported before the fork
OPTIONS += ("-p", "_hypothesis_pytestplugin")  # others are not looked for, see PYTEST_DISABLE_PLUGIN_AUTOLOAD
OPTIONS += ("-o", "addopts=--import-mode=importlib --strict-config --strict-markers")  # no doctests of tests
MEMORY = 6 * 2**30  # bytes that a mutant may write to; one that collects without end is stopped there


@dataclass
class Outcome:
    """What pytest said.

    ``how`` is ``"survived"``, ``"killed"``, ``"timeout"`` or ``"crash"`` (the process died); ``seconds`` is
    the processor time of each test.
    """

    how: str
    seen_by: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class _Plugin:
    """Runs the tests named, in this order, and notes how long each takes and which fails first."""

    def __init__(self, tests: Sequence[str] | None) -> None:
        self.tests, self.outcome = tests, Outcome("survived")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.tests is not None:
            known = {item.nodeid: item for item in items}
            items[:] = [known[test] for test in self.tests if test in known] or items

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = time.process_time()
        result = yield
        self.outcome.seconds[item.nodeid] = time.process_time() - began
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.outcome.seen_by:
            self.outcome.seen_by = report.nodeid or "collection"


def run(
    options: Sequence[str], tests: Sequence[str], *, limit: float, output: Path, chosen: bool = True
) -> Outcome:
    """Run tests of the working folder in a fork, until the first failure.

    Parameters
    ----------
    options
        Of pytest.
    tests
        Names of tests; files and folders as well, if not ``chosen``. In the order given, if ``chosen``.
    limit
        Seconds after which the fork is ended.
    output
        Where the output of pytest goes.
    """
    gc.freeze()  # what is imported here is not searched again in each fork
    ours, theirs = get_context("fork").Pipe(duplex=False)
    child = get_context("fork").Process(target=_child, args=(theirs, options, tests, chosen, output))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit) else Outcome("timeout")
    except EOFError:
        return Outcome("crash")
    finally:
        _end(child.pid)
        child.join()


def _child(
    answer: Connection, options: Sequence[str], tests: Sequence[str], chosen: bool, output: Path
) -> None:
    os.setsid()  # so that the processes which a test starts end with it
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.dont_write_bytecode = "--cov-context=test" not in options  # of a mutant nothing may stay
    sys.path[:0] = [os.getcwd(), f"{os.getcwd()}/backends"]
    plugin = _Plugin(tests if chosen else None)
    paths = dict.fromkeys(test.partition("::")[0] for test in tests) if chosen else tests
    code = pytest.main(["-x", *OPTIONS, *options, *paths], plugins=[plugin])
    if code != pytest.ExitCode.OK:
        plugin.outcome.how = "killed"
        plugin.outcome.seen_by = plugin.outcome.seen_by or f"pytest: {pytest.ExitCode(code).name}"
    answer.send(plugin.outcome)
    answer.close()
    time.sleep(0.01)
    os._exit(0)  # no exit handlers: a mutant may hang in one


def _end(pid: int | None) -> None:
    """End a fork and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
