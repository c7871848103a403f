"""Layers that help or hurt: t-tests over seeds and interventions, and the phase lag of their movement.

In the t-tests each run is one observation, because runs are independent and the steps of one run are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lca.analysis._arrays import check_finite, check_names
from lca.analysis._over_runs import holm_correction, mean_over_runs, t_p_value
from lca.errors import LCAError
from lca.groups import Groups


@dataclass(frozen=True)
class TTestResult:
    """The mean over seeds of one quantity, and a test of whether it differs from 0.

    Attributes
    ----------
    name
        The name of the layer or quantity.
    mean, stderr
        Mean over the seeds and its standard error ``s / √n``, where s is the sample standard deviation
        (n - 1 in the denominator). In units of the quantity; for LCA totals, those of the loss.
    low, high
        Ends of the confidence interval ``mean ± t_{n-1} · stderr``.
    t, p_value
        ``t = mean / stderr`` and its two-sided p-value under Student's t with n - 1 degrees of freedom. A
        quantity that is exactly 0 for every seed has t = 0 and p = 1.
    p_adjusted
        The p-value after Holm's correction for the number of quantities tested together.

    Examples
    --------
    >>> [result] = t_test_over_seeds(["fc"], np.array([[-1.0], [-1.2], [-1.1]]))
    >>> result.name, round(result.mean, 2), round(result.low, 2), round(result.high, 2)
    ('fc', -1.1, -1.35, -0.85)
    """

    name: str
    mean: float
    stderr: float
    low: float
    high: float
    t: float
    p_value: float
    p_adjusted: float


def t_test_over_seeds(
    names: Sequence[str], totals: np.ndarray, *, confidence: float = 0.95
) -> list[TTestResult]:
    """Test for each layer whether its mean total over seeds differs from 0 (one-sample t-test).

    A negative mean says that the layer helps, a positive one that it hurts. Null hypothesis: the totals of a
    layer are independent draws, one per seed, from a normal distribution with mean 0.

    Parameters
    ----------
    names
        The names of the layers (or other groups), one per column.
    totals
        LCA summed over each run, in units of the loss; shape (seeds, layers), with at least two seeds.
    confidence
        Confidence level of the interval, between 0 and 1.

    Returns
    -------
    list of TTestResult
        One per layer, in the order of ``names``.

    Raises
    ------
    LCAError
        If there are fewer than two seeds, ``confidence`` is out of range, or a layer has the same non-zero
        total for every seed, which suggests that the rows are copies of one run.
    NonFiniteError
        If a total is not finite.

    References
    ----------
    Student, "The probable error of a mean", Biometrika 6, 1908.

    Examples
    --------
    >>> fc, out = t_test_over_seeds(["fc", "out"], np.array([[-1.0, 0.1], [-1.2, -0.2], [-1.1, 0.2]]))
    >>> round(fc.t, 1), round(fc.p_value, 4), round(fc.p_adjusted, 4), round(out.p_value, 2)
    (-19.1, 0.0027, 0.0055, 0.81)
    """
    totals = check_finite(totals, "the totals over seeds", ndim=2, min_rows=2)
    names = check_names(names, totals.shape[1], "the totals over seeds")
    found, seeds = mean_over_runs(totals, confidence=confidence), len(totals)
    identical = (np.ptp(totals, axis=0) == 0) & (totals[0] != 0)
    if identical.any():
        raise LCAError(
            f"all {seeds} seeds have the same total for {names[int(np.argmax(identical))]!r}; pass totals of "
            "runs with different seeds, one row per run."
        )
    mean, stderr = found.mean, totals.std(axis=0, ddof=1) / np.sqrt(seeds)
    t = np.divide(mean, stderr, out=np.zeros(len(mean)), where=stderr > 0)
    p = t_p_value(mean, stderr**2, seeds - 1)
    columns = (mean, stderr, found.lower, found.upper, t, p, holm_correction(p))
    return [TTestResult(name, *map(float, row)) for name, *row in zip(names, *columns, strict=True)]


def paired_t_test(
    names: Sequence[str], changed: np.ndarray, unchanged: np.ndarray, *, confidence: float = 0.95
) -> list[TTestResult]:
    """Test the effect of an intervention, such as a frozen layer, with a paired t-test over seeds.

    This is `t_test_over_seeds` of ``changed - unchanged``. The difference within each seed removes the
    variation that both runs of the seed share. A negative mean says that the intervention lowered the
    quantity.

    Parameters
    ----------
    names
        The names of the quantities: layer totals, the final training or held-out loss, ...
    changed, unchanged
        The quantities with and without the intervention, shape (seeds, quantities). Row s of both must come
        from the same seed.
    confidence
        Confidence level of the interval, between 0 and 1.

    Returns
    -------
    list of TTestResult
        One per quantity, in the order of ``names``.

    Raises
    ------
    LCAError
        If the two shapes differ, or for the reasons given at `t_test_over_seeds`.
    NonFiniteError
        If a difference is not finite.

    Examples
    --------
    >>> [loss] = paired_t_test(["heldout loss"], [[0.9], [2.1], [2.8]], [[1.0], [2.3], [2.9]])
    >>> round(loss.mean, 3), round(loss.p_value, 2)
    (-0.133, 0.06)
    """
    changed, unchanged = np.asarray(changed, dtype=np.float64), np.asarray(unchanged, dtype=np.float64)
    if changed.shape != unchanged.shape:
        raise LCAError(
            "a paired t-test needs the same seeds and quantities in changed and unchanged, got shapes "
            f"{changed.shape} and {unchanged.shape}."
        )
    return t_test_over_seeds(names, changed - unchanged, confidence=confidence)


@dataclass(frozen=True, eq=False)
class PhaseLag:
    """The result of `phase_lag`.

    Attributes
    ----------
    names
        The names of the groups.
    lags
        The delays d in steps, from -max_lag to max_lag; shape (2 max_lag + 1,).
    correlation
        Shape (lags, groups), dimensionless. It lies between -1 and 1, except that the unequal number of terms
        at large delays can push it slightly outside.

    Examples
    --------
    >>> PhaseLag(("fc",), np.array([-1, 0, 1]), np.array([[0.9], [0.1], [0.4]])).best_lag()
    array([1])
    """

    names: tuple[str, ...]
    lags: np.ndarray
    correlation: np.ndarray

    def best_lag(self) -> np.ndarray:
        """The delay d ≥ 0 with the largest correlation, for each group; the smallest one if several tie."""
        nonnegative = self.lags >= 0
        best = np.argmax(self.correlation[nonnegative], axis=0)
        return np.asarray(self.lags[nonnegative][best])


def phase_lag(gradient: np.ndarray, movement: np.ndarray, groups: Groups, *, max_lag: int = 20) -> PhaseLag:
    """Cross-correlation of the negative gradient and the movement of each group, by delay.

    ``c_g(d) = mean_t Σ_{i in g} -g_{t,i} Δ_{t+d,i} / √(mean_t Σ g_{t,i}² · mean_t Σ Δ_{t,i}²)``, where the
    first mean runs over the t for which t + d is a step of the run. No mean is subtracted, so a drift common
    to both counts as correlation.

    Plain gradient descent has its maximum at d = 0; momentum spreads the correlation to later delays. A
    layer whose gradient has changed sign by the time it moves, because its lag is a large part of its
    half-period, moves uphill and hurts.

    Parameters
    ----------
    gradient
        The gradient at θ_t of the training batch or of the measured loss; shape (T, K), T > max_lag.
    movement
        Δ_t, shape (T, K). To analyse some of the parameters only, slice both arrays.
    groups
        A grouping of the K entries, e.g. ``layout.groups("layer")``.
    max_lag
        Largest delay, in steps.

    Raises
    ------
    LCAError
        If the shapes do not match, there are too few steps, or the gradient or movement of a group is 0 in
        every step.
    NonFiniteError
        If an entry is not finite.

    Notes
    -----
    Makes 2 max_lag + 1 passes over both arrays.

    Examples
    --------
    >>> from lca import Layout
    >>> gradient = np.random.default_rng(0).normal(size=(200, 4))
    >>> delayed = -np.roll(gradient, 3, axis=0)
    >>> phase_lag(gradient, delayed, Layout(("fc.weight",), ((4,),)).groups("layer")).best_lag()
    array([3])
    """
    gradient = check_finite(gradient, "the gradients", ndim=2, min_rows=max_lag + 1)
    movement = check_finite(movement, "the movements", ndim=2)
    if gradient.shape != movement.shape or gradient.shape[1] != groups.parameters:
        raise LCAError(
            f"gradient and movement must both have shape (steps, {groups.parameters}) to match the groups, "
            f"got {gradient.shape} and {movement.shape}."
        )
    steps = len(gradient)
    scale = np.sqrt(groups.total((gradient**2).mean(axis=0)) * groups.total((movement**2).mean(axis=0)))
    if not scale.all():
        raise LCAError(
            f"the gradient or the movement of group {groups.names[int(np.argmin(scale))]!r} is 0 in every "
            "step; leave this group out."
        )
    lags = range(-max_lag, max_lag + 1)
    rows = []
    for lag in lags:
        early = slice(max(0, -lag), steps - max(0, lag))
        late = slice(max(0, lag), steps - max(0, -lag))
        product = np.einsum("ti,ti->i", gradient[early], movement[late])
        rows.append(-groups.total(product) / (steps - abs(lag)))
    return PhaseLag(groups.names, np.array(lags), np.array(rows) / scale)
