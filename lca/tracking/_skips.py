"""`Skips`: the steps that were to be measured and lack a field that the estimator requires."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

from lca.errors import IncompleteStepError, LCAWarning
from lca.step import Step


class Skips:
    """Counts the steps that are skipped, warns of the first one, and knows why it was.

    A step that lacks a required field is skipped if an earlier one had it, or if the update that should have
    it is irregular: there the loop has done something else than usual. Otherwise the loop never supplies the
    field, which is an error.

    Parameters
    ----------
    estimator
        The name of the estimator.
    required
        The fields of `lca.Step` that it requires.
    advice
        How the loop supplies a field, by field.

    Attributes
    ----------
    number
        How many steps were skipped.
    measured
        Whether a step had all required fields.
    between
        What changes the parameters between two updates.

    Examples
    --------
    >>> import numpy as np
    >>> skips, step = Skips("SameBatch", ["gradient"], {}), Step(np.zeros(1), np.zeros(1))
    >>> skips.note(0, "has a batch of weight 0")
    >>> with warnings.catch_warnings(action="ignore"):
    ...     skips.add(step, IncompleteStepError("Step.gradient is missing.", "gradient"))
    >>> skips.reason[:61]
    '1 skipped, the first as follows: step 0: SameBatch requires S'
    """

    def __init__(self, estimator: str, required: Collection[str], advice: Mapping[str, str]) -> None:
        self._estimator, self._required, self._advice = estimator, required, advice
        self.number, self.measured = 0, False
        self.between = "as if parameters are clamped between updates"
        self._text = ""  # why the first one was skipped
        self._irregular: dict[int, str] = {}  # what the last two updates did
        self._begun: int | None = None  # the index of the first update
        self._first = ""  # what that one did, if it was irregular, as later ones show
        self._apart: dict[int, str] = {}  # of the last update, why it tells nothing of the step before

    @property
    def reason(self) -> str:
        """How many steps were skipped, and why; empty if none was."""
        if self._text:
            return f"{self.number} skipped, the first as follows: {self._text}".rstrip(".")
        if self.number:
            return (
                f"{self.number} skipped, as the estimator requires fields of the next update, and none began "
                f"where a step had ended ({self.between})"
            )
        return ""

    def note(self, update: int, what: str, *, first: str = "", apart: str = "") -> None:
        """Remember what the update of this index did that others do not; empty if it is like others.

        ``first`` is what the first update did, as later ones show, so that its gradient may be too small;
        ``apart`` is why the gradient of this update is not that of the loss which the step before lowers.
        """
        self._apart = {update: apart}
        self._begun = update if self._begun is None else self._begun
        self._irregular = {update - 1: self._irregular.get(update - 1, ""), update: what}
        if first and not self._first:
            self._first = first
            if self.measured:
                warnings.warn(
                    f"the update whose gradient the first measured step has {first}. If the loop divides by "
                    "the usual number all the same, as where training is resumed in the middle of an epoch, "
                    "that gradient is too small, and so is the allocation of the step.",
                    LCAWarning,
                    stacklevel=2,
                )

    def without_small_gradient(self, step: Step) -> Step:
        """The step without the gradient of the first update, if that may be too small."""
        if self._first and step.index == self._begun:
            return replace(step, gradient=None, micro_batches=(), halves=(), update_slope=None)
        return step

    def without_other_gradient(self, step: Step) -> Step:
        """The step without the gradient of the next update, if that is not one of the same loss."""
        if self._apart.get(step.index + 1):
            return replace(step, next_gradient=None, next_micro_batches=(), next_halves=())
        return step

    def add(self, step: Step, error: IncompleteStepError) -> None:
        """Skip a step that lacks a field; raises the error, with advice, if the loop never supplies it."""
        cause = self._cause(step, error.field)
        advice = self._advice.get(error.field.removeprefix("next_"))
        if advice:
            error.args = (f"{str(error).rstrip('.')}; {advice}.",)
        if not (self.measured or cause):
            raise error
        if not self._text:
            self._text = cause or str(error)
            warnings.warn(
                f"skipped, as are later steps like it (see the attribute skipped_steps): {self._text}",
                LCAWarning,
                stacklevel=3,
            )
        self.number += 1

    def _cause(self, step: Step, field: str) -> str:
        """Why a step lacks this field, if the update that should have it is irregular; else empty."""
        update = step.index + field.startswith("next_")
        irregular = self._irregular.get(update) or (self._first if update == self._begun else "")
        if update > step.index:
            irregular = self._apart.get(update) or irregular
        if not irregular or field not in self._required:
            return ""
        return f"step {step.index}: {self._estimator} requires Step.{field}, and update {update} {irregular}."
