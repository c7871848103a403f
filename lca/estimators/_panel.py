"""`Panel`: a subinterval of a step with Simpson's rule on it, which can be bisected for two gradients.

`Adaptive` refines a step panel by panel. Nodes are evaluated once and shared between a panel and its halves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lca.estimators._path import Segment
from lca.objective import Evaluation
from lca.quadrature import SIMPSON, TRAPEZOID


@dataclass(frozen=True, eq=False)
class Panel:
    """Simpson's rule on [a, b] of a step: its three nodes, and by how much it changed the coarser rule.

    ``difference`` is ``Σ_i |fine_i - coarse_i|``, where coarse is the trapezoid for the whole step; the two
    halves of a panel share the difference between them and the panel they replaced.
    """

    a: float
    b: float
    nodes: tuple[Evaluation, Evaluation, Evaluation]
    difference: float

    @classmethod
    def whole(cls, segment: Segment, middle: Evaluation) -> "Panel":
        """The whole step as one panel, given its midpoint; costs no gradient."""
        start, end = segment.start, segment.end
        moved = _moved(segment, {start: -1 / 3, middle: 2 / 3, end: -1 / 3})  # Simpson - trapezoid
        return cls(0.0, 1.0, (start, middle, end), moved)

    def bisect(self, segment: Segment) -> "list[Panel]":
        """Both halves as panels; costs two gradients.

        Their differences add up to the change by bisection, ``Σ_i |S_left + S_right - S_parent|``, split in
        proportion to the change of each half by itself.
        """
        left, middle, right = self.nodes
        centre, quarter = (self.a + self.b) / 2, (self.b - self.a) / 4
        lower, upper = segment.at(centre - quarter), segment.at(centre + quarter)
        half = centre - self.a
        # Over its half next to f, the parabola through f, g, h has the integral (5 f + 8 g - h) / 12 times
        # the half's length. Simpson with the new node n in the middle: (f + 4 n + g) / 6.
        first, second = (
            {f: half * (1 / 6 - 5 / 12), n: half * 4 / 6, g: half * (1 / 6 - 8 / 12), h: half / 12}
            for f, n, g, h in ((left, lower, middle, right), (right, upper, middle, left))
        )
        both = {node: first.get(node, 0.0) + second.get(node, 0.0) for node in first | second}
        of_first, of_second = _moved(segment, first), _moved(segment, second)
        share = _moved(segment, both) / (of_first + of_second or 1.0)
        return [
            Panel(self.a, centre, (left, lower, middle), share * of_first),
            Panel(centre, self.b, (middle, upper, right), share * of_second),
        ]


def _moved(segment: Segment, weights: Mapping[Evaluation, float]) -> float:
    """``Σ_i |Δ_i Σ_k w_k g_{k,i}|`` for the difference of two rules."""
    return segment.sums(weights)[1]


def trapezoid(segment: Segment) -> dict[Evaluation, float]:
    """The weights of the trapezoid at both ends."""
    return dict(zip((segment.start, segment.end), TRAPEZOID.weights, strict=True))


def simpson(panels: Iterable[Panel]) -> dict[Evaluation, float]:
    """The weights of all nodes of panels that cover the step; a node shared by two panels occurs once."""
    weights: dict[Evaluation, float] = {}
    for panel in panels:
        for node, weight in zip(panel.nodes, SIMPSON.weights, strict=True):
            weights[node] = weights.get(node, 0.0) + (panel.b - panel.a) * weight
    return weights
