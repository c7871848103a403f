"""The run behind `lca demo`: settings in, summary and views out; prints and writes nothing.

Training and measuring are interleaved: each step is made, allocated, reduced by the views and dropped, so
memory does not depend on the number of steps. Full-data estimators measure the training and the held-out
loss; sampled ones the training loss only, as their batches and samples are training examples.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import numpy as np

import lca
from lca._commands.demo_fields import NEXT, SampledLoss, with_fields
from lca._commands.targets import find_estimator
from lca._verdict import has_diverged
from lca.allocation import Cost, Estimator, StepAllocation, allocate_each
from lca.errors import LCAError
from lca.estimators._stochastic import StochasticEstimator
from lca.objective import Objective
from lca.record import Record
from lca.reference._backend import Dtype, load_backend
from lca.reference._data import Batch, Split, load_digits, load_split
from lca.reference._models import DatasetLoss
from lca.reference._models.named import make_model
from lca.reference._optimizers import Optimizer, make_optimizer
from lca.reference._training import minibatches
from lca.row import rows_of
from lca.step import Step
from lca.summary import RunViews, summarize, summarize_run
from lca.tracking._self_check import SelfCheck

T = TypeVar("T")
Rows: TypeAlias = dict[str, StepAllocation]


@dataclass(frozen=True)
class DemoSettings:
    """Everything that determines a demo run; the options of the same names describe each."""

    model: str = "mlp:64,32"
    data: str = "digits"
    optimizer: str = "adam"
    lr: float | None = None
    steps: int = 200
    batch_size: int = 100
    estimator: str = "rk4"
    tol: float = 1e-3
    dtype: Dtype = "float64"
    seed: int = 0
    backend: str = "numpy"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise LCAError(f"{name} must be at least {least}, got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class DemoResult:
    """The results of a demo run; ``heldout`` is ``None`` if the estimator is sampled."""

    summary: dict[str, Any]
    train: RunViews
    heldout: RunViews | None


def run_demo(
    settings: DemoSettings,
    progress: Callable[[Iterable[Rows]], Iterable[Rows]] = iter,
    record: Record | None = None,
) -> DemoResult:
    """Train and allocate as ``settings`` say; ``progress`` wraps the allocations as they are made.

    Parameters
    ----------
    settings
        What to train, and which estimator to measure it with.
    progress
        Iterates over the allocations, e.g. with a progress bar.
    record
        If given, every step is written to it.

    Examples
    --------
    >>> result = run_demo(DemoSettings(model="logistic", steps=3))
    >>> result.summary["steps"], result.summary["heldout"]["lca_total"] < 0
    (3, True)
    """
    estimator = find_estimator(settings.estimator).make(settings.tol)
    optimizer = make_optimizer(settings.optimizer, settings.lr)
    run = _prepare(settings, optimizer, estimator)
    views = {name: RunViews.of(objective.layout) for name, objective in run.objectives.items()}
    about = {"version": lca.__version__, **asdict(settings), "optimizer_settings": repr(optimizer)}
    if record is not None:
        told = {**about, "measured_on": run.measured_on}
        record.begin(run.objectives["train"].layout, estimator=estimator, settings=told)
    ends, cost, began = _Ends(), Cost(), perf_counter()
    sampled = isinstance(estimator, StochasticEstimator)
    check = SelfCheck(run.objectives, settings.steps if sampled else None, estimator=estimator)
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges ends in an error of our own
        for found in progress(allocate_each(run.objectives, run.path, estimator)):
            rows = rows_of(found, run.objectives["train"].layout)
            step = found["train"].source
            assert step is not None
            check.add(step, rows)
            for name, view in views.items():
                view.read(rows[name])
            if record is not None:
                record.write(rows)
            ends.update(found["train"])
            cost += found["train"].cost
    trained = run.training.seconds
    seconds = {"train": trained, "allocate": perf_counter() - began - trained}
    about["cost_per_step"] = {name: value / settings.steps for name, value in asdict(cost).items()}
    if "heldout" in views:
        return DemoResult(_judged(summarize_run(about, **views, seconds=seconds)), **views)
    measured = {"heldout": None, "seconds": seconds, **ends.losses(run.objectives["train"])}
    summary = {**about, **summarize(views["train"]), **measured}
    return DemoResult(_judged(_null_for_nan(summary)), views["train"], None)


def _judged(summary: dict[str, Any]) -> dict[str, Any]:
    """The same summary, with the word on whether the run diverged."""
    return {**summary, "diverged": has_diverged(summary["loss_start"], summary["loss_end"])}


class _Ends:
    """Where the run began and ended: a sampled estimator measures no loss, so it is evaluated there once."""

    def __init__(self) -> None:
        self._first: Step | None = None
        self._last: Step | None = None

    def update(self, allocation: StepAllocation) -> None:
        self._first, self._last = self._first or allocation.source, allocation.source

    def losses(self, objective: Objective) -> dict[str, float]:
        assert self._first is not None
        assert self._last is not None
        return {"loss_start": objective.loss(self._first.start), "loss_end": objective.loss(self._last.end)}


def _null_for_nan(value: Any) -> Any:
    """The same summary with ``None`` for every number that was not measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _null_for_nan(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


class Timed(Iterable[T]):
    """Passes items on and adds up the ``seconds`` spent making them."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[T]:
        items = iter(self._items)
        while True:
            began = perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += perf_counter() - began
            yield item


@dataclass(frozen=True, eq=False)
class _Run:
    """The measured losses, the path to allocate, and the training behind it, which has not begun.

    ``measured_on`` says in words which examples each loss is over.
    """

    objectives: dict[str, Objective]
    measured_on: dict[str, str]
    path: Iterable[Step]
    training: Timed[Step]


def _prepare(settings: DemoSettings, optimizer: Optimizer, estimator: Estimator) -> _Run:
    backend, data = load_backend(settings.backend), _load(settings)
    network = make_model(settings.model, data.x_train.shape[1:], data.n_classes)
    data = data.reshaped(network.input_shape)
    train = backend.objective(network, Batch(data.x_train, data.y_train), settings.dtype)
    required = estimator.required_fields if isinstance(estimator, StochasticEstimator) else ()
    steps = settings.steps + bool(set(required) & set(NEXT))
    batches = minibatches(data.x_train, data.y_train, settings.batch_size, steps, settings.seed)
    theta = network.init(settings.seed, settings.dtype)
    training = Timed(backend.train(train, theta, optimizer, batches))
    on = {"train": f"the {len(data.x_train):,} training examples"}
    if not isinstance(estimator, StochasticEstimator):
        on["heldout"] = f"{len(data.x_test):,} examples that training does not use"
        heldout = backend.objective(network, Batch(data.x_test, data.y_test), settings.dtype)
        return _Run({"train": train, "heldout": heldout}, on, training, training)
    loss = SampledLoss(train, DatasetLoss(network, data.x_train, data.y_train))
    path = with_fields(training, required, loss, optimizer, backend.vector)
    return _Run({"train": loss}, on, path, training)


def _load(settings: DemoSettings) -> Split:
    return load_digits() if settings.data == "digits" else load_split(settings.data, dtype=settings.dtype)
