"""`Integral`: the weighted sum of the gradients of a step, times its movement, as a `StepAllocation`."""

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np

from lca.allocation import Cost, StepAllocation
from lca.arrays import Vector
from lca.estimators._checks import OVERFLOW, non_finite
from lca.estimators._path import Segment
from lca.estimators._products import Products
from lca.estimators._replicates import NodeReplicates, SampledNode
from lca.objective import Evaluation
from lca.quadrature import QuadratureRule

_MOST_KEPT = 3
"""The most gradients that are kept where one pass over all is faster (`ArrayOps.one_pass`)."""


class Integral:
    """``Δ ∘ Σ_k w_k g_k`` over the nodes of a segment, for the loss and for each of its terms.

    Gradients of the whole objective are added as they come and then dropped, so a rule of any length needs
    O(K) memory; they are summed before they are multiplied by Δ, as `Segment.mass` knows their mass already.
    Sampled ones are kept to the end, where one pass gives the values and their mass.

    Parameters
    ----------
    segment
        The step.
    kept
        Keep the gradients of the whole objective to the end, too.

    Examples
    --------
    >>> from lca.estimators import Path
    >>> from lca.reference import bowl
    >>> from lca.step import Step
    >>> segment = Path(bowl(1)).segment(Step(np.array([2.0]), np.array([1.0])))
    >>> integral = Integral(segment)
    >>> integral.add(1 / 2, segment.start)
    >>> integral.add(1 / 2, segment.end)
    >>> integral.allocation().values
    array([-1.5])
    """

    def __init__(self, segment: Segment, *, kept: bool = False) -> None:
        self._segment, self._kept = segment, kept
        self._mass = 0.0
        self._gradients: Vector | None = None  # Σ_k w_k g_k, not yet multiplied by the movement
        self._products = Products(segment.layout, segment.step)  # of sampled gradients
        self._samples: list[tuple[float, SampledNode]] = []
        self._terms: dict[str, Integral] = {}

    def add(self, weight: float, node: Evaluation, *, last_use: bool = False) -> None:
        """Add ``weight · g ∘ Δ`` of a node.

        Parameters
        ----------
        weight
            w_k, a fraction of the whole step.
        node
            An evaluation of this segment.
        last_use
            Whether the gradient is not used afterwards, so that it may be overwritten.
        """
        weight = float(weight)  # a NumPy scalar would make float32 gradients float64
        if not self._segment.sampled:
            if self._kept:
                self._products.add(weight, node.grad)
            else:
                self._add_full(weight, node, last_use=last_use)
            for name, term in node.terms.items():
                integral = self._terms.setdefault(name, Integral(self._segment, kept=self._kept))
                integral.add(weight, term, last_use=last_use)
            return
        if isinstance(node, SampledNode):
            self._samples.append((weight, node))
        self._products.add(weight, node.grad)

    def _add_full(self, weight: float, node: Evaluation, *, last_use: bool) -> None:
        segment = self._segment
        self._mass += abs(weight) * segment.mass(node)
        if self._gradients is not None:
            self._gradients = segment.ops.add_scaled(self._gradients, weight, node.grad)
        elif last_use and len(node.terms) != 1:  # a single term shares its gradient with the total
            self._gradients = segment.ops.scaled(node.grad, weight)
        else:
            self._gradients = weight * node.grad

    def add_product(self, weight: float, gradient: Vector, update: Vector) -> None:
        """Add ``weight · g ∘ Δ'`` of a sampled gradient, for an update Δ' (K,) not the step's own."""
        self._products.add(weight, gradient, update)

    def allocation(
        self, replicates: Mapping[float, Sequence[Vector]] | None = None, *, total: float | None = None
    ) -> StepAllocation:
        """The finished `StepAllocation`; uses this up.

        The residual is taken against the losses at both ends; sampled gradients leave it NaN. ``replicates``
        replace those of the nodes. ``total`` is the sum of the values, if it is known (`Segment.sums`).
        """
        segment = self._segment
        replicates = replicates or self._replicates()
        if segment.sampled:
            start_cost = segment.start_cost
            return self._products.allocation(segment.cost, start_cost=start_cost, replicates=replicates)
        ends = segment.start, segment.end, segment.arrival
        return self._finish(
            ends, segment.cost, start_cost=segment.start_cost, replicates=replicates, total=total
        )

    def _finish(
        self,
        ends: tuple[Evaluation, Evaluation, Evaluation],
        cost: Cost,
        *,
        start_cost: Cost,
        replicates: Mapping[float, Sequence[Vector]],
        total: float | None = None,
    ) -> StepAllocation:
        start, end, arrival = ends
        segment = self._segment
        if self._kept:
            values, self._mass, sums = self._products.with_sums()
            total = float(sums.sum())
        else:
            values = self._values()
            if total is None:
                total = segment.ops.total(values)
        if not isfinite(total):
            raise non_finite(segment.layout, segment.step, OVERFLOW, None)
        return StepAllocation(
            values=values,
            loss_start=start.loss,
            loss_end=arrival.loss,
            residual=end.loss - start.loss - total,
            mass=self._mass,
            step=segment.step.index,
            state_change=arrival.loss - end.loss if segment.state_moved else 0.0,
            cost=cost,
            start_cost=start_cost,
            replicates=replicates,
            terms={
                name: term._finish(
                    (start.terms[name], end.terms[name], arrival.terms[name]),
                    Cost(),
                    start_cost=Cost(),
                    replicates={},
                )
                for name, term in self._terms.items()
            },
            source=segment.step,
        )

    def _values(self) -> Vector:
        segment = self._segment
        with np.errstate(over="ignore", invalid="ignore"):  # reported by the total
            return segment.ops.times_movement(self._gradients, segment.step.start, segment.step.end)

    def _replicates(self) -> dict[float, NodeReplicates]:
        """The replicates of the nodes, by time; nodes of one time are one sample, and are added up."""
        by_time: dict[float, list[tuple[float, SampledNode]]] = {}
        for weight, node in self._samples:
            by_time.setdefault(node.time, []).append((weight, node))
        return {time: self._replicates_of(weighted) for time, weighted in by_time.items()}

    def _replicates_of(self, weighted: Sequence[tuple[float, SampledNode]]) -> NodeReplicates:
        gradients = [(weight, node.gradients) for weight, node in weighted]
        if not any(node.parts for _, node in weighted):
            return NodeReplicates(self._segment.step, gradients)
        samples = [(weight, node.parts or node.gradients) for weight, node in weighted]
        return NodeReplicates(self._segment.step, gradients, samples)


def integrate(segment: Segment, rule: QuadratureRule) -> Integral:
    """The integral by ``rule``, evaluated node by node in the order of s.

    Parameters
    ----------
    segment
        The step, whose gradients are evaluated at ``segment.at(s)``.
    rule
        The quadrature rule on [0, 1].

    Examples
    --------
    >>> from lca import TRAPEZOID, Step
    >>> from lca.estimators import Path
    >>> from lca.reference import bowl
    >>> segment = Path(bowl(1)).segment(Step(np.array([2.0]), np.array([1.0])))
    >>> integrate(segment, TRAPEZOID).allocation().values
    array([-1.5])
    """
    kept = segment.ops.one_pass and len(rule.nodes) <= _MOST_KEPT
    integral = Integral(segment, kept=kept)
    for s, weight in zip(rule.nodes, rule.weights, strict=True):
        # The gradient at the end may be the next step's start; a sampled one may belong to the training loop.
        integral.add(weight, segment.at(s), last_use=s < 1 and not segment.sampled)
    return integral
