"""Correct estimators, which every check must accept: rules, settings of `Adaptive`, unusual ones."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial.chebyshev import chebval

from lca import (
    BOOLE,
    LEFT,
    MIDPOINT,
    RIGHT,
    SIMPSON,
    TRAPEZOID,
    Adaptive,
    Cost,
    PathIntegral,
    QuadratureRule,
    StepAllocation,
    composite,
    gauss_legendre,
    gauss_lobatto,
)
from lca.allocation import Estimator
from lca.estimators import Integral, Path

RULES = (
    LEFT,
    RIGHT,
    MIDPOINT,
    TRAPEZOID,
    SIMPSON,
    BOOLE,
    composite(SIMPSON, 2),
    gauss_legendre(3),
    gauss_legendre(8),
    gauss_lobatto(5),
)


def interpolatory(name: str, nodes: np.ndarray, degree: int) -> QuadratureRule:
    """The rule that integrates the polynomial through its nodes; ``degree`` is checked when it is built."""
    x = 2 * np.asarray(nodes) - 1
    orders = np.arange(len(x))
    integrals = np.array([0.0 if k % 2 else 1 / (1 - k**2) for k in orders])  # of T_k over [0, 1]
    weights = np.linalg.solve(chebval(x, np.eye(len(x))), integrals)
    return QuadratureRule(name, tuple(nodes), tuple(weights), degree)


def clenshaw_curtis(n: int) -> QuadratureRule:
    nodes = (1 - np.cos(np.pi * np.arange(n + 1) / n)) / 2
    return interpolatory(f"clenshaw_curtis({n})", nodes, n + 1 - n % 2)


def gauss_kronrod() -> QuadratureRule:
    """The 15 nodes of QUADPACK's G7-K15."""
    kronrod = (0.991455371120812639206854697526329, 0.864864423359769072789712788640926,
               0.586087235467691130294144691693433, 0.207784955007898467600689403773245)  # fmt: skip
    gauss = np.polynomial.legendre.leggauss(7)[0]
    nodes = np.sort(np.concatenate([gauss, kronrod, np.negative(kronrod)]))
    return interpolatory("gauss_kronrod(15)", (1 + nodes) / 2, 22)


def newton_cotes(n: int) -> QuadratureRule:
    """Equally spaced nodes; from n = 8 on, some weights are negative."""
    return interpolatory(f"newton_cotes({n})", np.linspace(0, 1, n + 1), n + 1 - n % 2)


def radau() -> QuadratureRule:
    """Two nodes, one of them at the start."""
    return QuadratureRule("radau", (0.0, 2 / 3), (1 / 4, 3 / 4), 2)


@dataclass(frozen=True)
class Extrapolated:
    """Richardson's extrapolation of the trapezoid with 1, 2, ... 2^levels panels; Romberg's rule."""

    levels: int
    target: ClassVar[str] = "full"

    @property
    def degree(self) -> int:
        return 2 * self.levels + 1

    @property
    def cost(self) -> Cost:
        return Cost(full_gradients=2**self.levels)

    def start(self, objective):
        path = Path(objective)
        rules = [composite(TRAPEZOID, 2**k) for k in range(self.levels + 1)]
        tableau = [{s: w for s, w in zip(r.nodes, r.weights, strict=True)} for r in rules]
        for j in range(1, self.levels + 1):
            factor = 4**j
            tableau = [
                {s: (factor * fine[s] - coarse.get(s, 0.0)) / (factor - 1) for s in fine}
                for coarse, fine in zip(tableau, tableau[1:], strict=False)
            ]
        [weights] = tableau

        def allocate_step(step):
            segment = path.segment(step)
            integral = Integral(segment)
            for s, weight in weights.items():
                integral.add(weight, segment.at(s))
            return integral.allocation()

        return allocate_step


@dataclass(frozen=True)
class SkipsStill:
    """Simpson's rule; a step without movement is not evaluated if the losses are known."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = PathIntegral(SIMPSON).cost

    def start(self, objective):
        allocate_step, last = PathIntegral(SIMPSON).start(objective), {}

        def skipping(step):
            still = np.array_equal(step.start, step.end) and step.state is None
            if still and last and np.array_equal(last["end"], step.start):
                a = last["allocation"]
                terms = {name: _nothing(term, step) for name, term in a.terms.items()}
                a = replace(_nothing(a, step), terms=terms)
            else:
                a = allocate_step(step)
            last.update(end=step.end.copy(), allocation=a)
            return a

        return skipping


def _nothing(a: StepAllocation, step: Any) -> StepAllocation:
    """The allocation of a step that stays where ``a`` ended."""
    loss = a.loss_end
    return StepAllocation(0 * step.start, loss, loss, 0.0, 0.0, step.index)


@dataclass(frozen=True)
class InLongDouble:
    """Simpson's rule whose gradients are added in long double, also for float32 parameters."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = PathIntegral(SIMPSON).cost

    def start(self, objective):
        path = Path(objective)

        def allocate_step(step):
            segment = path.segment(step)
            integral, total = Integral(segment), np.zeros(len(step.start), np.longdouble)
            for s, weight in zip(SIMPSON.nodes, SIMPSON.weights, strict=True):
                node = segment.at(s)
                total += weight * node.grad.astype(np.longdouble)
                integral.add(weight, node)
            a = integral.allocation()
            values = (total * (step.end - step.start)).astype(step.start.dtype)
            left = a.loss_end - a.loss_start - a.state_change - float(values.sum(dtype=np.float64))
            return replace(a, values=values, residual=left)

        return allocate_step


@dataclass(frozen=True)
class NumpyWeights:
    """Weddle's rule, whose nodes and weights are NumPy arrays, in a generator."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 5
    cost: ClassVar[Cost] = Cost(full_gradients=6)

    def start(self, objective):
        path = Path(objective)

        def allocations():
            a = None
            while True:
                segment = path.segment((yield a))
                integral = Integral(segment)
                for s, weight in zip(np.linspace(0, 1, 7), np.array([1, 5, 1, 6, 1, 5, 1]) / 20, strict=True):
                    integral.add(weight, segment.at(s))
                a = integral.allocation()

        begun = allocations()
        next(begun)
        return begun.send


@dataclass(frozen=True)
class NothingReused:
    """Simpson's rule that evaluates both ends of every step."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = Cost(full_gradients=3)

    def start(self, objective):
        path = Path(objective, reuse_ends=False)

        def allocate_step(step):
            segment = path.segment(step)
            integral = Integral(segment)
            for s, weight in zip(SIMPSON.nodes, SIMPSON.weights, strict=True):
                integral.add(weight, segment.at(s))
            return integral.allocation()

        return allocate_step


@dataclass(frozen=True)
class ByChance:
    """Gauss' rule or Simpson's, as the index of the step decides; the lower degree is declared."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = Cost(full_gradients=2)

    def start(self, objective):
        path = Path(objective)

        def allocate_step(step):
            segment = path.segment(step)
            rule = SIMPSON if step.index % 2 else gauss_lobatto(4)
            integral = Integral(segment)
            for s, weight in zip(rule.nodes, rule.weights, strict=True):
                integral.add(weight, segment.at(s))
            return integral.allocation()

        return allocate_step


UNUSUAL: dict[str, Estimator] = {
    **{
        rule.name: PathIntegral(rule)
        for rule in (
            composite(SIMPSON, 50),
            composite(SIMPSON, 100),
            composite(MIDPOINT, 200),
            gauss_legendre(40),
            clenshaw_curtis(8),
            clenshaw_curtis(20),
            gauss_kronrod(),
            newton_cotes(8),
            newton_cotes(16),
            radau(),
        )
    },
    "richardson": Extrapolated(1),
    "romberg": Extrapolated(4),
    "skips still steps": SkipsStill(),
    "long double": InLongDouble(),
    "Weddle's rule in NumPy": NumpyWeights(),
    "nothing reused": NothingReused(),
    "rules in turn": ByChance(),
}
RIGHT_ESTIMATORS: dict[str, Estimator] = {
    **{rule.name: PathIntegral(rule) for rule in RULES},
    "simpson with tol": PathIntegral(SIMPSON, tol=1e-4),
    "adaptive": Adaptive(),
    "adaptive fine": Adaptive(tol=1e-7, nested_tol=1e-3, audit=1),
    "adaptive limited": Adaptive(tol=1e-6, max_gradients=3),
    "adaptive per run": Adaptive(tol=0.01, per="run", audit=None),
    "adaptive per change": Adaptive(tol=0.01, per="change"),
    **UNUSUAL,
}
