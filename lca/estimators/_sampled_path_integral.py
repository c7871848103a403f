"""`SampledPathIntegral`: the path integral from samples, shared by the steps that meet at a node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import ClassVar, Literal, Self, TypeAlias

from lca._numbers import check_seed, use_python_numbers
from lca._schedules import doubles
from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators._audits import LONGEST, PART, RuleBySize
from lca.estimators._integral import integrate
from lca.estimators._minibatch import check_rule
from lca.estimators._path import GradientAt, Path, Point
from lca.estimators._replicates import SampledNode
from lca.estimators._sampling import Sample, Sampler, Sampling, check_sampled, check_sampling
from lca.estimators._stochastic import check_required_fields
from lca.objective import Evaluation, Objective, Scored, evaluate_each
from lca.quadrature import SIMPSON, TRAPEZOID, QuadratureRule
from lca.step import ExampleScores, Step

EARLIEST = 8
"""Steps after which ``refresh="doubling"`` measures the errors of all examples for the first time."""
Draw: TypeAlias = Callable[[], list[Sample]]
"""Draws the samples of one node: an independent one for each micro-batch."""


@dataclass(frozen=True)
class SampledPathIntegral:
    """``A = Δ_t ∘ Σ_k w_k g_{S_k}(θ_t + c_k Δ_t)``: the path integral from samples of the data.

    Each node has a sample S_k of its own, drawn independently of the training batches; the sample at θ_{t+1}
    serves both steps that meet there. Unbiased up to the rule's degree, for any optimizer and any order of
    the training batches.

    Where the state moved between two steps (`Step.state`: running statistics, spectral norms), each of
    them is measured in its own, and the second one takes a sample of its own at its start, too.

    Parameters
    ----------
    rule
        Any `lca.QuadratureRule`; the trapezoid costs one sample a step.
    size
        Examples in a sample, over all micro-batches.
    sampling
        ``"uniform"``: all examples alike. ``"importance"``: by their error, ``p_n ∝ 1 - p_model(label)``,
        since late in training most examples have almost no gradient. ``"stratified"``: by their error, and
        spread evenly over classes and errors. The errors are those of training (`Step.scores`), up to an
        epoch old and averaged over epochs.
    micro_batches
        The number of independent samples that ``size`` is divided into. From 2 on there are error bars, with
        4 much narrower ones for single steps, as the spread of two samples says little about their error.
    floor
        The uniform part of the probability, in (0, 1].
    refresh
        When to measure the errors of all examples, each time at the cost of one forward pass over the data.
        ``n``: every n steps, instead of using those of training. ``"doubling"``: also use those of training,
        and measure after 8, 16, 32, ... steps, because errors change fast at the beginning.
    refine
        For the trapezoid: use Simpson's rule instead, at one more sample, on steps that are too large for
        the trapezoid. ``0.03``: where its error exceeds 3 % of ``|g·Δ|`` at the ends of the step, as audits
        have shown on this step or earlier ones of its length. An audit takes a quarter of a sample to both
        ends of a step, every 1 to 16 steps of one size, and on a step that is a quarter longer than those
        audited in the last 16. In the long run a step costs 1.03 samples if all steps are small and of one
        length, 1.1 if their lengths vary by half, and 2.03 if all are large. Audits do not test Simpson's
        rule.
    seed
        Seed of the samples, a whole number ≥ 0. The samples follow from the seed and the number of the first
        step: two runs that begin at step 0 with one seed draw the same samples, and their errors do not
        average out. For one training use one tracker, entered again for each part, or another seed in each.

    Notes
    -----
    Error bars show the sampling error, not the error of the rule: on large steps, such as the first ones of a
    convolutional network, the trapezoid of samples is as far off as that of all data. Use ``refine`` or
    ``SIMPSON`` there. With ``refine`` the bars leave out what audits let pass: up to that part of the slope
    of the whole step, of which single layers may miss more, and a curvature that rises between two audits.

    Memory: the vectors (K,) of the micro-batches at two nodes and their means; in torch 4 to 5 beyond
    training with one sample, 12 with four. `StepAllocation.replicates` are formed on demand.

    Raises
    ------
    LCAError
        If a parameter is out of range, or the objective is not `lca.objective.Sampled`.
    IncompleteStepError
        If a step lacks ``scores`` where they are required.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> objective = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    >>> step = Step(np.zeros(6), np.full(6, 0.1))
    >>> a = SampledPathIntegral(size=8, micro_batches=2).start(objective)(step)
    >>> a.cost.examples, len(a.replicates[0.0])
    (16.0, 2)
    """

    rule: QuadratureRule = TRAPEZOID
    size: int = 256
    sampling: Sampling = "uniform"
    micro_batches: int = 1
    floor: float = 0.2
    refresh: int | Literal["doubling"] | None = None
    refine: float | None = None
    seed: int = 0
    target: ClassVar[str] = "probe"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "only the error of the rule"

    def __post_init__(self) -> None:
        use_python_numbers(self)
        check_rule(self.rule, "SampledPathIntegral")
        check_sampling(self.sampling, self.floor)
        check_seed(self.seed)
        if not isinstance(self.micro_batches, int) or self.micro_batches < 1:
            raise LCAError(f"micro_batches must be a whole number ≥ 1, got {self.micro_batches!r}.")
        if not isinstance(self.size, int) or self.size < 1 or self.size % self.micro_batches:
            raise LCAError(
                f"size must be a positive multiple of micro_batches = {self.micro_batches}, got "
                f"{self.size!r}."
            )
        every = self.refresh
        if every not in (None, "doubling") and (type(every) is not int or every < 1):
            raise LCAError(f"refresh must be a whole number of steps ≥ 1, 'doubling' or None, got {every!r}.")
        if self.refresh is not None and self.sampling == "uniform":
            raise LCAError(
                "refresh= measures errors, which uniform sampling does not use; choose "
                "sampling='importance' or 'stratified', or omit refresh."
            )
        limit = self.refine
        if limit is not None and not (self.rule == TRAPEZOID and type(limit) is float and 0 < limit < 1):
            raise LCAError(
                f"refine={limit!r} with the rule {self.rule.name!r}: refine is the relative error of the "
                "trapezoid above which Simpson's rule is used; pass a float in (0, 1), e.g. 0.03, and "
                "rule=TRAPEZOID."
            )

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """A sample for each new node of a step, and forward passes of ``refresh=n``.

        One more where the state moves. With ``refine`` that of a long run whose steps are all small and of
        one length: one node a step, and rare audits.
        """
        audits = 0.0 if self.refine is None else self.audit_examples / LONGEST
        return Cost(
            examples=self.size * self.rule.new_gradients + audits,
            full_losses=1 / self.refresh if isinstance(self.refresh, int) else 0.0,
        )

    @property
    def largest_cost(self) -> Cost:
        """Adds Simpson's rule and an audit with ``refine``, a forward pass over all data with ``refresh``."""
        refined = self.refine is not None
        nodes = SIMPSON.new_gradients if refined else self.rule.new_gradients
        return Cost(
            examples=self.size * nodes + (self.audit_examples if refined else 0),
            full_losses=1.0 if self.refresh else 0.0,
        )

    @property
    def audit_examples(self) -> int:
        """Gradients of single examples in an audit, at both ends of a step."""
        return 2 * max(self.size // PART, 1)

    @property
    def vectors(self) -> int:
        """The gradients of the micro-batches at each node, with their replicates and means."""
        nodes, m = len(self.rule.nodes) if self.refine is None else 3, self.micro_batches
        return 7 if m == 1 else (2 * nodes - 1) * m + nodes + 5

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The errors of the training batch, if samples are drawn by them."""
        measured = self.sampling == "uniform" or isinstance(self.refresh, int)
        return () if measured else ("scores",)

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other samples."""
        return replace(self, seed=seed)

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return SampledRun(self, objective, SampleMean)


def sampled_node(gradients: list[Vector], point: Point, *, exact: bool = False) -> Evaluation:
    """The mean of independent gradients at a point, with the single ones if there are several.

    ``exact``: they are those of parts of all the data, so that their mean has no sampling error.
    """
    first, *rest = gradients
    if not rest:
        return Evaluation(nan, first)
    ops, mean = array_ops(first), first * (1 / len(gradients))
    for gradient in rest:
        mean = ops.add_scaled(mean, 1 / len(gradients), gradient)
    if exact:
        return SampledNode(nan, mean, gradients=[mean] * len(gradients), time=point.time, parts=gradients)
    return SampledNode(nan, mean, gradients=gradients, time=point.time)


def gradient_on(objective: Objective, theta: Vector, sample: Sample) -> Vector:
    """``factor · g_batch(θ)``, which is unbiased.

    Parameters
    ----------
    objective
        The sampled loss.
    theta
        The parameters (K,).
    sample
        A sample of the data, with the factor that makes its gradient unbiased.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> [sample] = Sampler(loss, "uniform", floor=1.0, seed=0).draw([4])
    >>> gradient_on(loss, np.zeros(9), sample).shape
    (9,)
    """
    return gradients_on(objective, theta, [sample])[0]


def gradients_on(objective: Objective, theta: Vector, samples: Sequence[Sample]) -> list[Vector]:
    """`gradient_on` each of several samples, at once where the objective can do that."""
    ops, found = array_ops(theta), evaluate_each(objective, theta, [sample.batch for sample in samples])
    return [
        one.grad if sample.factor == 1 else ops.scaled(one.grad, sample.factor)
        for one, sample in zip(found, samples, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class SampleMean:
    """The gradient on new samples (`GradientAt`)."""

    draw: Draw

    def __call__(self, objective: Objective, point: Point) -> tuple[Evaluation, Cost]:
        samples = self.draw()
        gradients = gradients_on(objective, point.theta, samples)
        node = sampled_node(gradients, point, exact=samples[0].part)
        return node, Cost(examples=float(sum(sample.size for sample in samples)))


class SampledRun:
    """One run of a `SampledPathIntegral`, with any way to evaluate gradients on its samples.

    ``size`` may be changed between steps. With ``exact_at_most`` a sample as large as the data is all of
    them, each once.
    """

    exact_at_most = False

    def __init__(
        self, probe: SampledPathIntegral, objective: Objective, gradients: Callable[[Draw], GradientAt]
    ) -> None:
        self.probe, self.size = probe, probe.size
        self._objective = check_sampled(objective)
        self._path = Path(objective, gradients(self._draw), sampled=True)
        self._sampler = Sampler(objective, probe.sampling, probe.floor, probe.seed)
        self._chosen = RuleBySize(probe.rule, probe.refine)
        self._steps = 0
        self._begun = False

    def __call__(self, step: Step) -> StepAllocation:
        if not self._begun:
            self._sampler.begin(step.index)
            self._begun = True
        segment = self._path.segment(step)
        segment.cost += self._learn(step)
        self._chosen.begin(step)
        if self._chosen.due():
            [sample] = self._sampler.draw([max(self.size // PART, 1)])
            segment.cost += self._chosen.audit(segment.objective, step, sample)
        return integrate(segment, self._chosen.rule).allocation()

    def _draw(self) -> list[Sample]:
        m, n = self.probe.micro_batches, self._objective.n_examples
        if self.exact_at_most and self.size >= n and len(self._sampler.weighted) >= m:
            return self._sampler.split(m)
        return self._sampler.draw([self.size // m] * m)

    def _learn(self, step: Step) -> Cost:
        """Update the errors of examples: from training, and from all data when that is due."""
        probe = self.probe
        if probe.sampling == "uniform":
            return Cost()
        due, self._steps = _is_due(probe.refresh, self._steps), self._steps + 1
        if probe.required_fields:
            name = f"SampledPathIntegral(sampling={probe.sampling!r})"
            check_required_fields(step, probe.required_fields, name)
            assert step.scores is not None
            self._sampler.learn(step.scores)
        return self._measure_scores(step.start) if due else Cost()

    def _measure_scores(self, theta: Vector) -> Cost:
        if not isinstance(self._objective, Scored):
            raise LCAError(
                f"refresh={self.probe.refresh!r} requires an objective with the errors of its examples "
                f"(lca.objective.Scored), which {type(self._objective).__name__} is not; use the scores of "
                "training (refresh=None) or sampling='uniform'."
            )
        self._sampler.restart(ExampleScores(self._sampler.everything, self._objective.scores(theta)))
        return Cost(full_losses=1)


def _is_due(refresh: int | str | None, steps: int) -> bool:
    """Whether the errors of all examples are measured after ``steps`` steps."""
    if isinstance(refresh, int):
        return steps % refresh == 0
    return refresh == "doubling" and steps >= EARLIEST and doubles(steps)
