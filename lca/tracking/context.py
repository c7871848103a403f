"""`LoopContext`: what a training loop supplies for the coming update, as fields of `lca.Step`."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.step import ExampleScores, MicroBatch
from lca.tolerances import summed


def multiple_of(total: Vector, gradient: Vector) -> float:
    """c, where an update's ``gradient`` is c times the ``total`` of its parts: unscaling, clipping by norm.

    Raises
    ------
    LCAError
        If it is no multiple of it.
    """
    ops = array_ops(gradient)
    square = ops.total(total * total)
    factor = ops.total(total * gradient) / square if square else 1.0
    rest = gradient - factor * total
    if not ops.total(rest * rest) ** 0.5 <= summed(ops.total(gradient * gradient) ** 0.5, ops.eps(gradient)):
        raise LCAError(
            "the gradient of the update is no multiple of the sum of its micro-batches: it was clipped entry "
            "by entry, averaged over ranks, had something added to it, or several micro-batches share one "
            "backward pass, so the update without one of them is unknown; call backward for each "
            "micro-batch, clip by norm, or use an estimator that needs none (lca.estimators.NextBatch)."
        )
    return factor


class LoopContext(ABC):
    """What a training loop has at hand for the coming update; `hand_over` is a `Source`.

    A framework fills in the batches, the parts (each a share and what there is of its gradient) and the
    scores as they pass by, and says how a whole is made of them.
    """

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._marks: list[tuple[float, Any]] = []
        self._scores: list[ExampleScores] = []

    def hand_over(self, fields: Collection[str]) -> Mapping[str, Any]:
        """What there is of these fields of `Step`."""
        given: dict[str, Any] = {}
        if "batch" in fields and self._batches:
            given["batch"] = self._batches[0] if len(self._batches) == 1 else self._whole_batch()
        if "gradient" in fields or "micro_batches" in fields:
            gradient = self._gradient()
            if gradient is not None:
                given["gradient"] = gradient
                if "micro_batches" in fields and len(self._marks) > 1:
                    given["micro_batches"] = self._parts(gradient)
        if "scores" in fields and self._scores:
            given["scores"] = ExampleScores(
                np.concatenate([scores.index for scores in self._scores]),
                np.concatenate([scores.values for scores in self._scores]),
            )
        return given

    def forget(self) -> None:
        """The update has been made, or will not be; the next one begins."""
        self._batches, self._marks, self._scores = [], [], []

    @abstractmethod
    def _whole_batch(self) -> Any:
        """One batch of several."""

    @abstractmethod
    def _gradient(self) -> Vector | None:
        """Of the update (K,), as the optimizer is given it; ``None`` if nobody told."""

    @abstractmethod
    def _parts(self, gradient: Vector) -> tuple[MicroBatch, ...]:
        """Of this update."""
