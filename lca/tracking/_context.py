"""`LoopContext`: the step fields that a training loop supplies for the coming update."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.objective import Batch
from lca.step import ExampleScores, MicroBatch
from lca.tolerances import summed


class LoopContext(ABC):
    """Remembers batches, gradients and scores between two updates, as far as the estimator requests them.

    A micro-batch begins when the loop receives a batch or a piece of one, and ends when it asks for the next
    one or makes its update. A framework defines how it splits and joins batches, where gradients are found,
    and how its optimizer updates.

    Parameters
    ----------
    requested
        Returns the names of the fields of `lca.Step` to supply for the coming update.
    """

    def __init__(self, requested: Callable[[], Collection[str]]) -> None:
        self._requested = requested
        self._batches: list[Batch] = []
        self._marks: list[tuple[float, Any]] = []  # weight and gradient of each micro-batch
        self._scores: list[ExampleScores] = []
        self._weight: float | None = None  # of the micro-batch under way

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """As `lca.tracking.ModelTracker.batches`."""
        for batch in loader:
            self.begin_batch(batch)
            yield batch
            self._end_micro_batch()

    def begin_batch(self, *batch: Batch) -> None:
        """As `lca.tracking.ModelTracker.begin_batch`."""
        self._end_micro_batch()
        self._batches += batch
        self._begin_micro_batch(1.0)

    def micro_batches(self, batch: Batch, n: int) -> Iterator[tuple[Batch, float]]:
        """As `lca.tracking.ModelTracker.micro_batches`."""
        if not isinstance(n, int) or n < 1:
            raise LCAError(f"a batch is split into a whole number of micro-batches ≥ 1, got {n!r}.")
        total = self._count_examples(batch)
        if not total:
            raise LCAError("a batch without examples cannot be split into micro-batches; skip it.")
        if self._weight is None or not self._batches:  # the loop does not use `batches`
            self.begin_batch(batch)
        n = min(n, total)  # a last batch may be too small; the estimator then reports what it lacks
        for start, stop in pairwise(-(-m * total // n) for m in range(n + 1)):  # the larger ones first
            weight = (stop - start) / total
            self._begin_micro_batch(weight)
            yield self._rows(batch, start, stop), weight
            self._end_micro_batch()

    def add_scores(self, index: Any, outputs: Any, labels: Any = None) -> None:
        """As `lca.tracking.ModelTracker.scores`."""
        if "scores" not in self._requested():
            return
        if labels is not None:
            _check_logits(tuple(np.shape(outputs)), tuple(np.shape(labels)))
            outputs = self._label_errors(outputs, labels)
        self._scores.append(ExampleScores(self._to_numpy(index), self._to_numpy(outputs)))

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        """The values of these fields of `lca.Step`, as far as the loop has supplied them."""
        self._end_micro_batch()
        found: dict[str, Any] = {}
        if "batch" in fields and self._batches:
            found["batch"] = self._batches[0] if len(self._batches) == 1 else self._joined(self._batches)
        if "gradient" in fields or "micro_batches" in fields:
            gradient = self._gradient()
            if gradient is not None:
                found["gradient"] = gradient
                if "micro_batches" in fields and len(self._marks) > 1:
                    found["micro_batches"] = self._micro_batches(gradient)
        if "scores" in fields and self._scores:
            found["scores"] = ExampleScores(
                np.concatenate([scores.index for scores in self._scores]),
                np.concatenate([scores.values for scores in self._scores]),
            )
        return found

    def clear(self) -> None:
        """The update has been made, or will not be made; the next one begins."""
        self._batches, self._marks, self._scores, self._weight = [], [], [], None

    def _begin_micro_batch(self, weight: float) -> None:
        self._weight = weight

    def _end_micro_batch(self) -> None:
        self._weight = None

    def _micro_batches(self, gradient: Vector) -> tuple[MicroBatch, ...]:
        """The micro-batches of the update, whose gradient is ``gradient``."""
        total_weight = sum(weight for weight, _ in self._marks)
        weights = [weight / total_weight for weight, _ in self._marks]
        total, own = self._gradient_sums()
        factor = 1.0 if total is gradient else multiple_of(total, gradient)
        gradients = [g * (factor / weight) for g, weight in zip(own, weights, strict=True)]
        return tuple(map(MicroBatch, gradients, self._updates_without(gradients, weights)))

    @abstractmethod
    def _count_examples(self, batch: Batch) -> int:
        """The number of examples; raises `LCAError` if the batch cannot be split."""

    @abstractmethod
    def _rows(self, batch: Batch, start: int, stop: int) -> Batch:
        """The examples from ``start`` to ``stop``; a view where possible."""

    @abstractmethod
    def _joined(self, batches: Sequence[Batch]) -> Batch:
        """One batch of all examples."""

    @abstractmethod
    def _label_errors(self, logits: Any, labels: Any) -> Any:
        """``1 - softmax(logits)[label]`` (n,), of logits (n, C) and labels (n,) or (n, 1)."""

    @abstractmethod
    def _to_numpy(self, array: Any) -> np.ndarray:
        """The same numbers on the host."""

    @abstractmethod
    def _gradient(self) -> Vector | None:
        """The gradient (K,) that the optimizer receives, or ``None`` if the loop has not supplied it."""

    @abstractmethod
    def _gradient_sums(self) -> tuple[Vector, Iterable[Vector]]:
        """The sum (K,) of the gradients of all micro-batches, weighted as in the loss, and each of them."""

    @abstractmethod
    def _updates_without(self, gradients: Sequence[Vector], weights: Sequence[float]) -> Sequence[Vector]:
        """The update (K,) that the optimizer would make without each micro-batch."""


def multiple_of(total: Vector, gradient: Vector) -> float:
    """The factor c for which ``gradient = c · total``, as after unscaling or clipping by norm.

    Parameters
    ----------
    total
        The sum of the gradients of the micro-batches (K,).
    gradient
        The gradient (K,) that the optimizer receives.

    Raises
    ------
    LCAError
        If there is no such factor.
    """
    ops = array_ops(gradient)
    square = ops.total(total * total)
    factor = ops.total(total * gradient) / square if square else 1.0
    rest = gradient - factor * total
    if not ops.total(rest * rest) ** 0.5 <= summed(ops.total(gradient * gradient) ** 0.5, ops.eps(gradient)):
        raise LCAError(
            "the gradient of the update is not a multiple of the sum over its micro-batches: it was clipped "
            "entry by entry, averaged over ranks, had something added to it, or one backward pass covered "
            "several micro-batches. The update without one of them is then unknown; run one backward pass "
            "for each micro-batch and clip by norm, or use an estimator that requires no micro-batches "
            "(lca.estimators.NextBatch)."
        )
    return factor


def _check_logits(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise `LCAError` unless these are the shapes (n, C) and (n,) or (n, 1)."""
    if len(logits) != 2 or labels not in (logits[:1], (*logits[:1], 1)):
        raise LCAError(
            f"scores(index, outputs, labels) expects logits (n, C) and class labels (n,), got outputs "
            f"{logits} and labels {labels}; for other losses pass the scores themselves (n,), without labels."
        )
