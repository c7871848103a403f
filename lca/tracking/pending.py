"""`PendingStep`: asks the training loop for the step fields that an estimator requires.

A step whose estimator requires fields of the next step waits here until the next update is made.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from lca.step import Step

StepFields: TypeAlias = Callable[[Collection[str]], Mapping[str, Any]]
"""From names of fields of `Step` (``batch``, ``gradient``, ``micro_batches``, ``scores``) to their values for
the update that is about to be made. Vectors are copies that nothing overwrites. A field that the loop cannot
supply is left out."""

_NEXT = "next_"


class PendingStep:
    """Asks the loop for what an estimator ``needs``, and keeps the step that still lacks ``next_*``.

    Attributes
    ----------
    late
        Whether a step can only be measured when the next update is made.
    pending
        The step that waits, with vectors of its own: 2 K numbers and what was handed over. Always ``None``
        for an estimator that requires no field of the next step.
    """

    def __init__(self, required_fields: Collection[str], source: StepFields | None) -> None:
        self._now = frozenset(field for field in required_fields if not field.startswith(_NEXT))
        self._next = frozenset(
            field.removeprefix(_NEXT) for field in required_fields if field.startswith(_NEXT)
        )
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
