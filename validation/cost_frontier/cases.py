"""The training runs that the frontier is measured on: an objective, and steps from whatever makes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lca.data import load_digits
from lca.models import DatasetLoss, mlp
from lca.objective import Objective
from lca.optimizers import SGD, Adam, Optimizer
from lca.step import Step
from lca.training import minibatches, train, with_next

OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": SGD(0.05, momentum=0.9),
    "adam": Adam(0.002),
    "adam_large": Adam(0.02),
}
TITLES = {"momentum": "SGD .05, momentum .9", "adam": "Adam .002", "adam_large": "Adam .02 (large steps)"}


@dataclass(frozen=True)
class Options:
    """What one training run is made with; ``independent``: batches drawn with replacement."""

    optimizer: str
    seed: int
    steps: int
    independent: bool = False


@dataclass(frozen=True)
class Case:
    """A network and its data.

    ``objective`` makes the measured loss, and ``steps(objective, options, parts=..., scores=...)`` trains it
    and yields its steps, each with the next batch and its gradient, and with micro-batches and scores if
    asked for. A framework's case is another pair of functions.
    """

    name: str
    examples: int
    batch_size: int
    targets: bool  # whether the targets of accuracy are meant for it
    objective: Callable[[], Any]
    steps: Callable[..., Iterator[Step]]


def digits(batch_size: int = 50) -> Case:
    """64-32-10 ReLU on the 1,500 digits that come with the library; NumPy, float64."""
    data, network = load_digits().reshaped((64,)), mlp((64, 32, 10))
    x, y = data.x_train, data.y_train

    def steps(objective: Objective, options: Options, **hand_over: Any) -> Iterator[Step]:
        batches = minibatches(
            x, y, batch_size, options.steps + 1, options.seed, independent=options.independent
        )
        optimizer = OPTIMIZERS[options.optimizer]
        return with_next(train(objective, network.init(options.seed), optimizer, batches, **hand_over))

    return Case("digits 64-32-10", len(x), batch_size, False, lambda: DatasetLoss(network, x, y), steps)


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
    "mnist_lenet": _torch("mnist_lenet"),
}
