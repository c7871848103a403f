"""What a training loop has at hand, put on the steps that a tracker measures: `HandOver`.

Estimators on batches live on what training computes anyway (`lca.step.Step`, from ``gradient`` on). A
framework gives it as a `Source`; here is decided what is asked for and when, and which steps wait for their
next one.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from lca.errors import LCAError
from lca.step import Step
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
            "entry, averaged over ranks or had something added to it, so the update without one of them is "
            "unknown; clip by norm, or use an estimator that needs no parts (lca.estimators.NextBatch)."
        )
    return factor


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
