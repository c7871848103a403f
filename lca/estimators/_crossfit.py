"""`CrossFit`: each micro-batch is paired with the update that the others would have made without it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, ClassVar, Self

from lca._micro_batches import mean_gradient
from lca._numbers import use_python_numbers
from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import IncompleteStepError, LCAError
from lca.estimators._minibatch import check_rule
from lca.estimators._path import Moved
from lca.estimators._products import Products, ProductSum
from lca.estimators._replicates import NodeReplicates
from lca.estimators._stochastic import check_required_fields
from lca.objective import Objective
from lca.quadrature import LEFT, TRAPEZOID, QuadratureRule
from lca.step import MicroBatch, Step


@dataclass(frozen=True)
class CrossFit:
    """Allocation from the micro-batches of training itself, without a further backward pass.

    ``LEFT``: ``A = Σ_m w_m g_m(θ_t) ∘ Δ_t^{(−m)}``, where g_m is the gradient on the m-th of the M
    micro-batches of B_t, w_m its part of the batch (1/M if all weigh the same), and Δ^{(−m)} the update that
    the optimizer would have made without it (`lca.reference.leave_one_out`). The two factors share no
    example, so no example judges an update that it caused. ``TRAPEZOID``: the mean of that and of
    ``g_{B_{t+1}}(θ_{t+1}) ∘ Δ_t``, the training gradient of the next step.

    Parameters
    ----------
    micro_batches
        M ≥ 2, the number of micro-batches in an update: by gradient accumulation, a split of the batch, or
        the ranks of data-parallel training, best of equal size: with Adam, an update without most of the
        examples is too far from the one that was made. Two cost least; with four, the errors that are
        products of two gradients, which matter most with SGD, have two thirds of the variance. Each must be a
        random sample of all data, with the whole loss: the examples of a batch in random order, and no domain
        or task for each.
    rule
        ``TRAPEZOID`` or ``LEFT``.
    independent
        Declares that training draws every batch independently of the others, and the examples of a batch
        with replacement; without replacement pass ``epoch``, too. Only then are the errors of
        different batches independent, the values unbiased, and error bars (of the trapezoid) available. The
        bars take the weights of micro-batches for numbers of independent examples. Weights that depend on the
        examples, such as tokens, make the gradient of a batch a ratio of two sums, which is biased; the more
        they differ between few examples, the more so are the values.
    epoch
        The number of updates in an epoch, for training on shuffled epochs; with gradient accumulation that
        is less than the number of batches. No example then judges an update that it caused, but among all
        the data those that caused it are 1/epoch. The correction ``(1/epoch) (g_{B_t}(θ_t) ∘ Δ_t - L)``,
        where L is the value of ``LEFT``, gives them this part. It removes the bias that arises because a
        batch is never followed by itself: exactly for plain SGD where all examples have the same curvature.
        The bias from the earlier batches of the epoch remains.

        With ``independent``, for batches that are drawn afresh from all data, but hold no example twice: N/b,
        for b of N examples in an update. It need not be a whole number, and is 1 for full batches. Gradients
        of two micro-batches have the covariance ``-S/(N - 1)`` there, if S is that of the gradients of
        single examples. So the left end is too small by b/N of what the batch adds to it, the mean of
        ``g_{B_t}(θ_t) ∘ Δ_t - L``. The next batch may hold the same examples, so the right end is not too
        small. Half of the correction is left, ``(1/(2 epoch)) (g_{B_t}(θ_t) ∘ Δ_t - L)``, and for SGD no bias
        remains. With full batches the values are those of the trapezoid on all data.
    own_pass
        The loop takes one gradient g for each batch and does not split it. The tracker, which must know the
        batch, takes the gradient g_a of its first half, and the second half's follows as
        ``(g - w_a g_a) / w_b`` with their weights w in the measured loss, such as examples or tokens. So the
        loss of training must be the measured one on the batch, without dropout or batch statistics; the
        tracker compares them, as exactly as the precision in which they are computed allows, at each of the
        first 20 updates and 35 times in every tenfold of updates after these, each time by the gradient of
        the second half.

    Notes
    -----
    Cost a step: M updates and M products, all element-wise; no gradient, with ``own_pass`` half of one on a
    training batch. Memory: O(K); in torch, with M = 2, 6 to 7 vectors (K,) at most beyond training (8 to 10
    below 131,072 parameters), 10 to 12 with ``own_pass``, and 12 to 14 if ``independent``. The loss allocated
    is that of training: dropout, batch statistics and penalties included.

    *Error bars.* For plain SGD ``g_1 ∘ Δ^{(−1)}`` and ``g_2 ∘ Δ^{(−2)}`` are the same number, so
    their spread says nothing. Write ``g_m = G + ε_m``, J for the derivative of the update in the gradient, D
    for the update's mean, and ε̄ for the mean of the ε_m. The error of the left end is then ``ε̄·D + ε'Jε``
    (a sum over m ≠ k), and that of the right end of the step before is ``ε̄·Δ_{t-1}``; both belong to the
    sample at node t. With Δ_t *held fixed*, the spread of ``g_m · (Δ_{t-1} + Δ_t)`` over m measures
    ``ε̄·(Δ_{t-1} + D)`` and one ``T = E (ε̄'Jε̄*)²`` (ε̄* a copy of ε̄) of the ``2M/(M-1)`` of the second
    term. The rest follows from the contrast between the first two micro-batches at neighbouring nodes, which
    are independent: ``E (h_{t+1}·J h_t)² = T``, with ``J h_t`` from the difference of two leave-one-out
    updates. `StepAllocation.replicates` holds these spreads; their mean is 0 or biased and has no meaning.

    *Batches without replacement.* They are less noisy: the variance of ε̄ is ``f = 1 - 1/epoch`` times that
    of independent examples, which the spread of g_m shows. The left end is ``f L + (1 - f) g_{B_t} ∘ Δ_t``,
    in which the second term is f times as large. So the spreads are multiplied by ``√f``, and what is made of
    contrasts by f. Where errors are not normal, as those of 8 examples in all, variances were 10 % too small
    to 20 % too large.

    *Micro-batches of different sizes.* Let ``Σ w_m = 1`` and the variance of ε_m be ``S/w_m``, as that of a
    mean over examples. Then ``Σ w_m² (g_m - ḡ)²``, whose mean is ``(1 - Σ w_m²) S``, takes the place of the
    spread of g_m, as for a ratio of means. With ``r_m = w_m/(1 - w_m)``, ``R = Σ r_m`` and ``Q = Σ r_m²``,
    the second term is ``(R + R² - Q) T``. As ``Σ_m w_m Δ^{(−m)}`` is not the update, there is a third one,
    ``G·J e``, where e is uncorrelated with ε̄ and has the variance ``(R + Q - R²) S``; the mean square of
    ``ḡ_{t+1}·J h_t`` gives it, and one T more.

    *The order of examples.* A batch is split in its own order. If it is sorted by class, or its halves are
    two views of the same examples, its micro-batches are not independent samples, and the values are wrong,
    even in sign. If each micro-batch is from another domain or task, they sample different losses: with two
    domains, the parameters of one of them (an adapter, a head) get half of their values. If every batch has
    the same number of examples of each class, one micro-batch has more of a class when the others have fewer,
    and sums are too small, with SGD by tens of per cent; `NextBatch` does not split batches.
    The next batch must be a random sample, too (`NextBatch`). Trackers compare the labels of micro-batches
    and of batches now and then, if there are labels, and the sets of parameters that have gradients, and
    warn. They also warn if the rows of batches show that the batches are full batches, or that
    ``independent`` batches are drawn without replacement. Domains that share all parameters can be seen in
    the labels only.

    Raises
    ------
    LCAError
        If the parameters contradict each other, or are out of range.
    IncompleteStepError
        If a step lacks one of `required_fields`, or has another number of micro-batches.

    References
    ----------
    Chernozhukov, Chetverikov, Demirer, Duflo, Hansen, Newey, Robins. Double/debiased machine learning for
    treatment and structural parameters. The Econometrics Journal, 2018 (the principle of cross-fitting).

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import bowl
    >>> from lca.step import MicroBatch
    >>> halves = MicroBatch(np.array([1.0]), np.array([-0.3])), MicroBatch(np.array([3.0]), np.array([-0.1]))
    >>> step = Step(np.array([2.0]), np.array([1.8]), micro_batches=halves)
    >>> CrossFit(2, LEFT).start(bowl(1))(step).values
    array([-0.3])
    """

    micro_batches: int = 2
    rule: QuadratureRule = TRAPEZOID
    independent: bool = False
    epoch: float | None = None
    own_pass: bool = False
    target: ClassVar[str] = "batch"
    vectors: ClassVar[int] = 4
    citation: ClassVar[str] = """@article{chernozhukov2018double,
  title   = {Double/debiased machine learning for treatment and structural parameters},
  author  = {Chernozhukov, Victor and Chetverikov, Denis and Demirer, Mert and Duflo, Esther and
             Hansen, Christian and Newey, Whitney and Robins, James},
  journal = {The Econometrics Journal},
  volume  = {21},
  number  = {1},
  pages   = {C1--C68},
  year    = {2018}
}"""

    def __post_init__(self) -> None:
        use_python_numbers(self)
        check_rule(self.rule, "CrossFit")
        if self.rule not in (LEFT, TRAPEZOID):
            raise LCAError(
                "CrossFit uses the gradients of training, which are known at the ends of a step only; got "
                f"{self.rule.name!r}, use TRAPEZOID or LEFT, or NextBatch for other nodes."
            )
        if self.independent and self.rule == LEFT:
            raise LCAError(
                "CrossFit has error bars for the trapezoid only: with LEFT the larger part of the error is "
                "the curvature along the step, which no spread shows; use TRAPEZOID or independent=False."
            )
        if not isinstance(self.micro_batches, int) or self.micro_batches < 2:
            raise LCAError(f"micro_batches must be a whole number ≥ 2, got {self.micro_batches!r}.")
        if self.own_pass and self.micro_batches != 2:
            raise LCAError(
                f"own_pass=True splits a batch into two halves, so micro_batches must be 2, got "
                f"{self.micro_batches}."
            )
        self._check_epoch()

    def _check_epoch(self) -> None:
        if self.epoch is None:
            return
        if not self.independent and (not isinstance(self.epoch, int) or self.epoch < 2):
            raise LCAError(
                f"epoch must be a whole number of batches ≥ 2, got {self.epoch!r}. Where each update is made "
                "from all examples, use CrossFit(independent=True, epoch=1)."
            )
        if not isinstance(self.epoch, int | float) or not 1 <= self.epoch < inf:
            raise LCAError(
                "with independent=True, epoch is the number of examples divided by those of an update, a "
                f"number ≥ 1, got {self.epoch!r}."
            )

    @property
    def unbiased(self) -> bool:
        """Over independent batches whose weights do not depend on the examples; not with epochs."""
        return self.independent or self.epoch is None

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """None, or half a gradient on a training batch."""
        return Cost(batch_gradients=0.5 if self.own_pass else 0.0)

    @property
    def bias(self) -> str:
        """The remaining bias in words."""
        left = "error of the rule, O(1/M) with Adam"
        if self.rule == LEFT or (self.independent and self.epoch):
            return left
        dealt = "a few % small in shuffled epochs" if self.epoch is None else "the part of earlier batches"
        return f"{left}; {dealt}"

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The micro-batches; for the trapezoid also the next gradient, for error bars its micro-batches."""
        ends = () if self.rule == LEFT else ("next_gradient",)
        bars = (f"next_{self._parts}",) if self.independent else ()
        own = () if self.epoch is None else ("gradient",)
        return (self._parts, *ends, *bars, *own)

    @property
    def _parts(self) -> str:
        """The field of `lca.Step` that holds the micro-batches."""
        return "halves" if self.own_pass else "micro_batches"

    def reseeded(self, seed: int) -> Self:
        """Itself: it draws no random numbers."""
        return self

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        moved, checked = Moved(objective), self._checker()
        left, right = (1.0, 0.0) if self.rule == LEFT else TRAPEZOID.weights
        own, cost = 1 / self.epoch if self.epoch else 0.0, self.cost
        own *= left if self.independent else left + right  # the ends that batches without replacement bias

        def allocate_step(step: Step) -> StepAllocation:
            checked(step)
            moved.require_trained(step)
            products, parts = Products(objective.layout, step), getattr(step, self._parts)
            if isinstance(parts, ProductSum):
                products.add_sum(left - own, parts)
            else:
                total = sum(part.weight for part in parts)
                for part in parts:
                    products.add((left - own) * part.weight / total, part.gradient, part.update)
            if own:
                products.add(own, step.gradient)
            if right:
                products.add(right, step.next_gradient)
            replicates = self._replicates(step, left, right) if self.independent else None
            return products.allocation(cost, replicates=replicates)

        return allocate_step

    def reduced(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of an update that this estimator uses, reduced as soon as they are available.

        Without error bars, a single vector (K,), the sum at the left end, replaces the micro-batches.
        """
        parts = fields.get(self._parts, ())
        if self.independent or len(parts) != self.micro_batches:
            return fields
        return {**fields, self._parts: ProductSum.of(parts, overwrite=True)}

    def _checker(self) -> Callable[[Step], None]:
        """Raises `IncompleteStepError` unless a step has the fields, with as many micro-batches."""
        m, required = self.micro_batches, self.required_fields
        name = f"CrossFit({m}, {self.rule.name})"
        parts = [field for field in required if field.endswith(self._parts)]

        def check(step: Step) -> None:
            check_required_fields(step, required, name)
            for field in parts:
                found = getattr(step, field)
                if len(found) != m:
                    raise IncompleteStepError(
                        f"step {step.index}: CrossFit({m}) requires {m} micro-batches in Step.{field}, but "
                        f"the training loop supplied {len(found)}; split every batch into {m}.",
                        field,
                    )

        return check

    def _replicates(self, step: Step, left: float, right: float) -> Mapping[float, Sequence[Vector]]:
        """Vectors that spread as the values do, by node; see the notes of the class."""
        now, after = getattr(step, self._parts), getattr(step, f"next_{self._parts}")
        less = 1 - 1 / self.epoch if self.epoch else 1.0  # the variance of the mean without replacement
        replicates: dict[float, Sequence[Vector]] = {
            step.index: NodeReplicates(step, [(left, _spread(now, less))]),
            step.index + 0.5: _Crossed(step, now, after, left * less),
        }
        if right:
            replicates[step.index + 1] = NodeReplicates(step, [(right, _spread(after, less))])
        return replicates


def _spread(parts: Sequence[MicroBatch], less: float) -> Sequence[Vector]:
    """Vectors whose spread gives the variance of ``Σ_m w_m g_m``: the g_m, if all weigh the same.

    Without replacement the variance is ``less`` times that of draws with replacement.
    """
    if less == 1 and _weigh_the_same(parts):
        return [part.gradient for part in parts]
    return _Deviations(parts, less)


class _Deviations(Sequence[Vector]):
    """``ḡ + √less c w_m (g_m - ḡ)`` (K,) for each m, formed on demand; see the notes of `CrossFit`."""

    def __init__(self, parts: Sequence[MicroBatch], less: float) -> None:
        m, weights, self._gradients = len(parts), _fractions(parts), [part.gradient for part in parts]
        self._mean = mean_gradient(self._gradients, weights, range(m))
        c = sqrt(less * m * (m - 1) / (1 - sum(w * w for w in weights)))
        self._factors = [c * w for w in weights]

    def __len__(self) -> int:
        return len(self._factors)

    def __getitem__(self, j):  # type: ignore[no-untyped-def]
        if isinstance(j, slice):
            return [self[i] for i in range(*j.indices(len(self)))]
        return self._factors[j] * (self._gradients[j] - self._mean) + self._mean


class _Crossed(Sequence[Vector]):
    """±a, one number with one degree of freedom, so that the squared error of its mean is the rest of T."""

    def __init__(
        self, step: Step, now: Sequence[MicroBatch], after: Sequence[MicroBatch], weight: float
    ) -> None:
        self._step, self._batches = step, (now, after)
        contrast, mean = _factors(now, after)
        self._contrast, self._mean = weight * contrast, weight * mean

    def __len__(self) -> int:
        return 2

    def __getitem__(self, j):  # type: ignore[no-untyped-def]
        if isinstance(j, slice):
            return [self[i] for i in range(*j.indices(2))]
        if j > 1:
            raise IndexError(j)  # ends an iteration
        (a, b, *_), (c, d, *_) = self._batches
        sign, ops = 1 - 2 * j, array_ops(a.update)
        product = ops.scaled(b.update - a.update, self._contrast * sign) * (c.gradient - d.gradient)
        if not self._mean:
            return product
        return product + ops.scaled(b.update - a.update, self._mean * sign) * self._step.next_gradient


def _factors(now: Sequence[MicroBatch], after: Sequence[MicroBatch]) -> tuple[float, float]:
    """The factors of the contrast and of the mean of the next gradients, times the difference of two updates.

    The contrasts of the notes are ``h = (g_1 - g_2) √(w_1 w_2 / (w_1 + w_2))`` and
    ``J h = (Δ^{(−2)} - Δ^{(−1)}) √((1 - w_1)(1 - w_2) / (w_1 + w_2))``.
    """
    m = len(now)
    if _weigh_the_same([*now, *after]):
        return sqrt(2 * m / (m - 1) - 1) * (m - 1) / (2 * m), 0.0
    weights, (c, d, *_) = _fractions(now), _fractions(after)
    a, b, *_ = weights
    odds = [w / (1 - w) for w in weights]
    total, squares = sum(odds), sum(r * r for r in odds)
    difference = sqrt((1 - a) * (1 - b) / (a + b))
    contrast = sqrt((2 * (total**2 - squares) - 1) * c * d / (c + d))
    uneven = max(total + squares - total**2, 0.0)  # ≥ 0 but for rounding
    return difference * contrast, difference * sqrt(uneven)


def _weigh_the_same(parts: Sequence[MicroBatch]) -> bool:
    return len({part.weight for part in parts}) == 1


def _fractions(parts: Sequence[MicroBatch]) -> list[float]:
    total = sum(part.weight for part in parts)
    return [part.weight / total for part in parts]
