"""Quadrature rules as data: nodes, weights and the degree they declare, checked when built.

LCA's integrand, the gradient along a straight segment, does not depend on an accumulated state, so the
classical Runge-Kutta method of the paper *is* Simpson's rule: ``RK4 is SIMPSON``. A new rule is a new row of
`RULES`, the table from which the command line, the documentation and the tests are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import roots_jacobi

from lca.errors import RuleError
from lca.tolerances import moments

__all__ = [
    "BOOLE",
    "LEFT",
    "MIDPOINT",
    "RIGHT",
    "RK4",
    "RULES",
    "SIMPSON",
    "TRAPEZOID",
    "QuadratureRule",
    "composite",
    "gauss_legendre",
    "gauss_lobatto",
]


@dataclass(frozen=True)
class QuadratureRule:
    """``∫₀¹ f(s) ds ≈ Σ_k w_k f(c_k)``, exact for polynomials up to ``degree``.

    Parameters
    ----------
    name
        The name in messages and records.
    nodes, weights
        ``c_k`` in [0, 1], strictly increasing, and ``w_k``.
    degree
        The largest d for which ``Σ_k w_k c_k^d = 1/(d+1)`` is declared to hold. An allocation with this
        rule adds up exactly for losses that are polynomials of degree ≤ degree + 1 along the step.
    description
        One line for tables of rules; no part of the rule's identity.

    Raises
    ------
    RuleError
        If nodes and weights do not fit together, or a declared moment is missed; the message names the first
        one.

    Examples
    --------
    >>> QuadratureRule("simpson", (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6), degree=3).new_gradients
    2
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    degree: int
    description: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(float(c) for c in self.nodes))
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if not self.nodes or len(self.nodes) != len(self.weights):
            raise RuleError(
                f"rule {self.name!r} needs one weight a node and at least one node, got {len(self.nodes)} "
                f"nodes and {len(self.weights)} weights."
            )
        inside = self.nodes[0] >= 0.0 and self.nodes[-1] <= 1.0
        if not inside or any(b <= a for a, b in zip(self.nodes, self.nodes[1:], strict=False)):
            raise RuleError(
                f"rule {self.name!r}: nodes must increase strictly within [0, 1], got {self.nodes}."
            )
        if not isinstance(self.degree, int | np.integer) or self.degree < 0:
            raise RuleError(f"rule {self.name!r}: the degree must be a whole number ≥ 0, got {self.degree}.")
        self._check_moments()

    def _check_moments(self) -> None:
        nodes, weights = np.array(self.nodes), np.array(self.weights)
        for d in range(self.degree + 1):
            moment, expected = float(weights @ nodes**d), 1 / (d + 1)
            if not abs(moment - expected) <= moments(float(np.abs(weights).sum())):
                fix = f"correct the weights or declare degree {d - 1}" if d else "the weights must sum to 1"
                raise RuleError(
                    f"rule {self.name!r} declares degree {self.degree} but does not integrate s^{d}: "
                    f"Σ w_k c_k^{d} = {moment!r}, expected {expected!r}; {fix}."
                )

    @property
    def closed(self) -> bool:
        """Whether a node lies at an end of the step, whose gradient the neighbouring step shares."""
        return self.nodes[0] == 0.0 or self.nodes[-1] == 1.0

    @property
    def new_gradients(self) -> int:
        """Gradients a step, with the one at a shared end-point reused."""
        interior = sum(0.0 < c < 1.0 for c in self.nodes)
        return interior + self.closed


LEFT = QuadratureRule("left", (0.0,), (1.0,), 0, "start of the step; the first-order form")
RIGHT = QuadratureRule("right", (1.0,), (1.0,), 0, "end of the step; first order")
MIDPOINT = QuadratureRule("midpoint", (0.5,), (1.0,), 1, "middle of the step")
TRAPEZOID = QuadratureRule("trapezoid", (0.0, 1.0), (1 / 2, 1 / 2), 1, "mean of both ends")
SIMPSON = QuadratureRule(
    "simpson", (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6), 3, "Simpson's rule, the method of the paper (RK4)"
)
RK4 = SIMPSON
BOOLE = QuadratureRule(
    "boole",
    (0.0, 0.25, 0.5, 0.75, 1.0),
    (7 / 90, 32 / 90, 12 / 90, 32 / 90, 7 / 90),
    5,
    "Boole's rule, for smooth losses",
)


def gauss_legendre(n: int) -> QuadratureRule:
    """The n-point Gauss-Legendre rule on [0, 1]: degree 2n - 1, no node shared between steps.

    Parameters
    ----------
    n
        Number of nodes, at least 1; also the number of gradients a step.

    Raises
    ------
    RuleError
        If n < 1.

    Examples
    --------
    >>> gauss_legendre(2).new_gradients
    2
    """
    if n < 1:
        raise RuleError(f"a Gauss-Legendre rule needs n ≥ 1 nodes, got {n}.")
    nodes, weights = np.polynomial.legendre.leggauss(n)
    name, description = f"gauss_legendre({n})", f"Gauss-Legendre, {n} nodes, none at an end"
    return QuadratureRule(name, tuple((1 + nodes) / 2), tuple(weights / 2), 2 * n - 1, description)


def gauss_lobatto(n: int) -> QuadratureRule:
    """The n-point Gauss-Lobatto rule on [0, 1]: both ends and n - 2 inner nodes, degree 2n - 3.

    The inner nodes are the roots of the Jacobi polynomial ``P_{n-2}^{(1,1)}``, the weights
    ``w(x) = 2 / (n (n-1) P_{n-1}(x)²)`` on [-1, 1].

    Parameters
    ----------
    n
        Number of nodes, at least 2; one more than the number of gradients a step.

    Raises
    ------
    RuleError
        If n < 2.

    Examples
    --------
    >>> gauss_lobatto(3).nodes == SIMPSON.nodes
    True
    """
    if n < 2:
        raise RuleError(f"a Gauss-Lobatto rule needs n ≥ 2 nodes (both ends), got {n}.")
    inner = roots_jacobi(n - 2, 1, 1)[0] if n > 2 else np.empty(0)
    inner = (inner - inner[::-1]) / 2  # the roots are symmetric about 0; make them so to the last bit
    x = np.concatenate([[-1.0], inner, [1.0]])
    legendre = np.polynomial.legendre.legval(x, [0.0] * (n - 1) + [1.0])
    weights = 1 / (n * (n - 1) * legendre**2)
    name, description = f"gauss_lobatto({n})", f"Gauss-Lobatto, {n} nodes with both ends"
    return QuadratureRule(name, tuple((1 + x) / 2), tuple(weights), 2 * n - 3, description)


def composite(rule: QuadratureRule, n: int) -> QuadratureRule:
    """``rule`` on n equal panels of [0, 1]; nodes on a shared panel boundary are merged.

    The error of a smooth integrand falls as ``n^-(degree + 1)`` (Simpson: ``n^-4``).

    Parameters
    ----------
    rule
        The rule on each panel.
    n
        Number of panels, at least 1.

    Raises
    ------
    RuleError
        If n < 1.

    Examples
    --------
    >>> composite(SIMPSON, 2).weights == tuple(w / 12 for w in (1, 4, 2, 4, 1))
    True
    """
    if n < 1:
        raise RuleError(f"a composite rule needs n ≥ 1 panels, got {n}.")
    merged: dict[float, float] = {}
    for panel in range(n):
        for node, weight in zip(rule.nodes, rule.weights, strict=True):
            at = (panel + node) / n
            merged[at] = merged.get(at, 0.0) + weight / n
    name = rule.name if n == 1 else f"composite({rule.name}, {n})"
    return QuadratureRule(name, tuple(merged), tuple(merged.values()), rule.degree)


RULES: Mapping[str, QuadratureRule] = {
    "left": LEFT,
    "right": RIGHT,
    "midpoint": MIDPOINT,
    "trapezoid": TRAPEZOID,
    "simpson": SIMPSON,
    "rk4": RK4,
    "boole": BOOLE,
    **{f"gauss{n}": gauss_legendre(n) for n in (2, 3, 4, 5)},
    **{f"lobatto{n}": gauss_lobatto(n) for n in (4, 5, 6)},
}
"""Every rule that has a name of its own; each is also an estimator of that name."""
