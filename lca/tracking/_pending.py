"""`PendingStep`: collects the step fields that an estimator requires, and keeps a step until it has all.

A step whose estimator requires fields of the next step is pending until the next update is made.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from lca._micro_batches import LeftOut
from lca.step import Step

StepFields: TypeAlias = Callable[[Collection[str]], Mapping[str, Any]]
"""From names of fields of `lca.Step` (``batch``, ``gradient``, ``micro_batches``, ``scores``) to their values
for the update that is about to be made. Vectors are copies that nothing overwrites. A field that the training
loop cannot supply is absent."""

_NEXT = "next_"
_NONE = frozenset[str]()


class PendingStep:
    """Collects the fields that an estimator requires, and holds the step that still lacks ``next_*`` fields.

    Parameters
    ----------
    required_fields
        Names of fields of `lca.Step`.
    step_fields
        Supplies those of one update; ``None`` if the training loop supplies nothing.
    reduced
        Returns the fields as far as they are used, before the update is made; see `lca.allocation.Estimator`.

    Attributes
    ----------
    delayed
        Whether a step can be measured only when the next update is made.
    step
        The pending step, or ``None``, as it always is unless `delayed`. It holds copies of both its ends
        (2 K numbers) and its fields.
    """

    def __init__(
        self,
        required_fields: Collection[str],
        step_fields: StepFields | None,
        reduced: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self._own = frozenset(field for field in required_fields if not field.startswith(_NEXT))
        self._next = frozenset(
            field.removeprefix(_NEXT) for field in required_fields if field.startswith(_NEXT)
        )
        self._all = self._own | self._next
        self._step_fields, self._reduced = step_fields, reduced
        self._collected: Mapping[str, Any] = {}
        self.delayed = bool(self._next)
        self.step: Step | None = None

    def requested(self, *, measured: bool) -> frozenset[str]:
        """The fields to collect from the coming update, which is ``measured`` itself or not."""
        if self.step is None:
            return self._own if measured else _NONE
        return self._all if measured else self._next

    def clear(self) -> None:
        """Discard what was collected from an update that was not made."""
        self._collected = {}

    def collect(self, *, measured: bool) -> None:
        """Collect the fields of the update that is about to be made."""
        self._collected = {}
        fields = self.requested(measured=measured)
        if fields and self._step_fields is not None:
            found = self._reduced(self._step_fields(fields))
            # What was not reduced is computed now, as it is known only until the update is made.
            self._collected = {
                name: tuple(value) if isinstance(value, LeftOut) else value for name, value in found.items()
            }

    def own_fields(self) -> dict[str, Any]:
        """The collected fields of the step that the update has made."""
        return {name: value for name, value in self._collected.items() if name in self._own}

    def completed(self) -> Step:
        """The pending step with the collected fields as its ``next_*`` fields; it is no longer pending."""
        assert self.step is not None
        step, self.step = self.step, None
        found = {_NEXT + name: value for name, value in self._collected.items() if name in self._next}
        made = object.__new__(Step)  # as `dataclasses.replace`, in a tenth of its time
        vars(made).update(vars(step), **found)
        return made
