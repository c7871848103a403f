"""Estimators by name, for command lines and configuration files.

A name is a row of a table: a new rule or estimator is one more row, and the message about an unknown
name lists it at once.
"""

from lca.allocation import Estimator
from lca.errors import UnknownNameError
from lca.estimators.adaptive import Adaptive
from lca.estimators.path_integral import PathIntegral
from lca.quadrature import (
    BOOLE,
    LEFT,
    MIDPOINT,
    RIGHT,
    RK4,
    SIMPSON,
    TRAPEZOID,
    QuadratureRule,
    gauss_legendre,
    gauss_lobatto,
)

RULES: dict[str, QuadratureRule] = {
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

ESTIMATORS: tuple[str, ...] = (*RULES, "adaptive")
"""Every name that `make_estimator` knows."""


def make_estimator(name: str, tol: float = 1e-3) -> Estimator:
    """The estimator called ``name``.

    Parameters
    ----------
    name
        ``left``, ``right``, ``midpoint``, ``trapezoid``, ``simpson`` (= ``rk4``), ``boole``, ``gauss2`` to
        ``gauss5``, ``lobatto4`` to ``lobatto6``: the same rule on every step. ``adaptive``: the trapezoid,
        refined where needed.
    tol
        Largest ``|residual|`` of a step, absolute, in units of the loss. A fixed rule flags a step that
        misses it; ``adaptive`` refines the step first.

    Raises
    ------
    UnknownNameError
        If there is no estimator of this name; the message lists those there are.

    Examples
    --------
    >>> make_estimator("rk4").rule.name
    'simpson'
    >>> make_estimator("adaptive", tol=1e-4).tol
    0.0001
    """
    if name == "adaptive":
        return Adaptive(tol=tol)
    if name in RULES:
        return PathIntegral(RULES[name], tol=tol)
    raise UnknownNameError("estimator", name, ESTIMATORS)
