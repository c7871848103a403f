"""`ControlVariate`: samples estimate only the change of the gradient since the last full one."""

from dataclasses import dataclass, field, replace
from math import nan
from typing import ClassVar, Self

from lca._numbers import use_python_numbers
from lca.allocation import Allocator, Cost
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators._path import GradientAt, Point
from lca.estimators._replicates import SampledNode
from lca.estimators._sampled_path_integral import (
    Draw,
    SampledPathIntegral,
    SampledRun,
    gradient_on,
    sampled_node,
)
from lca.objective import Evaluation, Objective, State, differentiated_by, differentiating
from lca.quadrature import QuadratureRule


@dataclass(frozen=True)
class ControlVariate:
    """A `SampledPathIntegral` with a control variate: ``g_S(θ) - g_S(θ̃) + ∇L(θ̃)``.

    ∇L(θ̃) is the full gradient at the last anchor θ̃. Both other gradients are taken on the same sample, so
    what they have in common cancels. Unbiased as the `SampledPathIntegral` is.

    Parameters
    ----------
    probe
        Rule, samples and seed.
    every
        Measured steps between anchors. At an anchor the full gradient itself is used.

    Notes
    -----
    Cost: twice that of ``probe``, and a full gradient every ``every`` steps. It pays where the path moves
    little between anchors: late in training, with small steps. Where the gradients of few examples change
    between anchors, error bars of single tensors and steps cover too seldom. Memory: θ̃ and its gradient, two
    vectors (K,). With ``every = 2 N / c`` and samples of c / 4 examples, half of a budget of c examples a
    step goes to anchors, which is the best split where the variance grows in proportion to the distance
    (`AdaptiveSampleSize` uses it).

    Raises
    ------
    LCAError
        If ``probe`` is not a `SampledPathIntegral`, or ``every`` < 1.

    References
    ----------
    Johnson, Zhang. Accelerating Stochastic Gradient Descent using Predictive Variance Reduction. NeurIPS
    2013. Chains: Nguyen, Liu, Scheinberg, Takáč. SARAH: A Novel Method for Machine Learning Problems Using
    Stochastic Recursive Gradient. ICML 2017.

    Examples
    --------
    >>> ControlVariate(SampledPathIntegral(size=100), every=50).cost
    Cost(full_gradients=0.02, full_losses=0.0, batch_gradients=0.0, examples=196.0)
    """

    probe: SampledPathIntegral = field(default_factory=SampledPathIntegral)
    every: int = 40
    target: ClassVar[str] = "probe"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = SampledPathIntegral.bias
    citation: ClassVar[str] = """@inproceedings{johnson2013svrg,
  title     = {Accelerating Stochastic Gradient Descent using Predictive Variance Reduction},
  author    = {Johnson, Rie and Zhang, Tong},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {26},
  year      = {2013}
}"""

    def __post_init__(self) -> None:
        use_python_numbers(self)
        if not isinstance(self.probe, SampledPathIntegral):
            raise LCAError(
                f"ControlVariate needs a SampledPathIntegral, got {self.probe!r}; e.g. "
                "ControlVariate(SampledPathIntegral(size=250), every=40)."
            )
        if not isinstance(self.every, int) or self.every < 1:
            raise LCAError(f"every must be a whole number of steps ≥ 1, got {self.every!r}.")

    @property
    def rule(self) -> QuadratureRule:
        """The rule of ``probe``."""
        return self.probe.rule

    @property
    def degree(self) -> int:
        """The degree of the rule."""
        return self.probe.degree

    @property
    def vectors(self) -> int:
        """The vectors of the samples, and the anchor with its gradient."""
        return self.probe.vectors + 2

    @property
    def cost(self) -> Cost:
        """One full gradient every ``every`` steps, and two samples for each new node elsewhere."""
        own = self.probe.cost
        nodes = self.rule.new_gradients - 1 / self.every
        return own + Cost(
            full_gradients=1 / self.every,
            examples=self.probe.size * (2 * nodes - self.rule.new_gradients),
        )

    @property
    def largest_cost(self) -> Cost:
        """At most a full gradient, and two samples for each new node."""
        own = self.probe.largest_cost
        return own + Cost(full_gradients=1, examples=own.examples)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The fields that ``probe`` requires."""
        return self.probe.required_fields

    def reseeded(self, seed: int) -> Self:
        """The same estimator with other samples."""
        return replace(self, probe=self.probe.reseeded(seed))

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""

        def gradients(draw: Draw) -> GradientAt:
            return AnchoredMean(draw, self.every, self.probe.micro_batches)

        return SampledRun(self.probe, objective, gradients)


@dataclass(eq=False)
class AnchoredMean:
    """The full gradient at an anchor; elsewhere that of the last anchor plus its change (`GradientAt`)."""

    draw: Draw
    every: int
    micro_batches: int
    _index: int | None = None
    """The index of the step that is being measured."""
    _steps: int = -1
    """The number of steps measured before it."""
    _anchor: float | None = None
    _objective: Objective = field(init=False)
    _names: frozenset[str] = frozenset()
    _configuration: object = None
    _theta: Vector = None
    _gradient: Vector = None

    def __call__(self, objective: Objective, point: Point) -> tuple[Evaluation, Cost]:
        if point.step.index != self._index:
            self._index, self._steps = point.step.index, self._steps + 1
        if not self._serves(objective, point):
            return self._new_anchor(objective, point), Cost(full_gradients=1)
        ops, samples, gradients = array_ops(point.theta), self.draw(), []
        for sample in samples:
            there = gradient_on(self._objective, self._theta, sample)
            change = ops.add_scaled(gradient_on(objective, point.theta, sample), -1.0, there)
            gradients.append(ops.add_scaled(change, 1.0, self._gradient))
        cost = Cost(examples=2.0 * sum(sample.size for sample in samples))
        return sampled_node(gradients, point, exact=samples[0].part), cost

    def _serves(self, objective: Objective, point: Point) -> bool:
        """Whether the anchor is recent, of the same configuration, and has the gradient of all that moves."""
        return (
            self._anchor is not None
            and self._steps + point.s - self._anchor < self.every
            and differentiated_by(objective) <= self._names
            and _configuration(point.step.state) == self._configuration
        )

    def _new_anchor(self, objective: Objective, point: Point) -> Evaluation:
        theta = point.theta
        self._anchor = self._steps + point.s
        self._names |= differentiated_by(objective)  # blocks that train in turn keep one anchor
        self._configuration = _configuration(point.step.state)
        objective = differentiating(objective, self._names)
        self._objective = objective  # in the state it has here, which may move
        self._theta = array_ops(theta).between(theta, theta, 0.0)  # a copy: θ may be the model's memory
        self._gradient = objective.loss_and_grad(theta)[1]
        if self.micro_batches == 1:
            return Evaluation(nan, self._gradient)
        return SampledNode(
            nan, self._gradient, gradients=[self._gradient] * self.micro_batches, time=point.time
        )


def _configuration(state: tuple[State, State] | None) -> object:
    """The configuration that the objective is in; an earlier one may not be possible to go back to."""
    found = state[0].get("configuration") if state else None
    return None if found is None else array_ops(found).to_numpy(found).tolist()
