"""Checks the claims about the record: its cost, speed and memory, and that it survives writers and damage.

``python -m validation.record.run`` runs all parts, ``--part kill`` one of them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lca import Layout, Record, StepAllocation
from lca.row import Row
from lca.summary import RunViews
from lca.views import RowView
from validation.evidence import keep, peak_memory_mib, verdict
from validation.record import damage, writers
from validation.record.kill import BLOCK, kill

FOLDER = Path(__file__).parent
MNIST_FC = Layout(
    ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"),
    ((100, 784), (100,), (50, 100), (50,), (10, 50), (10,)),
)


def allocation(values: np.ndarray, step: int) -> StepAllocation:
    return StepAllocation(values, 2.0, 1.0, residual=0.0, mass=1.0, step=step)


def folder_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


# --- ingest ----------------------------------------------------------------------------------------------


def noise(steps: int, zeros: float) -> np.ndarray:
    """Float32 noise of the magnitude of allocations, of which the fraction ``zeros`` is exactly 0."""
    rng = np.random.default_rng(0)
    rows = rng.normal(scale=1e-6, size=(steps, MNIST_FC.size)).astype(np.float32)
    rows[rng.random(rows.shape) < zeros] = 0
    return rows


def into_record(rows: np.ndarray, path: Path) -> None:
    """Write every value of every step, and the other contents of a record."""
    with Record(path, MNIST_FC, values="float32") as record:
        for step, values in enumerate(rows):
            record.update(allocation(values, step))


def into_hdf5(rows: np.ndarray, path: Path) -> None:
    """Write row by row into a gzipped data set with automatic chunks, as older LCA runs did."""
    import h5py  # noqa: PLC0415

    with h5py.File(path, "w") as file:
        size = rows.shape[1]
        growing = {"maxshape": (None, size), "chunks": True, "compression": "gzip"}
        held = file.create_dataset("lca", (0, size), "f4", **growing)
        for step, values in enumerate(rows):
            held.resize(step + 1, axis=0)
            held[step] = values


def ingest(args: argparse.Namespace) -> dict[str, bool]:
    """Write the same rows both ways in turn: on a shared machine only ratios side by side mean something."""
    about = {"steps": args.ingest_steps, "parameters": MNIST_FC.size, "rounds": args.ingest_rounds}
    results: dict[str, Any] = about
    claims = {}
    for name, zeros in (("noise", 0.0), ("58 % zeros", 0.58)):
        rows = noise(args.ingest_steps, zeros)
        megabytes = rows.nbytes / 1e6
        rounds = []
        for _ in range(args.ingest_rounds):
            with tempfile.TemporaryDirectory() as place:
                record, hdf5 = Path(place, "run.zarr"), Path(place, "run.h5")
                rounds.append((timed(into_record, rows, record), timed(into_hdf5, rows, hdf5)))
                stored = {"record": folder_mb(record), "hdf5": hdf5.stat().st_size / 1e6}
        ratios = [slow / fast for fast, slow in rounds]
        ratio = float(np.median(ratios))
        results[name] = {
            "MB/s, median": dict(zip(stored, megabytes / np.median(rounds, axis=0), strict=True)),
            "stored/raw": {what: size / megabytes for what, size in stored.items()},
            "faster": ratio,
            "faster, each round": ratios,
        }
        claims[f"{name}: {ratio:.1f} times faster than gzip HDF5 row by row (5)"] = ratio >= 5
    keep(FOLDER, "ingest.json", results)
    return claims


def timed(what: Callable[..., None], *args: Any) -> float:
    began = time.perf_counter()
    what(*args)
    return time.perf_counter() - began


# --- overhead --------------------------------------------------------------------------------------------


class TimedView(RowView):
    """The default views and a record, which read the same rows, and the time they take."""

    def __init__(self, layout: Layout, record: Record) -> None:
        super().__init__(layout)
        self._record = record.begin(layout)
        self._views = RunViews.of(layout)
        self.seconds: list[float] = []

    def read(self, row: Row) -> None:
        began = time.perf_counter()
        self._views.read(row)
        self._record.write({"train": row})
        self.seconds.append(time.perf_counter() - began)


def overhead(args: argparse.Namespace) -> dict[str, bool]:
    """MNIST-FC with Adam and a tracker: the time of views and record relative to the rest of the run."""
    import torch  # noqa: PLC0415

    from lca_torch import Objective, Tracker  # noqa: PLC0415
    from validation.mnist_fc import images  # noqa: PLC0415
    from validation.mnist_fc_torch.run import he_normal_mlp  # noqa: PLC0415

    x, y = (torch.from_numpy(part) for part in (images().x, images().y))
    loss_fn, model = torch.nn.CrossEntropyLoss(), he_normal_mlp()
    objective = Objective(model, loss_fn, (x, y), batch_size=1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    trained, whole = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place, Record(Path(place, "run.zarr")) as record:
        views = []

        def view(layout: Layout) -> TimedView:
            views.append(TimedView(layout, record))
            return views[0]

        with Tracker(model, optimizer, objective, views=view, on_error="raise"):
            for step in range(args.overhead_steps):
                rows = torch.arange(250 * step, 250 * (step + 1)) % len(x)
                began = time.perf_counter()
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                trained += time.perf_counter() - began
                optimizer.step()
        spent = sum(views[0].seconds)
        record.flush()
        results: dict[str, Any] = {"kB on disk a step": 1e3 * folder_mb(record.path) / args.overhead_steps}
    whole = time.perf_counter() - whole
    share, steps = spent / (whole - spent), args.overhead_steps
    results |= {
        "steps": steps,
        "ms a step": {
            "views and record": 1e3 * spent / steps,
            "of which the blocks": 1e3 * (spent - steps * float(np.median(views[0].seconds))) / steps,
            "everything else": 1e3 * (whole - spent) / steps,
            "forward and backward of training": 1e3 * trained / steps,
        },
        "over everything else": share,
    }
    keep(FOLDER, "overhead.json", results)
    return {f"views and record take {100 * share:.2f} % of measuring and training (2 %)": share <= 0.02}


# --- memory ----------------------------------------------------------------------------------------------


def memory_of(steps: int) -> None:
    """Print the peak memory (MiB) of writing this many steps, and the size on disk (MB); run as a child."""
    rows = noise(8, 0.1)
    with tempfile.TemporaryDirectory() as place:
        with Record(Path(place, "run.zarr"), MNIST_FC) as record:
            for step in range(steps):
                record.update(allocation(rows[step % 8] * np.float32(1 + step / steps), step))
        print(peak_memory_mib(), folder_mb(Path(place)))


def memory(args: argparse.Namespace) -> dict[str, bool]:
    results, peaks = {}, []
    for steps in args.memory_steps:
        command = [sys.executable, "-m", "validation.record.run", "--memory-of", str(steps)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak, megabytes = map(float, printed.split())
        results[steps] = {"peak MiB": peak, "MB on disk": megabytes, "kB a step": 1e3 * megabytes / steps}
        peaks.append(peak)
    keep(FOLDER, "memory.json", results)
    (few, many), grown = args.memory_steps, peaks[-1] - peaks[0]
    return {f"{many} steps take {grown:+.1f} MiB more than {few} (5)": grown <= 5}


# --- kill ------------------------------------------------------------------------------------------------


def killed(args: argparse.Namespace) -> dict[str, bool]:
    """Kill writers of new records, and of one that is continued each time; compare every row on disk."""
    rng, lost, unreadable, wrong_start = np.random.default_rng(args.seed), [], [], 0
    with tempfile.TemporaryDirectory() as place:
        rows = 0
        for number in range(args.kills):
            goes_on = number % 2 == 0
            path = Path(place, "continued" if goes_on else f"new-{number}")
            try:
                found = kill(path, int(rng.integers(200)), rng.uniform(0.0, 0.2))
            except Exception as error:
                unreadable.append(f"{number}: {type(error).__name__}: {error}")
                shutil.rmtree(path, ignore_errors=True)
                rows = 0 if goes_on else rows
                continue
            lost.append(found.lost)
            wrong_start += found.began != (rows if goes_on else 0)
            rows = found.kept if goes_on else rows
    results = {"kills": args.kills, "seed": args.seed, "block": BLOCK, "lost": lost, "unreadable": unreadable}
    keep(FOLDER, "kill.json", results | {"continued at a wrong step": wrong_start})
    return {
        f"{args.kills} kills, {len(unreadable)} records unreadable or wrong (0)": not unreadable,
        f"at most {max(lost, default=0)} rows lost of a block of {BLOCK}": max(lost, default=0) <= BLOCK,
        f"{wrong_start} records continued at a wrong step (0)": wrong_start == 0,
    }


# --- damage ----------------------------------------------------------------------------------------------


def damaged(args: argparse.Namespace) -> dict[str, bool]:
    """Damage a record at random and on purpose; what is read without an error must be what was written."""
    claims = {}
    for what, kinds, trials in (
        ("random", damage.RANDOM, args.random), ("directed", damage.DIRECTED, args.directed),
    ):  # fmt: skip
        if not trials:
            continue
        with tempfile.TemporaryDirectory() as place:
            found = damage.run(Path(place), kinds, -(-trials // len(kinds)), args.seed)
        outcomes = {kind: dict(counts) for kind, counts in found.items()}
        keep(FOLDER, f"damage-{what}.json", {"seed": args.seed, what: outcomes})
        total: Counter[str] = sum(found.values(), Counter())
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(total.items()))
        claims[f"{total.total()} {what} corruptions: {said} (0 wrong)"] = not total["wrong"]
    return claims


# --- writers ---------------------------------------------------------------------------------------------


def rivals(args: argparse.Namespace) -> dict[str, bool]:
    """Pairs of processes that open one record at the same moment, in all modes."""
    with tempfile.TemporaryDirectory() as place:
        found = writers.run(Path(place), args.pairs)
    keep(FOLDER, "writers.json", asdict(found))
    return {
        f"{found.pairs} pairs of writers: both wrote in {found.both} (0)": found.both == 0,
        f"neither wrote in {found.none} (0)": found.none == 0,
        f"{len(found.wrong)} records are not those of the one writer (0)": not found.wrong,
    }


PARTS = {
    "ingest": ingest, "overhead": overhead, "memory": memory,
    "kill": killed, "damage": damaged, "writers": rivals,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="(all)")
    parser.add_argument("--ingest-steps", type=int, default=320)
    parser.add_argument("--ingest-rounds", type=int, default=3)
    parser.add_argument("--overhead-steps", type=int, default=256)
    parser.add_argument("--memory-steps", type=int, nargs=2, default=(1000, 10_000))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--random", type=int, default=600, help="random corruptions (600)")
    parser.add_argument("--directed", type=int, default=300, help="corruptions on purpose (300)")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of writers (40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of is not None:
        memory_of(args.memory_of)
        return
    claims: dict[str, bool] = {}
    for part in args.part or PARTS:
        claims |= PARTS[part](args)
    verdict(claims)


if __name__ == "__main__":
    main()
