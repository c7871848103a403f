"""`CrossFit`: what each part of a batch says about the update that the other parts would have made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Self

from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import IncompleteStepError, LCAError
from lca.estimators.minibatch import check_rule
from lca.estimators.stochastic import Shares, Tally, check_required_fields
from lca.objective import Objective
from lca.quadrature import LEFT, TRAPEZOID, QuadratureRule
from lca.step import Step


@dataclass(frozen=True)
class CrossFit:
    """Allocation without any further backward pass, from the micro-batches of training itself.

    ``LEFT``: ``A = (1/M) Σ_m g_m(θ_t) ∘ Δ_t^{(−m)}``, where g_m is the gradient on the m-th of the M parts of
    B_t and Δ^{(−m)} the update that the optimizer would have made without it
    (`lca.reference.optimizers.leave_one_out`). The two share no example, so the batch does not judge its own work.
    ``TRAPEZOID``: the mean of that and of ``g_{B_{t+1}}(θ_{t+1}) ∘ Δ_t``, the next step's own gradient.

    Parameters
    ----------
    micro_batches
        M ≥ 2, the parts that the loop hands over: gradient accumulation, a split of the batch, or the ranks
        of data-parallel training. Two do as well as five, and cost least.
    rule
        ``TRAPEZOID`` or ``LEFT``.
    epoch
        The number of updates in an epoch, where batches are dealt from the shuffled data; with gradient
        accumulation that is fewer than there are batches. What a batch causes
        is then judged by examples that it does not hold, although it is 1/epoch of the data; ``A`` gets
        ``(1/epoch) (g_{B_t}(θ_t) ∘ Δ_t - L)``, where L is the value of ``LEFT``. That removes what is wrong
        because a batch is never followed by itself, exactly so for plain SGD where all examples have one
        curvature; what earlier batches of the epoch have learned stays.
    independent
        Declares that training draws every batch independently of the others. Only then are the errors of
        different batches independent and the values unbiased, and only then are there error bars (of the
        trapezoid).

    Notes
    -----
    Element-wise work: M updates and M products. What is allocated is the loss of training: dropout,
    batch statistics and penalties included.

    *Error bars.* For plain SGD ``g_1 ∘ Δ^{(−1)}`` and ``g_2 ∘ Δ^{(−2)}`` are one and the same number, so
    their spread says nothing. Write ``g_m = G + ε_m``, J for the derivative of the update in the gradient, D
    for the update's mean, and ε̄ for the mean of the ε_m. The error of the left end is then ``ε̄·D + ε'Jε``
    (a sum over m ≠ k), and that of the right end of the step before is ``ε̄·Δ_{t-1}``; both belong to the
    sample at node t. With Δ_t *held fixed*, the spread of ``g_m · (Δ_{t-1} + Δ_t)`` over m measures
    ``ε̄·(Δ_{t-1} + D)`` and one ``T = E (ε̄'Jε̄*)²`` (ε̄* a copy of ε̄) of the ``2M/(M-1)`` of the second
    term. The rest is had from the contrast between the first two parts at neighbouring nodes, which are
    independent: ``E (h_{t+1}·J h_t)² = T``, with ``J h_t`` from the difference of two leave-one-out updates.
    These spreads are what `StepAllocation.replicates` holds; only their spread means something, their mean is
    0 or biased.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference.models import bowl
    >>> from lca.step import MicroBatch
    >>> parts = (MicroBatch(np.array([1.0]), np.array([-0.3])), MicroBatch(np.array([3.0]), np.array([-0.1])))
    >>> step = Step(np.array([2.0]), np.array([1.8]), micro_batches=parts)
    >>> CrossFit(2, LEFT).start(bowl(1))(step).values
    array([-0.3])
    """

    micro_batches: int = 2
    rule: QuadratureRule = TRAPEZOID
    independent: bool = False
    epoch: int | None = None
    target: ClassVar[str] = "batch"
    cost: ClassVar[Cost] = Cost()

    def __post_init__(self) -> None:
        check_rule(self.rule, "CrossFit")
        if self.rule not in (LEFT, TRAPEZOID):
            raise LCAError(
                f"CrossFit has the gradients of training only, at the ends of the step; got "
                f"{self.rule.name!r}, use TRAPEZOID or LEFT, or NextBatch for other nodes."
            )
        if self.independent and self.rule == LEFT:
            raise LCAError(
                "CrossFit has error bars for the trapezoid only: with LEFT the curvature along the step, "
                "which no spread shows, is the larger part of the error; use TRAPEZOID or independent=False."
            )
        if not isinstance(self.micro_batches, int) or self.micro_batches < 2:
            raise LCAError(f"micro_batches must be a whole number ≥ 2, got {self.micro_batches!r}.")

        if self.epoch is not None and (not isinstance(self.epoch, int) or self.epoch < 2):
            raise LCAError(f"epoch must be a whole number of batches ≥ 2, got {self.epoch!r}.")
        if self.epoch is not None and self.independent:
            raise LCAError(
                "batches are either dealt in epochs or drawn independently of each other; give epoch or "
                "independent=True, not both."
            )

    @property
    def unbiased(self) -> bool:
        """Over independent batches, for which ``epoch`` is wrong."""
        return self.epoch is None

    @property
    def degree(self) -> int:
        """The rule's."""
        return self.rule.degree

    @property
    def bias(self) -> str:
        """In words."""
        left = "the rule's; with Adam, O(1/M)"
        dealt = "shuffled epochs: some % small" if self.epoch is None else "the part of earlier batches"
        return left if self.rule == LEFT else f"{left}; {dealt}"

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The parts; for the trapezoid the next training gradient, and the parts that show it is a whole."""
        fields = (
            ("micro_batches",)
            if self.rule == LEFT
            else ("micro_batches", "next_gradient", "next_micro_batches")
        )
        return fields if self.epoch is None else (*fields, "gradient")

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws nothing."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""

        def allocate_step(step: Step) -> StepAllocation:
            check_required_fields(
                step, self.required_fields, f"CrossFit({self.micro_batches}, {self.rule.name})"
            )
            for parts in (
                (step.micro_batches,) if self.rule == LEFT else (step.micro_batches, step.next_micro_batches)
            ):
                self._check_parts(step, len(parts))
            tally = Tally(objective, step)
            left, right = (1.0, 0.0) if self.rule == LEFT else TRAPEZOID.weights
            own = 1 / self.epoch if self.epoch else 0.0
            for part in step.micro_batches:
                tally.add_product((left - own) / self.micro_batches, part.gradient, part.update)
            if own:
                tally.add(own, step.gradient)
            if right:
                tally.add(right, step.next_gradient)
            return tally.allocation(Cost(), self._replicates(step, left, right) if self.independent else None)

        return allocate_step

    def _check_parts(self, step: Step, found: int) -> None:
        m = self.micro_batches
        if found != m:
            raise IncompleteStepError(
                f"step {step.index}: CrossFit({m}) expects {m} micro-batches to an update, the loop handed "
                f"over {found}; tracker.micro_batches(batch, {m}) gives as many, and so do {m} batches accumulated "
                "to an update (Keras: tracker.add for each)."
            )

    def _replicates(self, step: Step, left: float, right: float) -> Mapping[float, Sequence[Vector]]:
        """What spreads as the values do, by node; see the notes of the class."""
        replicates: dict[float, Sequence[Vector]] = {
            step.index: Shares(step, [(left, [part.gradient for part in step.micro_batches])]),
            step.index + 0.5: _Crossed(step, left),
        }
        if right:
            shares = Shares(step, [(right, [part.gradient for part in step.next_micro_batches])])
            replicates[step.index + 1] = shares
        return replicates


class _Crossed(Sequence[Vector]):
    """±a in two places and 0 in the others, so that the squared error of their mean is the rest of T."""

    def __init__(self, step: Step, weight: float) -> None:
        m = len(step.micro_batches)
        rest = 2 * m / (m - 1) - 1
        self._step, self._m = step, m
        # The contrasts below, with their common factors: h = (g_1 - g_2) / √(2M), and J h from updates that
        # differ by J (g_1 - g_2) / (M - 1).
        self._factor = weight * sqrt(rest * m * (m - 1) / 2) * (m - 1) / (2 * m)

    def __len__(self) -> int:
        return self._m

    def __getitem__(self, j):  # type: ignore[no-untyped-def]
        if isinstance(j, slice):
            return [self[i] for i in range(*j.indices(len(self)))]
        if j >= self._m:
            raise IndexError(j)  # what ends an iteration
        if j > 1:
            return 0.0 * self._step.start
        (a, b, *_), (c, d, *_) = self._step.micro_batches, self._step.next_micro_batches
        product = array_ops(a.update).scaled(b.update - a.update, self._factor * (1 - 2 * j))
        return product * (c.gradient - d.gradient)
