"""The registry of named estimators: one row says how each is made; everything else it declares itself.

``lca estimators``, ``lca demo``, ``lca cite``, the table in the documentation and the tests of the laws read
it. A new estimator is a new row of `_ESTIMATORS`, a new quadrature rule one of `lca.quadrature.RULES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lca.allocation import Estimator
from lca.errors import UnknownNameError
from lca.estimators._adaptive import Adaptive
from lca.estimators._adaptive_sample_size import AdaptiveSampleSize
from lca.estimators._control_variate import ControlVariate
from lca.estimators._crossfit import CrossFit
from lca.estimators._lagged import LaggedCrossFit
from lca.estimators._minibatch import NextBatch, SameBatch
from lca.estimators._path_integral import PathIntegral
from lca.estimators._sampled_path_integral import SampledPathIntegral
from lca.estimators._stochastic import StochasticEstimator, required_fields_of
from lca.quadrature import LEFT, RIGHT, RULES, SIMPSON, TRAPEZOID, QuadratureRule

Make = Callable[[float], Estimator]
"""Makes an estimator from the tolerance of a step; sampled estimators have no use for it."""


@dataclass(frozen=True)
class NamedEstimator:
    """A row of the registry.

    Parameters
    ----------
    name
        The name on the command line.
    description
        What it does, in one line.
    make
        Makes it from the largest ``|residual|`` of a step, in units of the loss.
    better
        The name of one that is more accurate at the same cost, and why one might still take this one; empty
        if there is none.

    Examples
    --------
    >>> row = REGISTRY["cross-fit"]
    >>> row.target, row.sampled, row.required_fields
    ('batch', True, ('micro_batches', 'next_gradient'))
    """

    name: str
    description: str
    make: Make
    better: str = ""

    @property
    def target(self) -> str:
        """The loss that is allocated: ``"full"``, ``"batch"`` or ``"probe"``."""
        return self._usual.target

    @property
    def sampled(self) -> bool:
        """Whether the estimator works on batches or samples, and measures no loss."""
        return isinstance(self._usual, StochasticEstimator)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The fields of `lca.Step` that the training loop must supply."""
        return required_fields_of(self._usual)

    @property
    def _usual(self) -> Estimator:
        return self.make(_TOL)


_TOL = 1e-3


def _rule(name: str, rule: QuadratureRule) -> NamedEstimator:
    better = "trapezoid; this one is for comparison with older results" if rule in (LEFT, RIGHT) else ""
    return NamedEstimator(name, rule.description, lambda tol: PathIntegral(rule, tol=tol), better)


def _fixed(name: str, description: str, estimator: StochasticEstimator, better: str = "") -> NamedEstimator:
    return NamedEstimator(name, description, lambda tol: estimator, better)


_STRATIFIED = SampledPathIntegral(sampling="stratified")
_ESTIMATORS = (
    NamedEstimator("adaptive", "trapezoid, refined on the steps that need it", lambda tol: Adaptive(tol=tol)),
    _fixed(
        "same-batch",
        "the training gradient times the update; strongly biased",
        SameBatch(),
        "cross-fit; this one is synaptic intelligence, for comparison",
    ),
    _fixed("next-left", "next batch, start of the step", NextBatch(LEFT), "next-trapezoid"),
    _fixed(
        "next-right",
        "next batch, end of the step",
        NextBatch(RIGHT),
        "cross-fit; this one needs no micro-batches",
    ),
    _fixed(
        "next-trapezoid",
        "next batch, mean of both ends",
        NextBatch(TRAPEZOID),
        "probe-stratified, with a sample as large as a batch; this one needs no scores",
    ),
    _fixed("next-simpson", "next batch, Simpson's rule, for large steps", NextBatch(SIMPSON)),
    _fixed(
        "cross-fit-left", "micro-batches of training, start of the step", CrossFit(rule=LEFT), "cross-fit"
    ),
    _fixed("cross-fit", "micro-batches of training, mean of both ends", CrossFit()),
    _fixed("lagged", "earlier gradients of training in place of micro-batches", LaggedCrossFit()),
    _fixed(
        "probe",
        "uniform samples of the data",
        SampledPathIntegral(),
        "probe-stratified; this one needs no scores",
    ),
    _fixed(
        "probe-importance",
        "samples drawn by error",
        SampledPathIntegral(sampling="importance"),
        "probe-stratified",
    ),
    _fixed("probe-stratified", "samples drawn by error, spread evenly over classes", _STRATIFIED),
    _fixed("anchored", "stratified samples with a control variate", ControlVariate(_STRATIFIED)),
    _fixed(
        "budget", "stratified samples sized for 256 examples a step", AdaptiveSampleSize(_STRATIFIED, 256)
    ),
)

REGISTRY: Mapping[str, NamedEstimator] = {
    row.name: row for row in (*(_rule(*item) for item in RULES.items()), *_ESTIMATORS)
}
"""Every named estimator, by name."""


def named_estimator(name: str) -> NamedEstimator:
    """The row of the registry called ``name``.

    Raises
    ------
    UnknownNameError
        If there is no estimator of this name; the message lists all names.

    Examples
    --------
    >>> named_estimator("adaptive").description
    'trapezoid, refined on the steps that need it'
    """
    if name not in REGISTRY:
        raise UnknownNameError("estimator", name, REGISTRY)
    return REGISTRY[name]


def make_estimator(name: str, tol: float = _TOL) -> Estimator:
    """The estimator called ``name``, with its usual settings.

    Parameters
    ----------
    name
        A quadrature rule of `lca.quadrature.RULES` (``rk4``, ``trapezoid``, ...), used on every step;
        ``adaptive``; or a sampled estimator (``cross-fit``, ``probe-stratified``, ...). ``lca estimators``
        lists all.
    tol
        Largest ``|residual|`` of a step, absolute, in units of the loss. A fixed rule flags a step that
        misses it; ``adaptive`` refines the step first; sampled estimators measure no residual and ignore it.

    Raises
    ------
    UnknownNameError
        If there is no estimator of this name; the message lists all names.
    LCAError
        If ``tol`` is not positive.

    Examples
    --------
    >>> make_estimator("rk4").rule.name
    'simpson'
    >>> make_estimator("adaptive", tol=1e-4).tol
    0.0001
    """
    return named_estimator(name).make(tol)
