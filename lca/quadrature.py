"""Quadrature rules as data: nodes, weights and the degree they declare, checked when built.

LCA's integrand, the gradient along a straight segment, does not depend on an accumulated state, so the
classical Runge-Kutta method of the paper *is* Simpson's rule: ``RK4 is SIMPSON``. A new rule is a new
row of numbers here, never a new branch elsewhere.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import roots_jacobi

from lca.errors import RuleError
from lca.tolerances import moments


@dataclass(frozen=True)
class QuadratureRule:
    """``∫₀¹ f(s) ds ≈ Σ_k w_k f(c_k)``, exact for polynomials up to ``degree``.

    Parameters
    ----------
    name
        How messages and records call it.
    nodes, weights
        ``c_k`` in [0, 1], strictly increasing, and ``w_k``.
    degree
        The largest d for which ``Σ_k w_k c_k^d = 1/(d+1)`` is declared to hold. An allocation with this
        rule adds up exactly when the loss is a polynomial of degree ≤ degree + 1 along the segment.

    Raises
    ------
    RuleError
        If a declared moment is missed; the message names the first one.

    Examples
    --------
    >>> QuadratureRule("simpson", (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6), degree=3).new_gradients
    2
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    degree: int

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
        """Whether a gradient at an end of the segment is used, which the neighbouring step shares."""
        return self.nodes[0] == 0.0 or self.nodes[-1] == 1.0

    @property
    def new_gradients(self) -> int:
        """New gradients a step once the gradient at a shared end-point is reused."""
        interior = sum(0.0 < c < 1.0 for c in self.nodes)
        return interior + self.closed


LEFT = QuadratureRule("left", (0.0,), (1.0,), degree=0)
RIGHT = QuadratureRule("right", (1.0,), (1.0,), degree=0)
MIDPOINT = QuadratureRule("midpoint", (0.5,), (1.0,), degree=1)
TRAPEZOID = QuadratureRule("trapezoid", (0.0, 1.0), (1 / 2, 1 / 2), degree=1)
SIMPSON = QuadratureRule("simpson", (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6), degree=3)
RK4 = SIMPSON
BOOLE = QuadratureRule(
    "boole", (0.0, 0.25, 0.5, 0.75, 1.0), (7 / 90, 32 / 90, 12 / 90, 32 / 90, 7 / 90), degree=5
)


def gauss_legendre(n: int) -> QuadratureRule:
    """The n-point Gauss-Legendre rule on [0, 1]: degree 2n - 1, no node shared between steps.

    >>> gauss_legendre(2).new_gradients
    2
    """
    if n < 1:
        raise RuleError(f"a Gauss-Legendre rule needs n ≥ 1 nodes, got {n}.")
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return QuadratureRule(f"gauss_legendre({n})", tuple((1 + nodes) / 2), tuple(weights / 2), 2 * n - 1)


def gauss_lobatto(n: int) -> QuadratureRule:
    """The n-point Gauss-Lobatto rule on [0, 1]: both ends and n - 2 inner nodes, degree 2n - 3.

    The inner nodes are the roots of the Jacobi polynomial ``P_{n-2}^{(1,1)}``, the weights
    ``w(x) = 2 / (n (n-1) P_{n-1}(x)²)`` on [-1, 1].

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
    return QuadratureRule(f"gauss_lobatto({n})", tuple((1 + x) / 2), tuple(weights), 2 * n - 3)


def composite(rule: QuadratureRule, n: int) -> QuadratureRule:
    """``rule`` on n equal panels of [0, 1]; nodes on a shared panel boundary are merged.

    The error of a smooth integrand falls as ``n^-(degree + 1)`` (Simpson: ``n^-4``).

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
