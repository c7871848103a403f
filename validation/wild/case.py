"""`Case`: one model with its loss and its training loop, written as a user would write it.

A case is a function of a `Run`. The run plays one of four parts, and the function cannot tell which:
it builds everything from the seed, trains inside ``run.measuring(...)`` and returns what training has made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from validation.wild.oracle import Truth

Mode = Literal["plain", "oracle", "measured", "failing"]
"""Train; train and compute the true allocation; train and measure; measure with an objective that raises."""

MODES: tuple[Mode, ...] = ("plain", "oracle", "measured", "failing")
CASES: "list[Case]" = []


@dataclass(frozen=True)
class Case:
    """A function that trains, and what is asked of the figures.

    Parameters
    ----------
    name, framework
        Shown in the table; `run.py` selects by them.
    train
        The function of a `Run`; returns the objects that training may have changed.
    tolerance
        The largest error of a tensor's total, in units of the mass of the run.
    eps
        Relative rounding of the loss; that of the books.
    """

    name: str
    framework: str
    train: Callable[[Any], Sequence[Any]]
    tolerance: float
    eps: float

    @property
    def file(self) -> str:
        """Where it is written, e.g. ``cases_torch_loops``."""
        return self.train.__module__.rpartition(".")[2]


@dataclass
class Outcome:
    """What one run of a case left behind."""

    fingerprint: dict[str, str] = field(default_factory=dict)
    truth: Truth | None = None
    tracker: Any = None
    warnings: list[str] = field(default_factory=list)
    raised: Exception | None = None

    @property
    def stopped(self) -> bool:
        """Whether an error has ended the measuring."""
        return self.raised is not None or getattr(self.tracker, "error", None) is not None


def case(
    name: str, framework: str, *, tolerance: float = 1e-3, eps: float = 1e-6
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register the decorated function as the case ``name``."""

    def register(train: Callable[[Any], Any]) -> Callable[[Any], Any]:
        CASES.append(Case(name, framework, train, tolerance, eps))
        return train

    return register
