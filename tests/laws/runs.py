"""The training run that the laws of trackers are stated for, and what a framework supplies to run it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from lca import StepAllocation
from lca.allocation import Cost
from lca.reference import SGD, Adam, Batch, CrossEntropy, DatasetLoss, Dense, Network, Tanh, train, with_next

NETWORK = Network((Dense(6, 5), Tanh(), Dense(5, 3)), CrossEntropy(), input_shape=(6,))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 6)), RNG.integers(3, size=60)
BATCHES = [RNG.permutation(60)[:n] for n in (12, 12, 9, 12, 12)]  # one batch is split into unequal halves
THETA = NETWORK.init(seed=1)
# Keras keeps learning rates in float32, where this one is exact.
OPTIMIZERS = {"momentum": SGD(0.0625, momentum=0.875), "adam": Adam(0.002)}


class Run(Protocol):
    """One training run of `NETWORK` on float64 copies of `THETA`, `X` and `Y`."""

    tracker: Any
    """The tracker, not yet entered; ``None`` without one."""
    objective: Any
    """The loss of `NETWORK` over all examples."""

    def update(
        self, *batches: np.ndarray, pieces: int = 1, known: bool = True, scores: bool = False, clip: str = ""
    ) -> None:
        """One update on the examples of each batch (indices), which are accumulated.

        ``pieces``: the tracker splits each batch into so many micro-batches. ``known``: the tracker is told
        the batch. ``scores``: it is told the scores. ``clip``: the gradient is clipped by ``"norm"`` (to
        0.01) or by ``"value"`` (to 0.001).
        """

    def displace(self, value: float) -> None:
        """Add ``value`` to the first parameter, outside of any update."""

    def fail(self) -> None:
        """Make an update after which the first parameter is NaN."""

    def theta(self) -> Any:
        """The parameters as a vector (K,) of the framework."""

    def numpy(self, vector: Any) -> np.ndarray:
        """A vector of the framework in the order of the network's layout."""

    def examples(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of a batch of the framework."""

    def left(self) -> list[np.ndarray]:
        """Everything that training leaves behind: parameters, state of the optimizer, ..."""

    def tracker_of(self, objective: Any, estimator: Any = None, **options: Any) -> Any:
        """Another tracker of the same run, with another objective."""


class ModelRun(Run, Protocol):
    """A run with a model and an optimizer."""

    def data(self, batch: np.ndarray) -> Any:
        """The examples of a batch (indices), as the framework takes them."""

    def give_up(self, batch: np.ndarray, *, gradients: bool) -> None:
        """Begin with a batch, perhaps up to its gradients, and make no update."""


class Framework(Protocol):
    """How a framework runs `NETWORK`."""

    optimizers: tuple[str, ...]
    """Which of `OPTIMIZERS` it follows to rounding."""
    advice: dict[str, str]
    """What the error says about a field of `lca.Step` that is missing, as a regular expression."""

    def run(self, estimator: Any = None, *, optimizer: str = "momentum", **options: Any) -> Run:
        """A run with a tracker."""

    def untracked(self, *, optimizer: str = "momentum") -> Run:
        """The same run without a tracker."""


class ModelFramework(Framework, Protocol):
    """How a framework with models and optimizers runs `NETWORK`."""

    Tracker: type
    loss: Any
    """A loss function, which is not an objective."""

    def model(self) -> Any:
        """A new model with the parameters of `NETWORK`."""

    def other_model(self) -> Any:
        """A model with other parameters."""

    def optimizer(self, model: Any) -> Any:
        """An optimizer of this model."""

    def objective_of(self, model: Any) -> Any:
        """The loss of this model."""

    def array(self, array: np.ndarray) -> Any:
        """The framework's own array."""


class KeptLog:
    """A `lca.live.Logger` that keeps what it gets."""

    def __init__(self):
        self.calls, self.closed = [], 0

    def log(self, step, loss, values):
        self.calls.append((step, loss, dict(values)))

    def close(self):
        self.closed += 1


class Kept:
    """A view that keeps the allocations."""

    def __init__(self, layout):
        self.rows = []

    def update(self, allocation):
        self.rows.append(allocation)


@dataclass
class Shown:
    """An estimator that keeps the steps it gets."""

    required_fields: tuple = ()
    steps: list = field(default_factory=list, repr=False)
    epoch: int | None = None
    target, degree, cost, unbiased, bias = "batch", 1, Cost(), False, ""

    def start(self, objective):
        return self.allocate

    def allocate(self, step):
        self.steps.append(step)
        return StepAllocation(step.end - step.start, np.nan, np.nan, np.nan, 0.0, step=step.index)

    def reseeded(self, seed):
        return self


def batches_in_order(pieces):
    """The batches, ordered so that the micro-batches of `train`, every other example, are the two halves."""
    for index in BATCHES:
        order = np.arange(len(index))
        if pieces == 2:
            half = (len(index) + 1) // 2
            order[::2], order[1::2] = np.arange(half), np.arange(half, len(index))
        yield Batch(X, Y, index=np.arange(60)).take(index[order])


def reference_steps(estimator, optimizer, pieces=1, *, scores=False):
    """The steps of `lca.reference.train`, with all fields that the estimator requires."""
    steps = train(
        DatasetLoss(NETWORK, X, Y),
        THETA,
        OPTIMIZERS[optimizer],
        batches_in_order(pieces),
        micro_batches=pieces,
        scores=scores,
        slopes=True,
    )
    delayed = any(name.startswith("next_") for name in getattr(estimator, "required_fields", ()))
    return list(with_next(steps) if delayed else steps)


def reference_allocations(estimator, optimizer, pieces=1, *, scores=False):
    allocate = estimator.start(DatasetLoss(NETWORK, X, Y))
    return [allocate(step) for step in reference_steps(estimator, optimizer, pieces, scores=scores)]


class Untracked:
    """What a loop without a tracker calls in its place."""

    def batches(self, loader):
        return loader

    def micro_batches(self, batch, n):
        total = len(batch[0])
        n = min(n, total)
        ends = [-(-m * total // n) for m in range(n + 1)]
        for start, stop in pairwise(ends):
            yield tuple(array[start:stop] for array in batch), (stop - start) / total
