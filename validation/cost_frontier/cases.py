"""The training runs that the frontier is measured on: an objective, and a loop whose steps are looked at."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lca.allocation import StepAllocation
from lca.reference.data import load_digits
from lca.reference.models import DatasetLoss, mlp
from lca.reference.optimizers import SGD, Adam, Optimizer
from lca.reference.training import minibatches, train, with_next
from lca.step import Step

Allocate: TypeAlias = Callable[[Step], StepAllocation]

RATES = {"momentum": 0.05, "adam": 0.002, "adam_large": 0.02}
"""Learning rates; ``_large``: of steps so large that first order fails, and the trapezoid too."""


@dataclass(frozen=True)
class Options:
    """What one training run is made with; ``independent``: batches drawn with replacement."""

    optimizer: str
    seed: int
    steps: int
    independent: bool = False


@dataclass(frozen=True)
class HandedOver:
    """What the loop hands over with each step: ``needs`` are names of fields of `Step`."""

    required_fields: tuple[str, ...] = ()
    parts: int = 1

    @property
    def scores(self) -> bool:
        return "scores" in self.required_fields

    @classmethod
    def to(cls, estimators: Iterable[Any]) -> "HandedOver":
        """What all of these need."""
        each = list(estimators)
        needs = {need for estimator in each for need in getattr(estimator, "needs", ())}
        parts = {e.micro_batches for e in each if "micro_batches" in getattr(e, "needs", ())} or {1}
        assert len(parts) == 1
        return cls(tuple(sorted(needs)), parts.pop())


@dataclass(frozen=True)
class Case:
    """A network and its data.

    ``objective()`` makes the measured loss, and ``follow(objective, options, allocate, handed)`` trains,
    shows each step to ``allocate`` (``None``: plain training) and returns the seconds that took.
    """

    name: str
    examples: int
    batch_size: int
    targets: bool  # whether the targets of accuracy are meant for it
    objective: Callable[[], Any]
    follow: Callable[[Any, Options, Allocate | None, HandedOver], float]
    rates: Mapping[str, float] = field(default_factory=RATES.copy)
    refined: bool = False  # also with Simpson's rule where steps are large
    cross_fit_time: float = 1.15  # target of wall time over plain training: 1.15 where products take the time
    rows: tuple[str, ...] = ()  # only these estimators, on shuffled batches; default: all, and more

    def title(self, optimizer: str) -> str:
        """How tables call it."""
        name, large = f"{self.rates[optimizer]:g}".removeprefix("0"), optimizer.endswith("_large")
        title = f"SGD {name}, momentum .9" if optimizer == "momentum" else f"Adam {name}"
        return f"{title} (large steps)" if large else title


def digits(batch_size: int = 50) -> Case:
    """64-32-10 ReLU on the 1,500 digits that come with the library; NumPy, float64."""
    data, network = load_digits().reshaped((64,)), mlp((64, 32, 10))
    x, y = data.x_train, data.y_train

    def follow(
        objective: DatasetLoss, options: Options, allocate: Allocate | None, handed: HandedOver
    ) -> float:
        batches = minibatches(
            x, y, batch_size, options.steps + 1, options.seed, independent=options.independent
        )
        theta, rate = network.init(options.seed), RATES[options.optimizer]
        optimizer: Optimizer = SGD(rate, 0.9) if options.optimizer == "momentum" else Adam(rate)
        began = time.perf_counter()
        for step in with_next(
            train(
                objective, theta, optimizer, batches, micro_batches=handed.micro_batches, scores=handed.scores
            )
        ):
            if allocate:
                allocate(step)
        return time.perf_counter() - began

    return Case(
        "digits 64-32-10",
        len(x),
        batch_size,
        False,
        lambda: DatasetLoss(network, x, y),
        follow,
        refined=True,
    )


def _torch(name: str) -> Callable[[], Case]:
    """A case that needs torch, imported when it is asked for."""

    def make() -> Case:
        from validation.cost_frontier import torch_case  # noqa: PLC0415

        case: Case = getattr(torch_case, name)()
        return case

    return make


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "mnist_fc": _torch("mnist_fc"),
    "mnist_fc_1000": _torch("mnist_fc_1000"),
    "mnist_lenet": _torch("mnist_lenet"),
}
