"""How benches take time: two sides in turns inside one run, the median of their ratio pair by pair."""

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

KEEP = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
"""What makes the C library of Linux keep memory that was freed."""


class Pair(NamedTuple):
    """Median seconds of both sides, and the median of their ratio: by the clock, and in CPU time.

    CPU time is the work of all threads of this process, which other load on the machine slows but does not
    lengthen by its own time. ``fastest`` is the ratio of the fastest round of each side, by the clock.
    """

    a: float
    b: float
    ratio: float
    cpu_ratio: float
    fastest: float


def interleaved(a: Callable[[], object], b: Callable[[], object], rounds: int) -> Pair:
    """Both sides in turns, the order swapped every round, after one round that does not count."""
    clock: tuple[list[float], list[float]] = [], []
    cpu: tuple[list[float], list[float]] = [], []
    for side in (0, 1):
        (a, b)[side]()
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            began, worked = time.perf_counter(), time.process_time()
            (a, b)[side]()
            clock[side].append(time.perf_counter() - began)
            cpu[side].append(time.process_time() - worked)
    ratios = [median(x / y for x, y in zip(*times, strict=True)) for times in (clock, cpu)]
    return Pair(median(clock[0]), median(clock[1]), *ratios, min(clock[0]) / min(clock[1]))


def keep_memory(module: str) -> None:
    """Begin this program again so that freed memory is kept, unless it is so already.

    By default the C library gives the memory of large activations back to the system after a pass, and gets
    it again page by page in the next one. How much of it depends on the places of small objects in between:
    the same gradient in the same loop was up to 13 % slower for that alone, on either side.
    """
    if sys.platform == "linux" and not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | KEEP)


def memory_given_back() -> dict[str, str]:
    """The environment of a child whose blocks go back to the system at once: its peak is what was in use."""
    others = {name: value for name, value in os.environ.items() if name not in KEEP}
    return others | {"MALLOC_MMAP_THRESHOLD_": "100000"}
