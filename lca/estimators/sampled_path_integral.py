"""`SampledPathIntegral`: gradients on examples drawn for the purpose, shared by the steps on both sides of a node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, nextafter
from typing import ClassVar, Protocol, Self

from lca.allocation import Allocator, Cost, StepAllocation
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators.audits import MOST, RuleByAudit
from lca.estimators.minibatch import check_rule
from lca.estimators.sampling import Sample, Sampler, Sampling, check_sampled, check_sampling
from lca.estimators.stochastic import Shares, Tally, check_required_fields
from lca.objective import Objective, Scored, State, at_state
from lca.quadrature import TRAPEZOID, QuadratureRule
from lca.step import ExampleScores, Step


@dataclass(frozen=True)
class SampledPathIntegral:
    """``A = Δ_t ∘ Σ_k w_k g_{S_k}(θ_t + c_k Δ_t)``: the path integral from samples of the data.

    Each node has a sample S_k of its own, drawn independently of the training batches; the sample at θ_{t+1}
    serves both steps that meet there. Unbiased up to the rule's degree, whatever the optimizer and however
    training batches are drawn.

    Parameters
    ----------
    rule
        Any `lca.QuadratureRule`; the trapezoid costs one sample a step.
    size
        Examples in a sample, over all micro-batches.
    sampling
        ``"uniform"``: all examples alike. ``"importance"``: by their error, ``p_n ∝ 1 - p_model(label)``, as
        late in training most examples have next to no gradient. ``"stratified"``: by their error, and spread
        evenly over classes and errors. The errors are those of training, up to an epoch old (`Step.scores`).
    micro_batches
        Independent samples that ``size`` is divided into. From 2 on there are error bars.
    floor
        Share of the probability that is uniform.
    refresh
        Instead of taking errors from training, measure those of all examples every ``refresh`` steps, for one
        forward pass over the data.
    refine
        With the trapezoid: take Simpson's rule instead, for one sample more a step, as long as steps are too
        large for it. ``0.03``: where its error exceeds 3 % of ``|g·Δ|`` at the ends of the step, as seen on a
        sample that is taken to both ends every 1 to 32 steps. A run begins with Simpson, and returns to the
        trapezoid after six neighbouring steps that pass. In the long run a step costs 1.06 samples if all
        are small, 2.06 if all are large.
    seed
        Of the samples.

    Notes
    -----
    A rule's error is in no error bar: where steps are large, as the first ones of a convolutional network,
    the trapezoid of samples is as far off as that of all data. ``refine`` or ``SIMPSON`` are the remedy.

    Memory: one vector (K,) a micro-batch, and one or two more. The kit's `lca.testing` and `ErrorBars` read
    the replicates, which are made only when asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from lca.reference.models import DatasetLoss, logistic_regression
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
    floor: float = 0.1
    refresh: int | None = None
    refine: float | None = None
    seed: int = 0
    target: ClassVar[str] = "probe"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "none but the rule's"

    def __post_init__(self) -> None:
        check_rule(self.rule, "SampledPathIntegral")
        check_sampling(self.sampling, self.floor)
        if not isinstance(self.micro_batches, int) or self.micro_batches < 1:
            raise LCAError(f"micro_batches must be a whole number ≥ 1, got {self.micro_batches!r}.")
        if not isinstance(self.size, int) or self.size < 1 or self.size % self.micro_batches:
            raise LCAError(
                f"size must be a positive multiple of micro_batches = {self.micro_batches}, got "
                f"{self.size!r}."
            )
        if self.refresh is not None and (not isinstance(self.refresh, int) or self.refresh < 1):
            raise LCAError(f"refresh must be a whole number of steps ≥ 1 or None, got {self.refresh!r}.")
        if self.refresh is not None and self.sampling == "uniform":
            raise LCAError(
                "refresh= measures errors, which uniform sampling does not look at; choose "
                "sampling='importance' or 'stratified', or leave it out."
            )
        share = self.refine
        if share is not None and not (self.rule == TRAPEZOID and type(share) is float and 0 < share < 1):
            raise LCAError(
                f"refine={share!r} with the rule {self.rule.name!r}: it takes Simpson's rule where the "
                "trapezoid errs by more than this share, so a float in (0, 1), e.g. 0.03, for TRAPEZOID."
            )

    @property
    def degree(self) -> int:
        """The rule's."""
        return self.rule.degree

    @property
    def cost(self) -> Cost:
        """A sample for each new node of a step; with ``refine`` the most, which is four samples."""
        samples = self.rule.new_gradients if self.refine is None else MOST
        return Cost(
            examples=self.size * samples,
            full_losses=1 / self.refresh if self.refresh and self.sampling != "uniform" else 0.0,
        )

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The errors of the training batch, unless there is another source."""
        return () if self.sampling == "uniform" or self.refresh else ("scores",)

    def reseeded(self, seed: int) -> Self:
        """The same with other samples."""
        return replace(self, seed=seed)

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return SampledRun(self, objective, sampled_gradients)


@dataclass(frozen=True, eq=False)
class Node:
    """Independent, unbiased gradients (K,) at one point; nodes with one key share their samples."""

    key: float
    gradients: Sequence[Vector]
    cost: Cost

    @property
    def mean(self) -> Vector:
        """Of the gradients; a new vector, or the only one."""
        first, *rest = self.gradients
        if not rest:
            return first
        ops, mean = array_ops(first), first * (1 / len(self.gradients))
        for gradient in rest:
            mean = ops.add_scaled(mean, 1 / len(self.gradients), gradient)
        return mean


class Measure(Protocol):
    """How gradients at θ are made out of samples; may remember nodes it has seen."""

    def __call__(
        self, objective: Objective, theta: Vector, time: float, draw: Callable[[], list[Sample]]
    ) -> Node: ...


def sampled_gradients(
    objective: Objective, theta: Vector, time: float, draw: Callable[[], list[Sample]]
) -> Node:
    """The gradient on each sample, scaled to be unbiased."""
    samples = draw()
    gradients = [gradient_on(objective, theta, sample) for sample in samples]
    return Node(time, gradients, Cost(examples=float(sum(sample.size for sample in samples))))


def gradient_on(objective: Objective, theta: Vector, sample: Sample) -> Vector:
    """``factor · g_batch(θ)``."""
    gradient = objective.loss_and_grad(theta, sample.batch)[1]
    return gradient if sample.factor == 1 else array_ops(theta).scaled(gradient, sample.factor)


@dataclass(frozen=True, eq=False)
class _End:
    """The node at which the last step ended, and how to recognise it."""

    theta: object
    state: State | None
    time: float
    node: Node


class SampledRun:
    """One run of a `SampledPathIntegral`, with any way to make gradients out of its samples."""

    def __init__(self, probe: SampledPathIntegral, objective: Objective, measure: Measure) -> None:
        self.probe, self.size = probe, probe.size
        self._objective, self._measure = check_sampled(objective), measure
        self._sampler = Sampler(objective, probe.sampling, probe.floor, probe.seed)
        self._chosen = RuleByAudit(probe.rule, probe.refine)
        self._end: _End | None = None
        self._seen = 0
        self._cost = Cost()

    def __call__(self, step: Step) -> StepAllocation:
        self._cost = Cost()
        self._learn(step)
        tally, terms, rule = Tally(self._objective, step), [], self._chosen.rule
        for c, weight in zip(rule.nodes, rule.weights, strict=True):
            node = self._node(step, c)
            tally.add(weight, node.mean)
            terms.append((weight, node))
        if rule.nodes[-1] == 1:
            snapshot = array_ops(step.end).snapshot(step.end)
            state = step.state[1] if step.state else None
            self._end = _End(snapshot, state, step.index + 1, node)
        if self._chosen.due():
            [sample] = self._sampler.draw([self.size])
            objective = at_state(self._objective, step.state[0] if step.state else None)
            self._cost += self._chosen.audit(objective, step, sample)
        return tally.allocation(
            self._cost, _replicates(step, terms) if self.probe.micro_batches > 1 else None
        )

    def _node(self, step: Step, c: float) -> Node:
        time, end = step.index + c, self._end
        state = step.state[0] if step.state else None
        ops = array_ops(step.start)
        if c == 0 and end is not None:
            if end.state is state and ops.unchanged(end.theta, step.start):
                return end.node
            if end.time == time:  # elsewhere at the same time: another sample, so another key
                time = nextafter(time, inf)
        ends = {0.0: step.start, 1.0: step.end}  # the very vectors, which between() might round
        theta = ends[c] if c in ends else ops.between(step.start, step.end, c)
        node = self._measure(at_state(self._objective, state), theta, time, self._draw)
        self._cost += node.cost
        return node

    def _draw(self) -> list[Sample]:
        m = self.probe.micro_batches
        return self._sampler.draw([self.size // m] * m)

    def _learn(self, step: Step) -> None:
        """Errors of examples from training, or from a pass over the data now and then."""
        probe = self.probe
        if probe.sampling == "uniform":
            return
        if not probe.refresh:
            check_required_fields(
                step, probe.required_fields, f"SampledPathIntegral(sampling={probe.sampling!r})"
            )
            assert step.scores is not None
            self._sampler.learn(step.scores)
            return
        if self._seen % probe.refresh == 0:
            if not isinstance(self._objective, Scored):
                raise LCAError(
                    f"refresh={probe.refresh} needs an objective that tells the errors of its examples "
                    f"(lca.objective.Scored), which {type(self._objective).__name__} does not; let training "
                    "hand them over (refresh=None) or use sampling='uniform'."
                )
            scores = self._objective.scores(step.start)
            self._sampler.learn(ExampleScores(self._sampler.everything, scores))
            self._cost += Cost(full_losses=1)
        self._seen += 1


def _replicates(step: Step, terms: Sequence[tuple[float, Node]]) -> dict[float, Shares]:
    """The nodes' shares of the values by key; what has one key is one sample, and is added up."""
    by_key: dict[float, list[tuple[float, Sequence[Vector]]]] = {}
    for weight, node in terms:
        by_key.setdefault(node.key, []).append((weight, node.gradients))
    return {key: Shares(step, shares) for key, shares in by_key.items()}
