"""`LaggedCrossFit`: the update that the gradients of earlier batches would have made, judged by this one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lca._numbers import check_seed, use_python_numbers
from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators._checks import check_trained
from lca.estimators._crossfit import CrossFit
from lca.estimators._integral import Integral, integrate
from lca.estimators._minibatch import training_gradient
from lca.estimators._path import GradientAt, Path, Segment, full_gradient
from lca.estimators._sampled_path_integral import SampleMean
from lca.estimators._sampling import Sampler
from lca.estimators._stochastic import check_required_fields
from lca.objective import Objective, Sampled
from lca.quadrature import SIMPSON, TRAPEZOID
from lca.step import Step

WEIGHTS = (4 / 3, 1 / 3, -2 / 3)
"""Weights of the last three gradients: the value at lag 0 of the line of least squares through them."""
LARGEST = 0.25
"""Largest part of the sum so far that may be in doubt."""


@dataclass(frozen=True)
class LaggedCrossFit:
    """Cross-fitting without micro-batches: no further gradient, and no change to the training loop.

    In the update ``Δ_t = b_t + C_t ∘ g_t`` only the last term shares the noise of the training gradient g_t
    (C_t is `lca.Step.update_slope`). There g_t is replaced by an extrapolation of the three gradients before,
    the line of least squares through them at lag 0:

    ``A = ½ (g_t ∘ (b_t + C_t ∘ g̃_t) + g_{t+1} ∘ Δ_t)``, ``g̃_t = (4 g_{t-1} + g_{t-2} - 2 g_{t-3}) / 3``.

    Parameters
    ----------
    epoch
        As in `CrossFit`.
    first_examples
        The first three steps of a run, and every step that does not follow three measured ones, have no
        earlier gradients. They are measured with Simpson's rule on samples of this many examples of the data,
        or on all of them if there are no more, or if the objective is not `lca.objective.Sampled` or refuses
        to draw examples, as one does that weighs its batches by tokens.
    seed
        Seed of those samples, a whole number ≥ 0.

    Notes
    -----
    Cost a step: element-wise operations; no gradient, but for the first three steps, which take two each, and
    one at the start. So measure every step (``every=1``): steps with a gap between them are all first ones.
    Memory: three earlier gradients, and with Adam C (K,). The loss allocated is that of training: dropout,
    batch statistics and penalties included; at the first three steps the measured one.

    *Bias.* The extrapolation takes the gradient of the loss to change evenly over four steps. With Adam and
    small learning rates it does, and this is nearly as good as two micro-batches; with momentum it is worse,
    and for plain SGD at large learning rates, where the gradient swings to and fro, useless. ``converged`` is
    false, with a ``reason``, while more than a quarter of the sum so far is in doubt: the part that comes
    from extrapolating ``g_{t-1}`` to ``g̃_t``, and the part in which g_t and ``g_{t-1}`` have opposite signs.
    That finds the worst cases only, so compare the sum with the measured loss change, as every tracker does.
    There are no error bars. Batches must be in random order (`NextBatch`).

    Raises
    ------
    LCAError
        If a parameter is out of range.
    IncompleteStepError
        If a step lacks one of ``required_fields``.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import bowl
    >>> allocate_step, theta, found = LaggedCrossFit().start(bowl(1)), np.array([4.0]), []
    >>> for t in range(4):  # 4, 3, 2, 1, 0: the gradient, which is θ, changes evenly
    ...     end = theta - 1
    ...     step = Step(theta, end, t, gradient=theta, next_gradient=end, update_slope=-0.1)
    ...     found.append(allocate_step(step).values.round(6).tolist())
    ...     theta = end
    >>> found  # ½ (end² - start²)
    [[-3.5], [-2.5], [-1.5], [-0.5]]
    """

    epoch: int | None = None
    first_examples: int = 1024
    seed: int = 0
    target: ClassVar[str] = "batch"
    vectors: ClassVar[int] = 8
    degree: ClassVar[int] = TRAPEZOID.degree
    cost: ClassVar[Cost] = Cost()
    largest_cost: ClassVar[Cost] = Cost(full_gradients=2)  # a first step that takes all of the data
    unbiased: ClassVar[bool] = False
    required_fields: ClassVar[tuple[str, ...]] = ("gradient", "update_slope", "next_gradient")
    bias: ClassVar[str] = "uneven change of the gradient over four steps; large with SGD"
    citation: ClassVar[str] = CrossFit.citation

    def __post_init__(self) -> None:
        use_python_numbers(self)
        CrossFit(epoch=self.epoch)  # checks it
        check_seed(self.seed)
        if not isinstance(self.first_examples, int) or self.first_examples < 1:
            raise LCAError(f"first_examples must be a whole number ≥ 1, got {self.first_examples!r}.")

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other samples at the first steps."""
        return replace(self, seed=seed)

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return _LaggedRun(self, objective)

    def first_gradient(self, objective: Objective, step: int = 0) -> GradientAt:
        """Where the gradients of the first steps come from, in a run that begins at this step."""
        if not _draws_more_than(self.first_examples, objective):
            return full_gradient
        sampler = Sampler(objective, "uniform", floor=1.0, seed=self.seed)
        sampler.begin(step)
        return SampleMean(lambda: sampler.draw([self.first_examples]))


def _draws_more_than(n: int, objective: Objective) -> bool:
    """Whether more than ``n`` examples can be drawn from the data of the objective."""
    try:
        return isinstance(objective, Sampled) and objective.n_examples > n
    except LCAError:  # its loss is no mean over examples
        return False


class _LaggedRun:
    """One run: keeps the gradients of the last three steps."""

    def __init__(self, estimator: LaggedCrossFit, objective: Objective) -> None:
        self._estimator, self._objective = estimator, objective
        self._path = Path(objective, training_gradient, sampled=True, reuse_ends=False)
        self._first: Path | None = None  # of the first steps
        self._earlier: list[Vector] = []  # the last one first
        self._end: object = None  # where the last step ended, as a snapshot
        self._index = 0
        self._names: frozenset[str] = frozenset()
        self._sum = 0.0
        self._last_part = self._lagged_part = 0.0  # Σ ½ C g_t g_{t-1}, and of the extrapolated gradient

    def __call__(self, step: Step) -> StepAllocation:
        check_required_fields(step, self._estimator.required_fields, "LaggedCrossFit")
        if self._first is None:
            gradient = self._estimator.first_gradient(self._objective, step.index)
            self._first = Path(self._objective, gradient, sampled=True)
        segment = self._path.segment(step)
        check_trained(step, segment.untrained)
        earlier = self._before(step, segment.names)
        self._earlier = [step.gradient, *earlier[: len(WEIGHTS) - 1]]
        self._end = array_ops(step.end).snapshot(step.end)
        self._index, self._names = step.index, segment.names
        if len(earlier) < len(WEIGHTS):
            found = integrate(self._first.segment(step), SIMPSON).allocation()
            self._sum += segment.ops.total(found.values)
            return found
        self._first.forget()
        return self._lagged(segment, earlier)

    def _before(self, step: Step, names: frozenset[str]) -> list[Vector]:
        """The gradients of the steps that led here without a gap, with all that is trained now."""
        follows = (
            self._earlier
            and step.index == self._index + 1
            and names <= self._names
            and array_ops(step.start).unchanged(self._end, step.start)
        )
        return self._earlier if follows else []

    def _lagged(self, segment: Segment, earlier: Sequence[Vector]) -> StepAllocation:
        step, (left, right) = segment.step, TRAPEZOID.weights
        slope: Any = step.update_slope
        own = 1 / self._estimator.epoch if self._estimator.epoch else 0.0
        lagged = extrapolated(earlier)
        integral = Integral(segment)
        update = (step.end - step.start) + slope * (lagged - step.gradient)
        integral.add_product(left - own, step.gradient, update)
        if own:
            integral.add(own, segment.start)
        integral.add(right, segment.end)
        weighted = (left - own) * slope * step.gradient
        self._last_part += segment.ops.total(weighted * earlier[0])
        self._lagged_part += segment.ops.total(weighted * lagged)
        return self._judged(integral.allocation())

    def _judged(self, a: StepAllocation) -> StepAllocation:
        """The allocation, flagged if the sum depends too much on how the gradient is extrapolated."""
        self._sum += array_ops(a.values).total(a.values)
        doubt = abs(self._lagged_part - self._last_part) + max(self._last_part, 0.0)
        if doubt <= LARGEST * abs(self._sum):
            return a
        reason = (
            "the gradients of the last steps differ too much from each other to be extrapolated: "
            f"{doubt:.2g} of a sum of {self._sum:.2g} so far is in doubt; use CrossFit with micro-batches or "
            "own_pass=True, or a SampledPathIntegral"
        )
        return replace(a, converged=False, reason=reason)


def extrapolated(earlier: Sequence[Vector]) -> Vector:
    """The gradient at lag 0 (K,), a new vector, from those at lags 1, 2 and 3.

    >>> import numpy as np
    >>> extrapolated([np.array([3.0]), np.array([4.0]), np.array([5.0])]).round(6)
    array([2.])
    """
    ops, (first, *rest) = array_ops(earlier[0]), zip(WEIGHTS, earlier, strict=True)
    total = first[0] * first[1]
    for weight, gradient in rest:
        total = ops.add_scaled(total, weight, gradient)
    return total
