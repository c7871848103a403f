"""`ControlVariate`: samples only for what has changed since the whole data were last looked at."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from lca.allocation import Allocator, Cost
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators.sampled_path_integral import Node, SampledPathIntegral, SampledRun, gradient_on
from lca.estimators.sampling import Sample
from lca.objective import Objective
from lca.quadrature import QuadratureRule


@dataclass(frozen=True)
class ControlVariate:
    """A `SampledPathIntegral` with a control variate: ``g_S(θ) - g_S(θ̃) + ∇L(θ̃)``, the last from the whole data.

    Both gradients are taken on the same sample, so what they have in common cancels; unbiased as the probe
    is.

    Parameters
    ----------
    probe
        Rule, samples and seed.
    every
        Steps between full gradients. At such a node the full gradient is used itself.

    Notes
    -----
    Cost: twice the probe's, and a full gradient every ``every`` steps. It pays where the path does not go far
    between anchors: late in training, with small steps. Memory: θ̃ and its gradient. With ``every = 2 N / c``
    and a sample of c / 4, half of a budget of c examples a step goes to anchors, which is best where the
    variance grows in proportion to the distance (`AdaptiveSampleSize` does that).

    References
    ----------
    Johnson, Zhang. Accelerating Stochastic Gradient Descent using Predictive Variance Reduction. NeurIPS
    2013. Chains: Nguyen, Liu, Scheinberg, Takáč. SARAH: A Novel Method for Machine Learning Problems Using
    Stochastic Recursive Gradient. ICML 2017.

    Examples
    --------
    >>> ControlVariate(SampledPathIntegral(size=100), every=50).cost
    Cost(full_gradients=0.02, full_losses=0.0, batch_gradients=0.0, examples=200.0)
    """

    probe: SampledPathIntegral = field(default_factory=SampledPathIntegral)
    every: int = 40
    target: ClassVar[str] = "probe"
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = SampledPathIntegral.bias

    def __post_init__(self) -> None:
        if not isinstance(self.probe, SampledPathIntegral):
            raise LCAError(
                f"ControlVariate needs a SampledPathIntegral, got {self.probe!r}; e.g. ControlVariate(SampledPathIntegral(size=250), every=40)."
            )
        if not isinstance(self.every, int) or self.every < 1:
            raise LCAError(f"every must be a whole number of steps ≥ 1, got {self.every!r}.")

    @property
    def rule(self) -> QuadratureRule:
        """The probe's."""
        return self.probe.rule

    @property
    def degree(self) -> int:
        """The rule's."""
        return self.probe.degree

    @property
    def cost(self) -> Cost:
        """Two samples a new node, and a share of a full gradient."""
        return Cost(full_gradients=1 / self.every) + self.probe.cost + Cost(examples=self.probe.cost.examples)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The probe's."""
        return self.probe.required_fields

    def reseeded(self, seed: int) -> Self:
        """The same with other samples."""
        return replace(self, probe=self.probe.reseeded(seed))

    def start(self, objective: Objective) -> Allocator:
        """Begin a run along one path."""
        return SampledRun(self.probe, objective, ControlVariateMeasure(self.every, self.probe.micro_batches))


@dataclass(eq=False)
class ControlVariateMeasure:
    """Gradients at the nodes of one run: full at an anchor, elsewhere by what changed since θ̃."""

    every: int
    micro_batches: int
    _anchor: float | None = None
    _objective: Objective = field(init=False)
    _theta: Vector = None
    _gradient: Vector = None

    def __call__(
        self, objective: Objective, theta: Vector, time: float, draw: Callable[[], list[Sample]]
    ) -> Node:
        if self._anchor is None or time - self._anchor >= self.every:
            self._anchor = time
            self._objective = objective  # in the state it has here, which may move
            self._theta = array_ops(theta).between(theta, theta, 0.0)  # a copy: θ may be the model's memory
            self._gradient = objective.loss_and_grad(theta)[1]
            return Node(time, [self._gradient] * self.micro_batches, Cost(full_gradients=1))
        ops, samples, gradients = array_ops(theta), draw(), []
        for sample in samples:
            there = gradient_on(self._objective, self._theta, sample)
            change = ops.add_scaled(gradient_on(objective, theta, sample), -1.0, there)
            gradients.append(ops.add_scaled(change, 1.0, self._gradient))
        return Node(time, gradients, Cost(examples=2.0 * sum(sample.size for sample in samples)))
