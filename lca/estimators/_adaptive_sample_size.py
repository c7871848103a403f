"""`AdaptiveSampleSize`: chooses the size of samples during the run, to meet a cost or a standard error."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, nextafter, sqrt
from typing import ClassVar, Self

import numpy as np

from lca._numbers import use_python_numbers
from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators._control_variate import ControlVariate
from lca.estimators._sampled_path_integral import SampledPathIntegral, SampledRun
from lca.estimators._sampling import check_sampled
from lca.groups import Groups
from lca.layout import Grouping, Layout
from lca.objective import Objective
from lca.quadrature import SIMPSON
from lca.step import Step

Array = np.ndarray
MEMORY = 10
"""Steps over which the variance of an example is averaged."""
MARGIN = 0.9
"""The part of the error asked for that is aimed at, as variances are known with an error themselves."""
GROWTH = 0.5
"""The part of the growth of the allowed variance that the next step may use."""
FEWEST_LEFT = 30
"""The least number of steps that the rest of the allowed variance has to last for."""
SHRINK = 0.7
"""The least ratio of a sample to the one before, as few samples say little about their variance."""
PRIOR = 4
"""Steps that count as much as the variance known from all the data, when the first samples are drawn."""
LEARN = 3
"""Of this many steps that need all the data, one is measured on half of them if the budget allows it, because
only samples show their variance."""
WHOLE = 0.6
"""The part of the data above which a sample is replaced by all of them, which have no sampling error."""


@dataclass(frozen=True)
class AdaptiveSampleSize:
    """A `SampledPathIntegral` or `ControlVariate` whose samples are sized to meet a cost or a standard error.

    Parameters
    ----------
    probe
        Rule, sampling, micro-batches and seed; its ``size`` is the smallest one for ``relative_error``.
    examples
        The cost: gradients of single examples a step, on average; 250 doubles the cost of training on batches
        of 250. With ``refresh=n`` the forward passes are paid first, three for one gradient. A
        `SampledPathIntegral` spends the rest c on samples, a `ControlVariate` half of it on full gradients,
        one every ``2 N / c`` steps, and half on pairs of samples: the best split where the variance grows in
        proportion to the distance from the anchor. Samples hold whole examples in each micro-batch, so a part
        of a small budget may be left; ``reason`` says what was spent. The few passes of
        ``refresh="doubling"`` are not part of it.
    relative_error
        The error: the largest standard error of the sum of a group over the run so far, relative to the
        largest loss change so far. The variance that it allows grows as the loss changes. Each step may use
        half of the growth and its part of what is left, which has to last for half as many steps again as
        there were. Its size follows from the recent variance of an example; where it is 60 % of the data or
        more all of them are taken, which have no sampling error, as at the first step. Exactly one of
        ``examples`` and ``relative_error`` must be given.
    groups
        For ``relative_error``: the groups whose sums are meant: ``"layer"``, or anything else that
        `lca.Layout.groups` takes or returns.
    largest
        For ``relative_error``: the largest sample, in multiples of the smallest; ``None``: all the data. With
        it, the error may be missed.

    Notes
    -----
    ``reason`` of every allocation states the cost and the error so far, and ``converged`` whether
    ``relative_error`` is met at that moment. A size depends on earlier samples only, so the values stay
    unbiased.

    *Rare examples.* Where few examples have most of the variance, samples are small just where the last ones
    missed these, and intervals are too narrow: with 2 of 152 examples in the second class, a smallest sample
    of 8 in four micro-batches and ``relative_error=0.05``, those of runs of 20 steps covered 86 % (fixed
    samples of 8: 92 %), and 95 % with a smallest sample of 32.

    *Short runs* take most of their examples at first, when no variance is known: for 5 %, 20 steps took 49 of
    152 examples a step where fixed samples of 8 would have done; 200 steps took 26, as many as fixed samples
    of 16 to 20.

    Raises
    ------
    LCAError
        If not exactly one target is given, ``relative_error`` is given without ``groups``, with a single
        micro-batch or more of them than there are examples, or ``examples`` is too small for one example a
        sample.

    Examples
    --------
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> objective = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    >>> allocate_step = AdaptiveSampleSize(SampledPathIntegral(), examples=10).start(objective)
    >>> allocate_step(Step(np.zeros(6), np.full(6, 0.1), 0)).cost.examples  # both ends
    4.0
    >>> allocate_step(Step(np.full(6, 0.1), np.full(6, 0.2), 1)).reason
    '3.0 examples a step so far, 10 asked for'
    """

    probe: SampledPathIntegral | ControlVariate
    examples: float | None = None
    relative_error: float | None = None
    groups: Groups | Grouping | None = None
    largest: int | None = None
    target: ClassVar[str] = "probe"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = SampledPathIntegral.bias

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if not isinstance(self.probe, SampledPathIntegral | ControlVariate):
            raise LCAError(
                f"AdaptiveSampleSize needs a SampledPathIntegral or ControlVariate, got {self.probe!r}."
            )
        if (self.examples is None) == (self.relative_error is None):
            raise LCAError(
                "AdaptiveSampleSize needs one target: examples=... (a cost) or relative_error=... (an error)."
            )
        target = self.relative_error if self.examples is None else self.examples
        if not 0 < target < inf:  # type: ignore[operator]
            raise LCAError(
                f"the target of an AdaptiveSampleSize must be a finite number > 0, got {target!r}."
            )
        if self.relative_error and (self.groups is None or _inner(self.probe).micro_batches < 2):
            raise LCAError(
                "relative_error limits the errors of sums over groups of parameters, so it needs "
                "groups=..., and a probe with micro_batches=2 or more, as one sample has no spread."
            )
        if self.largest is not None and (not isinstance(self.largest, int) or self.largest < 1):
            raise LCAError(f"largest must be a whole number ≥ 1 or None, got {self.largest!r}.")

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.probe.degree

    @property
    def vectors(self) -> int:
        """The number of vectors that the samples need."""
        return self.probe.vectors

    @property
    def cost(self) -> Cost:
        """The cost asked for; for ``relative_error`` that of the smallest samples."""
        return self.probe.cost if self.examples is None else Cost(examples=self.examples)

    @property
    def largest_cost(self) -> Cost:
        """The cost of the largest samples; all the data at every node, unless ``largest`` is given."""
        if self.examples is None and self.largest is not None:
            return _sized(self.probe, _inner(self.probe).size * self.largest).largest_cost
        inner = _inner(self.probe)
        nodes = self.probe.rule.new_gradients if inner.refine is None else SIMPSON.new_gradients + 1
        both = 2 if isinstance(self.probe, ControlVariate) else 1
        return Cost(full_gradients=both * nodes + (both > 1), full_losses=1.0 if inner.refresh else 0.0)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The fields that ``probe`` requires."""
        return self.probe.required_fields

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other samples."""
        return replace(self, probe=self.probe.reseeded(seed))

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        n = check_sampled(objective).n_examples
        m = _inner(self.probe).micro_batches
        if self.examples is None and n < m:
            raise LCAError(
                f"relative_error measures some steps on all the data, split into {m} micro-batches, but "
                f"there are only {n} examples; use fewer micro-batches, or an estimator on all data "
                "(lca.Adaptive)."
            )
        probe = self.probe if self.examples is None else affordable(self.probe, self.examples, n)
        run = probe.start(objective)
        assert isinstance(run, SampledRun)
        run.exact_at_most = True
        if self.examples is None:
            return _Controlled(self, run, objective.layout, n)
        return _Spending(self.examples, run, probe.cost, n)


def affordable(
    probe: SampledPathIntegral | ControlVariate, examples: float, n: int
) -> SampledPathIntegral | ControlVariate:
    """``probe`` with the largest samples, and the best period of anchors, for ``examples`` a step."""
    inner = _inner(probe)
    m, passes = inner.micro_batches, _in_examples(Cost(full_losses=inner.cost.full_losses), n)
    left, least, parts = examples - passes, _sized(probe, m), 1
    if isinstance(least, ControlVariate):  # anchors get one half of what is left, samples the other
        least, parts = replace(least, every=ceil(2 * n / max(left, 1))), 2
    sample, anchors = least.cost.examples, n * least.cost.full_gradients
    size = int((left - anchors) / sample) * m if sample else m
    if size < m:
        raise LCAError(
            f"examples={examples:g} a step is not enough for one example in each sample of {probe!r} on {n} "
            f"examples; ask for {ceil(passes + parts * sample)} or more."
        )
    return _sized(least, size)


def _inner(probe: SampledPathIntegral | ControlVariate) -> SampledPathIntegral:
    return probe.probe if isinstance(probe, ControlVariate) else probe


def _sized(probe: SampledPathIntegral | ControlVariate, size: int) -> SampledPathIntegral | ControlVariate:
    if isinstance(probe, ControlVariate):
        return replace(probe, probe=replace(probe.probe, size=size))
    return replace(probe, size=size)


def _in_examples(cost: Cost, n: int) -> float:
    """Cost in gradients of single examples; a forward pass counts a third of a gradient."""
    return cost.examples + n * (cost.full_gradients + cost.full_losses / 3)


class _Spending:
    """One run at a given cost.

    The samples in a step may depend on the steps: with ``refine``, and where a step does not begin where, or
    in the state in which, the one before ended. Their size then follows what the steps before cost.
    """

    def __init__(self, target: float, run: SampledRun, cost: Cost, n: int) -> None:
        self._target, self._run, self._n = target, run, n
        self._for_samples = target - _in_examples(replace(cost, examples=0.0), n)
        self._spent, self._steps = 0.0, 0
        self._drawn, self._sizes = 0.0, 0  # sums over all steps
        self._follows = run.probe.refine is not None

    def __call__(self, step: Step) -> StepAllocation:
        if self._drawn and self._follows:
            m = self._run.probe.micro_batches
            self._run.size = max(int(self._for_samples * self._sizes / self._drawn / m), 1) * m
        self._sizes += self._run.size
        a = self._run(step)
        self._drawn += a.cost.examples
        self._follows |= self._steps > 0 and a.start_cost != Cost()
        self._spent += _in_examples(a.cost, self._n)
        self._steps += 1
        spent = self._spent / self._steps
        reason = f"{spent:.1f} examples a step so far, {self._target:g} asked for"
        return replace(a, reason=reason)


class _Controlled:
    """One run at a given error: keeps the variance of the sum of every group below its limit."""

    def __init__(self, budget: AdaptiveSampleSize, run: SampledRun, layout: Layout, n: int) -> None:
        assert budget.groups is not None
        assert budget.relative_error is not None
        by, self._limit = budget.groups, budget.relative_error
        self._groups = by if isinstance(by, Groups) else layout.groups(by)
        self._run, probe = run, _inner(budget.probe)
        self._least, self._micro_batches, self._all = probe.size, probe.micro_batches, n
        self._most = n if budget.largest is None else probe.size * budget.largest
        groups = len(self._groups)
        self._open: dict[float, Array] = {}  # replicates of nodes that a later step may share
        self._samples: dict[float, tuple[Array, int]] = {}  # of samples at these nodes, and their size
        self._closed = np.zeros(groups)  # variance of the nodes that no later step shares
        self._example = np.zeros(groups)  # recent variance of a sum, if each node of a step has one example
        self._nodes = self._drawn = 0  # steps whose variance is known; those of them with no exact node
        self._whole = 0  # steps at which all the data were wanted
        self._change, self._largest = 0.0, 0.0
        self._allowed = 0.0  # variance that the last step was allowed to leave

    def __call__(self, step: Step) -> StepAllocation:
        self._run.size = self._next_size()
        a = self._run(step)
        self._take_in(a)
        error = sqrt(self._variance().max())
        relative = error / self._largest if self._largest else inf if error else 0.0
        what = "all examples" if self._run.size >= self._all else f"samples of {self._run.size}"
        reason = (
            f"{what}; largest standard error {100 * relative:.2g} % of the loss change so far, "
            f"{100 * self._limit:g} % asked for"
        )
        return replace(a, reason=reason, converged=relative <= self._limit, tolerance=None)

    def _take_in(self, a: StepAllocation) -> None:
        self._change += array_ops(a.values).total(a.values)
        self._largest = max(self._largest, abs(self._change))
        rows = {key: self._sums(replicates) for key, replicates in a.replicates.items()}
        for key in [key for key in self._open if key not in rows]:
            self._closed += _variance_of_mean(self._open.pop(key))
            self._samples.pop(key, None)
        size = min(self._run.size, self._all)
        ends, known, inside = np.zeros(len(self._groups)), 0, np.zeros(len(self._groups))
        drawn = True
        for key, row in rows.items():
            samples = getattr(a.replicates[key], "samples", None)
            seen = row if samples is None or samples is a.replicates[key] else self._sums(samples)
            if key in self._open:  # both steps of the node are known, and so is its variance
                self._open[key] = self._open[key] + row
                first, own = self._samples.pop(key)
                inside += _variance_of_mean(first + seen) * own
                known, drawn = known + 1, drawn and seen is row
                continue
            self._open[key] = row
            if a.step < key < nextafter(a.step + 1, -inf) and key != nextafter(a.step, inf):
                inside += _variance_of_mean(seen) * size  # no other step shares the node
                drawn &= seen is row
            else:  # two steps share a node, so it has up to four times the variance
                self._samples[key] = seen, size
                ends = np.maximum(ends, 4 * _variance_of_mean(seen) * size)
        if known or not self._samples:
            self._learn(inside, drawn=drawn)
        elif not self._nodes:
            self._example = np.maximum(self._example, ends + inside)

    def _sums(self, replicates: Sequence[Vector]) -> Array:
        return np.array([self._groups.total(replicate) for replicate in replicates])

    def _learn(self, example: Array, *, drawn: bool) -> None:
        """Take in the variance of an example at the nodes of a step; parts of all data spread less evenly."""
        self._nodes += 1
        self._drawn += drawn
        if drawn or not self._drawn:
            known = PRIOR + self._drawn if drawn else self._nodes
            self._example += (example - self._example) / min(known, MEMORY)

    def _variance(self) -> Array:
        return self._closed + sum(map(_variance_of_mean, self._open.values()))

    def _next_size(self) -> int:
        """The smallest sample whose variance is not above its part of the allowed one, for every group."""
        before, self._allowed = self._allowed, (MARGIN * self._limit * self._largest) ** 2
        left = self._allowed - self._variance()
        if not (left > 0).all():  # what the margin keeps back
            left = (self._limit * self._largest) ** 2 - self._variance()
        if not self._largest or not (left > 0).all():
            return min(self._all, self._most)
        part = GROWTH * (self._allowed - before) + left / max(self._nodes / 2, FEWEST_LEFT)
        wanted = max(float((self._example / part).max()), self._least, SHRINK * self._run.size)
        if wanted >= WHOLE * self._all:
            self._whole += 1
            wanted = self._all / 2
            if self._whole % LEARN or not (self._example / wanted <= left / 2).all():
                return min(self._all, self._most)
        m = self._micro_batches
        return min(ceil(wanted / m) * m, self._all, self._most)


def _variance_of_mean(replicates: Array) -> Array:
    variance: Array = replicates.var(axis=0, ddof=1) / len(replicates)
    return variance
