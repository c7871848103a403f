"""The run behind `lca demo`: settings in, summary and views out; prints and writes nothing.

Training and measuring are interleaved: each step is made, allocated over the whole training and held-out
set, reduced by the views and forgotten, so memory does not depend on the number of steps.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import numpy as np

import lca
from lca.allocation import StepAllocation, allocate_each
from lca.errors import LCAError
from lca.estimators.named import make_estimator
from lca.objective import Objective
from lca.record import Record
from lca.reference.backend import Dtype, load_backend
from lca.reference.data import Batch, Split, load_digits, load_split
from lca.reference.models.named import make_model
from lca.reference.optimizers import Optimizer, make_optimizer
from lca.reference.training import minibatches
from lca.row import rows_of
from lca.step import Step
from lca.summary import RunViews, summarize_run

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
    """What a demo run leaves behind."""

    summary: dict[str, Any]
    train: RunViews
    heldout: RunViews


def run_demo(
    settings: DemoSettings,
    progress: Callable[[Iterable[Rows]], Iterable[Rows]] = iter,
    record: Record | None = None,
) -> DemoResult:
    """Train and allocate as ``settings`` say; ``progress`` wraps the allocations as they are made.

    What comes out also goes into ``record``, if there is one.

    Examples
    --------
    >>> result = run_demo(DemoSettings(model="logistic", steps=3))
    >>> result.summary["steps"], result.summary["heldout"]["lca_total"] < 0
    (3, True)
    """
    estimator = make_estimator(settings.estimator, settings.tol)
    optimizer = make_optimizer(settings.optimizer, settings.lr)
    objectives, path = _prepare(settings, optimizer)
    views = {name: RunViews.of(objective.layout) for name, objective in objectives.items()}
    about = {"version": lca.__version__, **asdict(settings), "optimizer_settings": repr(optimizer)}
    if record is not None:
        record.begin(objectives["train"].layout, estimator=estimator, settings=about)
    training = Timed(path)
    began = perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges ends in an error of our own
        for found in progress(allocate_each(objectives, training, estimator)):
            rows = rows_of(found, objectives["train"].layout)
            for name, view in views.items():
                view.read(rows[name])
            if record is not None:
                record.write(rows)
    seconds = {"train": training.seconds, "allocate": perf_counter() - began - training.seconds}
    return DemoResult(summarize_run(about, **views, seconds=seconds), **views)


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


def _prepare(settings: DemoSettings, optimizer: Optimizer) -> tuple[dict[str, Objective], Iterator[Step]]:
    """Both measured losses, and the training run that has not begun."""
    backend, data = load_backend(settings.backend), _load(settings)
    network = make_model(settings.model, data.x_train.shape[1:], data.n_classes)
    data = data.reshaped(network.input_shape)
    objectives = {
        "train": backend.objective(network, Batch(data.x_train, data.y_train), settings.dtype),
        "heldout": backend.objective(network, Batch(data.x_test, data.y_test), settings.dtype),
    }
    batches = minibatches(data.x_train, data.y_train, settings.batch_size, settings.steps, settings.seed)
    theta = network.init(settings.seed, settings.dtype)
    return objectives, backend.train(objectives["train"], theta, optimizer, batches)


def _load(settings: DemoSettings) -> Split:
    return load_digits() if settings.data == "digits" else load_split(settings.data, dtype=settings.dtype)
