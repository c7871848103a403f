"""What every part of the GPU run is given: the device, how large to be, until when, and where to write."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class Results:
    """The results of one part in a JSON file, which is replaced in one go at every change.

    >>> from tempfile import mkdtemp
    >>> results = Results(Path(mkdtemp()) / "part.json")
    >>> results.add(ratio=1.0)
    >>> json.loads(results.path.read_text())
    {'status': 'running', 'ratio': 1.0}
    """

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, Any](status="running")
        self._write()

    def add(self, **found: Any) -> None:
        """Add these results to those already written."""
        self.found |= found
        self._write()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.found, indent=1, default=str) + "\n")
        os.replace(new, self.path)


@dataclass(frozen=True)
class Setting:
    """Where and how a part runs.

    ``small``: a rehearsal, which runs the same code on the least that it takes. ``seconds`` is the limit of
    the part; a part that repeats something stops before it.
    """

    device: str
    small: bool
    seconds: float
    results: Results
    began: float

    @property
    def left(self) -> float:
        """Seconds until a part should stop by itself."""
        return 0.85 * self.seconds - (time.monotonic() - self.began)

    def wait(self) -> None:
        """Wait for all work queued on the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def waiting(self, action: Callable[[], object]) -> Callable[[], None]:
        """Run ``action``, and return when the device has finished it."""

        def act() -> None:
            action()
            self.wait()

        return act
