"""What a training loop has at hand, put on the steps that a tracker measures: `HandOver`.

Estimators on batches live on what training computes anyway (`lca.step.Step`, from ``gradient`` on). A
framework gives it as a `Source`; here is decided what is asked for and when, and which steps wait for their
next one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from lca.errors import LCAError
from lca.step import Part, Scores, Step
from lca.testing.tolerances import summed
from lca.vectors import Vector, vector_ops

Source: TypeAlias = Callable[[Collection[str]], Mapping[str, Any]]
"""From names of fields of `Step` (of ``batch``, ``gradient``, ``parts``, ``scores``) to what the update that
is about to be made has there. Vectors last: nobody overwrites them. A field that is not at hand is left out,
and the estimator that needs it says where it comes from."""

_NEXT = "next_"


def multiple_of(total: Vector, gradient: Vector) -> float:
    """c, where an update's ``gradient`` is c times the ``total`` of its parts: unscaling, clipping by norm.

    Raises
    ------
    LCAError
        If it is no multiple of it.
    """
    ops = vector_ops(gradient)
    square = ops.total(total * total)
    factor = ops.total(total * gradient) / square if square else 1.0
    rest = gradient - factor * total
    if not ops.total(rest * rest) ** 0.5 <= summed(ops.total(gradient * gradient) ** 0.5, ops.eps(gradient)):
        raise LCAError(
            "the gradient of the update is no multiple of the sum of its parts: it was clipped entry by "
            "entry, averaged over ranks, had something added to it, or the parts had one backward pass in "
            "common, so the update without one of them is unknown; call backward for each part, clip by "
            "norm, or use an estimator that needs no parts (lca.estimators.NextBatch)."
        )
    return factor


class AtHand(ABC):
    """What a training loop has at hand for the coming update; `hand_over` is a `Source`.

    A framework fills in the batches, the parts (each a share and what there is of its gradient) and the
    scores as they pass by, and says how a whole is made of them.
    """

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._marks: list[tuple[float, Any]] = []
        self._scores: list[Scores] = []

    def hand_over(self, fields: Collection[str]) -> Mapping[str, Any]:
        """What there is of these fields of `Step`."""
        given: dict[str, Any] = {}
        if "batch" in fields and self._batches:
            given["batch"] = self._batches[0] if len(self._batches) == 1 else self._whole_batch()
        if "gradient" in fields or "parts" in fields:
            gradient = self._gradient()
            if gradient is not None:
                given["gradient"] = gradient
                if "parts" in fields and len(self._marks) > 1:
                    given["parts"] = self._parts(gradient)
        if "scores" in fields and self._scores:
            given["scores"] = Scores(
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
    def _parts(self, gradient: Vector) -> tuple[Part, ...]:
        """Of this update."""


class HandOver:
    """Asks the loop for what an estimator ``needs``, and keeps the step that still lacks ``next_*``.

    Attributes
    ----------
    late
        Whether a step can only be measured when the next update is made.
    pending
        The step that waits, with vectors of its own: 2 K numbers and what was handed over. Always ``None``
        for an estimator that needs nothing of the next step.
    """

    def __init__(self, needs: Collection[str], source: Source | None) -> None:
        self._now = frozenset(need for need in needs if not need.startswith(_NEXT))
        self._next = frozenset(need.removeprefix(_NEXT) for need in needs if need.startswith(_NEXT))
        self._source = source
        self._given: Mapping[str, Any] = {}
        self.late = bool(self._next)
        self.pending: Step | None = None

    def asked(self, *, measured: bool) -> frozenset[str]:
        """The fields that the coming update has to give, being ``measured`` itself or not."""
        return (self._now if measured else frozenset()) | (self._next if self.pending else frozenset())

    def forget(self) -> None:
        """An update may begin; what an earlier one gave that was then not made is void."""
        self._given = {}

    def ask(self, *, measured: bool) -> None:
        """The update is about to be made: take what it gives."""
        fields = self.asked(measured=measured)
        self._given = dict(self._source(fields)) if fields and self._source is not None else {}

    def given_to(self, step: Step) -> Step:
        """The step that the update made, with its own fields."""
        return replace(step, **{name: self._given[name] for name in self._now & self._given.keys()})

    def completed(self) -> Step:
        """The step that waited, with the fields of the update that was made after it; it waits no more."""
        assert self.pending is not None
        found = {_NEXT + name: self._given[name] for name in self._next & self._given.keys()}
        step, self.pending = replace(self.pending, **found), None
        return step
