"""Estimators by name, for command lines and configuration files.

A name is a row of a table: a new rule or estimator is one more row, and the message about an unknown
name lists it at once.
"""

from lca.allocation import Estimator
from lca.errors import UnknownNameError
from lca.estimators.adaptive import Adaptive
from lca.estimators.adaptive_sample_size import AdaptiveSampleSize
from lca.estimators.control_variate import ControlVariate
from lca.estimators.crossfit import CrossFit
from lca.estimators.minibatch import NextBatch, SameBatch
from lca.estimators.path_integral import PathIntegral
from lca.estimators.sampled_path_integral import SampledPathIntegral
from lca.estimators.stochastic import StochasticEstimator
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
"""Every name of an estimator of the full loss, which needs nothing from the loop but its path."""

CHEAP: dict[str, StochasticEstimator] = {
    "same-batch": SameBatch(),
    **{f"next-{rule.name}": NextBatch(rule) for rule in (LEFT, RIGHT, TRAPEZOID, SIMPSON)},
    "cross-fit-left": CrossFit(rule=LEFT),
    "cross-fit": CrossFit(),
    "probe": SampledPathIntegral(),
    "probe-importance": SampledPathIntegral(sampling="importance"),
    "probe-stratified": SampledPathIntegral(sampling="stratified"),
    "anchored": ControlVariate(SampledPathIntegral(sampling="stratified")),
    "budget": AdaptiveSampleSize(SampledPathIntegral(sampling="stratified"), examples=256),
}
"""Estimators on batches and samples, with usual settings; they declare what they need from the loop."""


def make_estimator(name: str, tol: float = 1e-3) -> Estimator:
    """The estimator called ``name``.

    Parameters
    ----------
    name
        ``left``, ``right``, ``midpoint``, ``trapezoid``, ``simpson`` (= ``rk4``), ``boole``, ``gauss2`` to
        ``gauss5``, ``lobatto4`` to ``lobatto6``: the same rule on every step. ``adaptive``: the trapezoid,
        refined where needed. Or one of the cheap ones: ``cross-fit``, ``probe-stratified``, ...
    tol
        Largest ``|residual|`` of a step, absolute, in units of the loss. A fixed rule flags a step that
        misses it; ``adaptive`` refines the step first; the cheap ones measure no residual.

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
    if name in CHEAP:
        return CHEAP[name]
    raise UnknownNameError("estimator", name, (*ESTIMATORS, *CHEAP))
