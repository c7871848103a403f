"""What estimators on mini-batches share: what they declare, and `Tally`, the sum over a step's gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite, nan
from typing import Protocol, Self, runtime_checkable

import numpy as np

from lca.allocation import Cost, Estimator, StepAllocation
from lca.errors import IncompleteStepError, LCAError, NonFiniteError, TrajectoryError
from lca.objective import Objective
from lca.step import Step
from lca.vectors import Vector, vector_ops

_SOURCES = {
    "batch": "lca.training.train hands it over; under a Tracker, loop over tracker.batches(loader)",
    "gradient": "lca.training.train hands it over, and so does a Tracker",
    "next_batch": "in a plain loop, wrap the steps: lca.training.with_next(train(...)); under a Tracker, "
    "loop over tracker.batches(loader)",
    "next_gradient": "in a plain loop, wrap the steps: lca.training.with_next(train(...)); a Tracker hands "
    "it over",
    "next_parts": "in a plain loop, lca.training.with_next(train(..., parts=2)); under a Tracker, loop over "
    "tracker.parts(batch, 2) inside a step, or accumulate batches of tracker.batches(loader)",
    "parts": "an update of one batch in one piece has none; in a plain loop, "
    "lca.training.train(..., parts=2); under a Tracker, loop over "
    "tracker.parts(batch, 2) inside a step, or accumulate batches of tracker.batches(loader); in Keras add "
    "each part's gradients with tracker.add",
    "scores": "in a plain loop, lca.training.train(..., scores=True); under a Tracker, call "
    "tracker.scores(index, outputs, labels) at every step; or give the estimator refresh=n",
}
"""Where a loop gets each field of `Step` from that an estimator may need."""


@runtime_checkable
class StochasticEstimator(Estimator, Protocol):
    """An estimator whose values depend on batches or on samples of its own.

    It measures no losses: ``loss_start``, ``loss_end`` and ``residual`` of its allocations are NaN.
    """

    @property
    def unbiased(self) -> bool:
        """Whether the mean of the values is the full-data allocation, up to the declared degree.

        The mean over training batches drawn independently of each other, for an optimizer that is linear in
        the gradient (SGD with or without momentum), and over all samples of the estimator's own.
        """

    @property
    def bias(self) -> str:
        """In words: what is left in the mean of the values when ``unbiased``'s conditions do not hold."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of `Step` that the training loop must hand over."""

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other random numbers; itself, if it draws none."""


def needs_of(estimator: Estimator) -> tuple[str, ...]:
    """The fields of `Step` that the training loop must hand over to this estimator of any kind."""
    return tuple(estimator.needs) if isinstance(estimator, StochasticEstimator) else ()


def check_handed_over(step: Step, needs: Sequence[str], name: str) -> None:
    """Raise `IncompleteStepError`, saying where to get it, if ``name`` needs what the loop did not give."""
    assert set(needs) <= {field.name for field in fields(Step)}
    for need in needs:
        value = getattr(step, need)
        if value is None or (need in ("parts", "next_parts") and not value):
            raise IncompleteStepError(
                f"step {step.index}: {name} needs Step.{need}, which the training loop did not hand over; "
                f"{_SOURCES[need]}."
            )


class Tally:
    """``Σ_k w_k g_k ∘ Δ`` over the gradients of one step, checked as they come; uses O(K) memory."""

    def __init__(self, objective: Objective, step: Step) -> None:
        self._layout = objective.layout
        self._layout.check(step.start, f"start of step {step.index}")
        self._layout.check(step.end, f"end of step {step.index}")
        if step.start.dtype != step.end.dtype:
            raise TrajectoryError(
                f"step {step.index} goes from {step.start.dtype} to {step.end.dtype}; store all points "
                "in one dtype."
            )
        self.step, self.ops = step, vector_ops(step.start)
        self._values: Vector | None = None
        self._mass = 0.0

    def add(self, weight: float, gradient: Vector) -> None:
        """Add ``weight · g ∘ Δ`` for the step's own movement."""
        self._check(gradient)
        with np.errstate(over="ignore", invalid="ignore"):  # reported at once, with step and tensor
            product = self.ops.times_movement(weight * gradient, self.step.start, self.step.end)
            self._take(product, gradient)

    def add_product(self, weight: float, gradient: Vector, update: Vector) -> None:
        """Add ``weight · g ∘ Δ'`` for a movement Δ' that is not quite the step's."""
        self._check(gradient)
        self._layout.check(update, f"an update that step {self.step.index} hands over")
        with np.errstate(over="ignore", invalid="ignore"):
            self._take(self.ops.scaled(gradient * update, weight), gradient)

    def allocation(
        self, cost: Cost, replicates: Mapping[float, Sequence[Vector]] | None = None
    ) -> StepAllocation:
        """The finished `StepAllocation`, without losses; uses this up."""
        before, after = self.step.state or (None, None)
        return StepAllocation(
            values=self._values,
            loss_start=nan,
            loss_end=nan,
            residual=nan,
            mass=self._mass,
            step=self.step.index,
            state_change=0.0 if after is before else nan,
            evaluations=cost,
            replicates=replicates or {},
            source=self.step,
        )

    def _check(self, gradient: Vector) -> None:
        self._layout.check(gradient, f"a gradient for step {self.step.index}")
        if gradient.dtype != self.step.start.dtype:
            raise LCAError(
                f"step {self.step.index}: a gradient is {gradient.dtype} where θ is {self.step.start.dtype}; "
                "compute it in θ's dtype."
            )

    def _take(self, product: Vector, gradient: Vector) -> None:
        """Add ``product``, which nobody else has, made from ``gradient``."""
        mass = self.ops.abs_total(product)
        # One scalar tells whether everything that went in is finite; vectors are searched only if not.
        if not isfinite(mass):
            raise self._non_finite(gradient)
        self._mass += mass
        self._values = product if self._values is None else self.ops.add_scaled(self._values, 1.0, product)

    def _non_finite(self, gradient: Vector) -> NonFiniteError:
        found = "gradient times movement overflows"
        named = {"parameters at the start": self.step.start, "parameters at the end": self.step.end}
        for what, vector in {**named, "gradient": gradient}.items():
            tensors = self._layout.unflatten(self.ops.to_numpy(vector)).items()
            bad = [name for name, tensor in tensors if not np.isfinite(tensor).all()]
            if bad:
                found = f"NaN or Inf in the {what}, in {', '.join(bad)}"
                break
        return NonFiniteError(
            f"step {self.step.index}: {found}; training has probably diverged (lower the learning rate or "
            "clip the gradient), or the data hold NaN or Inf."
        )


class Shares(Sequence[Vector]):
    """The replicates of a node's share, ``Σ_k w_k g_{k,j} ∘ Δ``, j = 1 ... m, made when asked for."""

    def __init__(self, step: Step, terms: Sequence[tuple[float, Sequence[Vector]]]) -> None:
        self._step, self._terms = step, terms

    def __len__(self) -> int:
        return len(self._terms[0][1])

    def __getitem__(self, j):  # type: ignore[no-untyped-def]
        if isinstance(j, slice):
            return [self[i] for i in range(*j.indices(len(self)))]
        ops, total = vector_ops(self._step.start), None
        for weight, gradients in self._terms:
            total = weight * gradients[j] if total is None else ops.add_scaled(total, weight, gradients[j])
        return ops.times_movement(total, self._step.start, self._step.end)
