"""What estimators on mini-batches share: what they declare, and `Tally`, the sum over a step's gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite, nan
from typing import Protocol, Self, runtime_checkable

import numpy as np

from lca.allocation import Cost, Estimator, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import IncompleteStepError, LCAError, NonFiniteError, TrajectoryError
from lca.objective import Objective
from lca.step import Step

_SOURCES = {
    "batch": "lca.reference.training.train hands it over; under a Tracker, loop over tracker.batches(loader)",
    "gradient": "lca.reference.training.train hands it over, and so does a Tracker",
    "next_batch": "in a plain loop, wrap the steps: lca.reference.training.with_next(train(...)); under a Tracker, "
    "loop over tracker.batches(loader)",
    "next_gradient": "in a plain loop, wrap the steps: lca.reference.training.with_next(train(...)); a Tracker hands "
    "it over",
    "next_micro_batches": "in a plain loop, lca.reference.training.with_next(train(..., micro_batches=2)); under a Tracker, loop over "
    "tracker.micro_batches(batch, 2) inside a step, or accumulate batches of tracker.batches(loader)",
    "micro_batches": "an update of one batch in one piece has none; in a plain loop, "
    "lca.reference.training.train(..., micro_batches=2); under a Tracker, loop over "
    "tracker.micro_batches(batch, 2) inside a step, or accumulate batches of tracker.batches(loader); in Keras add "
    "each part's gradients with tracker.add",
    "scores": "in a plain loop, lca.reference.training.train(..., scores=True); under a Tracker, call "
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
    def required_fields(self) -> tuple[str, ...]:
        """The fields of `Step` that the training loop must hand over."""

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other random numbers; itself, if it draws none."""


def required_fields_of(estimator: Estimator) -> tuple[str, ...]:
    """The fields of `Step` that the training loop must hand over to this estimator of any kind."""
    return tuple(estimator.required_fields) if isinstance(estimator, StochasticEstimator) else ()


def check_required_fields(step: Step, required_fields: Sequence[str], name: str) -> None:
    """Raise `IncompleteStepError`, saying where to get it, if ``name`` needs what the loop did not give."""
    assert set(required_fields) <= {field.name for field in fields(Step)}
    for field in required_fields:
        value = getattr(step, field)
        if value is None or (field in ("micro_batches", "next_micro_batches") and not value):
            raise IncompleteStepError(
                f"step {step.index}: {name} needs Step.{field}, which the training loop did not hand over; "
                f"{_SOURCES[field]}."
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
        self.step, self.ops = step, array_ops(step.start)
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
            cost=cost,
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
        ops, total = array_ops(self._step.start), None
        for weight, gradients in self._terms:
            total = weight * gradients[j] if total is None else ops.add_scaled(total, weight, gradients[j])
        return ops.times_movement(total, self._step.start, self._step.end)
