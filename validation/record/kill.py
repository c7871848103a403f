"""A process that writes a record as fast as it can, and a process that kills it: whole rows must remain.

``python -m validation.record.kill PATH`` is the writer; it continues an existing record.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lca import Layout, Record, StepAllocation, open_record

LAYOUT = Layout(("fc1.weight", "fc1.bias", "fc2.weight"), ((40, 25), (40,), (10, 40)))
BLOCK = 64
ROOT = Path(__file__).resolve().parents[2]


def allocation(step: int) -> StepAllocation:
    """An allocation that is determined by the step, so that every row can be checked."""
    values = np.random.default_rng(step).normal(size=LAYOUT.size).astype(np.float32)
    return StepAllocation(values, float(step), step + 1.0, residual=0.0, mass=1.0, step=step)


def write(path: str) -> None:
    """Add a metric and a row without end, and print the number of rows after each."""
    with Record(path, LAYOUT, mode="a", values="float32", block=BLOCK) as record:
        print(record.next_step, flush=True)
        while True:
            record.add_metrics({"rows": record.next_step}, step=record.next_step)
            record.update(allocation(record.next_step))
            print(record.next_step, flush=True)


@dataclass(frozen=True)
class Killed:
    """The numbers of rows that a killed writer began with and printed, and that are in the record."""

    began: int
    written: int
    kept: int

    @property
    def lost(self) -> int:
        return self.written - self.kept


def kill(path: Path, rows: int, seconds: float) -> Killed:
    """Start a writer, kill it (SIGKILL) after ``rows`` rows and ``seconds`` more, and check the record.

    Raises
    ------
    AssertionError
        If a row differs from what was written, or a metric of a row is missing.
    RecordError
        If the record cannot be read.
    """
    command = [sys.executable, "-m", "validation.record.kill", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        began = int(process.stdout.readline())
        before = [process.stdout.readline() for _ in range(rows)]
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        said = "".join([*before, process.stdout.read()]).split("\n")[:-1]  # without an incomplete last line
    return Killed(began, int(said[-1]) if said else began, check(path))


def check(path: Path) -> int:
    """The number of rows in the record, each of which must be what was written."""
    if not path.exists():
        return 0  # killed before its first row
    run = open_record(path).load()
    assert run.step.values.tolist() == list(range(run.sizes["step"]))
    for step in range(run.sizes["step"]):
        expected = allocation(step)
        assert np.array_equal(run["values"][step, 0], expected.values), step
        assert run.loss_start[step, 0] == expected.loss_start, step
        assert np.array_equal(run.tensor_total[step, 0], LAYOUT.groups("tensor").total(expected.values)), step
        assert int(run.histogram_helping[step].sum()) == np.count_nonzero(expected.values < 0), step
    given = run.attrs["metrics"].get("rows", {"step": [], "value": []})
    assert len(given["step"]) - run.sizes["step"] in (0, 1), len(given["step"])  # that of the next row, too
    assert given["step"] == given["value"] == list(range(len(given["step"])))
    return run.sizes["step"]


if __name__ == "__main__":
    write(sys.argv[1])
