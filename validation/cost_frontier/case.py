"""`Case`: a training run that the frontier is measured on, and what its loop supplies with each step."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from lca.allocation import Allocator, Cost, Estimator, StepAllocation
from lca.layout import Layout
from lca.objective import Objective
from lca.step import Step
from lca.views import GroupTotals

Allocate: TypeAlias = Callable[[Step], StepAllocation]

MAIN = ("momentum", "adam")
RATES = {"momentum": 0.05, "adam": 0.002, "adam_large": 0.02}
"""Learning rates; ``_large``: of steps so large that first order fails, and the trapezoid too."""


class Seconds(NamedTuple):
    """What a training run took: by the clock, and in CPU time of all threads of this process."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> "Seconds":
        """Both clocks as they are."""
        return cls(perf_counter(), process_time())

    def until_now(self) -> "Seconds":
        """What has passed since."""
        now = Seconds.now()
        return Seconds(now.clock - self.clock, now.cpu - self.cpu)


@dataclass(frozen=True)
class Options:
    """What one training run is made with; ``independent``: batches drawn with replacement."""

    optimizer: str
    seed: int
    steps: int
    independent: bool = False


@dataclass(frozen=True)
class SuppliedFields:
    """The fields of `Step` that the loop supplies, and the number of micro-batches of each batch."""

    required_fields: tuple[str, ...] = ()
    micro_batches: int = 1

    @property
    def scores(self) -> bool:
        return "scores" in self.required_fields

    @property
    def halves(self) -> bool:
        """Whether batches are not split, as the tracker takes the gradient of half of each by itself."""
        return "halves" in self.required_fields

    @property
    def slopes(self) -> bool:
        return "update_slope" in self.required_fields

    @classmethod
    def required_by(cls, estimators: Iterable[Any]) -> "SuppliedFields":
        """The fields that all of these estimators require together."""
        each = {estimator: getattr(estimator, "required_fields", ()) for estimator in estimators}
        required = {field for fields in each.values() for field in fields}
        counts = {e.micro_batches for e, fields in each.items() if "micro_batches" in fields} or {1}
        assert len(counts) == 1
        return cls(tuple(sorted(required)), counts.pop())


@dataclass(frozen=True)
class Shown:
    """An estimator that shows every step, with its required fields, to a function that allocates it."""

    allocate: Allocate
    required_fields: tuple[str, ...] = ()
    target: ClassVar[str] = "batch"
    degree: ClassVar[int] = 1
    cost: ClassVar[Cost] = Cost()
    unbiased: ClassVar[bool] = False
    bias: ClassVar[str] = "that of the function"

    def start(self, objective: Objective) -> Allocator:
        return self.allocate

    def reseeded(self, seed: int) -> Self:
        return self


def layer_totals(layout: Layout) -> GroupTotals:
    """The view of every run: the least that anybody would want of a step."""
    return GroupTotals(layout.groups("layer"))


@dataclass(frozen=True)
class Case:
    """A network and its data.

    ``objective()`` makes the measured loss, and ``follow(objective, options, estimator, supplied)`` trains,
    allocates each step (``None``: plain training) and returns the time that took. Nothing checks the sums, as
    that is a cost of its own.
    """

    name: str
    examples: int
    batch_size: int
    targets: bool  # whether the targets of accuracy are meant for it
    objective: Callable[[], Any]
    follow: Callable[[Any, Options, Estimator | None, SuppliedFields], Seconds]
    rates: Mapping[str, float] = field(default_factory=RATES.copy)
    refined: bool = False  # also with Simpson's rule where steps are large
    cross_fit_time: float = 1.15  # target of wall time over plain training: 1.15 where products take the time
    rows: tuple[str, ...] = ()  # only these estimators, on shuffled batches; default: all, and more
    optimizers: tuple[str, ...] = MAIN
    independent: bool = True  # also with batches drawn with replacement, unless ``rows`` are given
    large: bool = True  # also with large steps, unless ``rows`` are given
    steps: int = 400
    titles: Mapping[str, str] = field(default_factory=dict)  # of optimizers

    def title(self, optimizer: str) -> str:
        """How tables call it."""
        if optimizer in self.titles:
            return self.titles[optimizer]
        name, large = f"{self.rates[optimizer]:g}".removeprefix("0"), optimizer.endswith("_large")
        title = f"SGD {name}, momentum .9" if optimizer == "momentum" else f"Adam {name}"
        return f"{title} (large steps)" if large else title
