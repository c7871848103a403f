"""Two processes that open one record at the same moment, in any two modes: at most one may get it.

``python -m validation.record.writers NUMBER`` is one of the two. It reads a path and a mode from each line,
opens the record and adds rows with its number, says how that went, and closes the record at the next line.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lca import Layout, Record, StepAllocation, open_record
from lca.record import RecordError

LAYOUT = Layout(("w",), ((3,),))
ROOT = Path(__file__).resolve().parents[2]
MODES = ("x", "w", "a")
ROWS, BLOCK = 5, 2
MIXED = [(first, second, exists) for exists in (False, True) for first in MODES for second in MODES]
"""The two modes, and whether a record exists before."""


def add_rows(record: Record, number: float) -> None:
    for _ in range(ROWS):
        values = np.full(3, number)
        record.update(StepAllocation(values, 1.0, 1.0, residual=0.0, mass=1.0, step=record.next_step))
    record.flush()


def serve(number: float) -> None:
    """Open records as the lines of the standard input say."""
    for line in sys.stdin:
        mode, _, path = line.rstrip("\n").partition(" ")
        try:
            record = Record(path, LAYOUT, mode=mode, block=BLOCK)
            add_rows(record, number)
        except RecordError as error:
            print("refused", error, flush=True)
            sys.stdin.readline()
            continue
        print("writes", flush=True)
        sys.stdin.readline()
        record.close()
        print("closed", flush=True)


@dataclass
class Pairs:
    """How often both of a pair wrote, or neither though one could, and the records that were not right."""

    pairs: int = 0
    both: int = 0
    none: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def _writers() -> Iterator[list["subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "validation.record.writers"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen([*command, str(number)], **pipes) for number in (1.0, 2.0)]
    try:
        yield both
    finally:
        for process in both:
            process.communicate()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def run(folder: Path, pairs: int) -> Pairs:
    """Let ``pairs`` pairs of writers open a record of their own, in all modes in turn."""
    found = Pairs()
    with _writers() as both:
        for number, (first, second, exists) in zip(range(pairs), itertools.cycle(MIXED), strict=False):
            path = folder / f"{number}.zarr"
            if exists:
                with Record(path, LAYOUT, block=BLOCK) as record:
                    add_rows(record, 0.0)
            for process, mode in zip(both, (first, second), strict=True):
                _tell(process, f"{mode} {path}")
            said = [_said(process) for process in both]
            writes = [which for which, text in enumerate(said) if text == "writes"]
            found.pairs += 1
            found.both += len(writes) == 2
            # Mode "x" looks at a record under its lock before it refuses it, which may turn the other away.
            found.none += not writes and not (exists and "x" in (first, second))
            for which, process in enumerate(both):
                _tell(process, "close")
                if which in writes:
                    _said(process)
            if len(writes) == 1:
                mode, own = (first, second)[writes[0]], writes[0] + 1.0
                expected = [0.0] * ROWS * (exists and mode == "a") + [own] * ROWS
                rows = open_record(path).load()
                if (rows.total[:, 0] / 3).values.tolist() != expected or not rows.attrs["complete"]:
                    found.wrong.append(
                        f"{first}, {second}, {'there' if exists else 'new'}: {rows.total.values}"
                    )
    return found


if __name__ == "__main__":
    serve(float(sys.argv[1]))
