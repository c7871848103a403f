"""Layers that help or hurt: t-tests over seeds and interventions, and the phase lag of their movement.

In the t-tests each run is one observation, because runs are independent and the steps of one run are not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, TypeAlias

import numpy as np

from lca.analysis._arrays import check_finite, check_names, check_spacing, check_steps
from lca.analysis._over_runs import holm_correction, mean_over_runs, t_p_value
from lca.analysis._skewed import skewed_test
from lca.errors import LCAError
from lca.groups import Groups
from lca.tables import Column, HasTable, Table
from lca.tolerances import EPS64, summed

COPY = 1e-6
"""Two runs whose totals agree to this are copies: the same seed on another machine, or a resumed run."""
MOST_FLIPPED = 13
"""The most seeds for which all choices of signs are enumerated."""

Rows: TypeAlias = np.ndarray | Mapping[Any, Any]
"""One row for each seed, by position or by seed."""


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
    low_adjusted, high_adjusted
        Ends of the wider interval that holds for all m tested quantities together: the level is
        ``1 - (1 - confidence) / m`` (Bonferroni).
    t, p_value
        ``t = mean / stderr`` and its two-sided p-value under Student's t with n - 1 degrees of freedom. A
        quantity that is exactly 0 for every seed is not tested; it has t = 0 and p = 1.
    p_adjusted
        The p-value after Holm's correction for the m quantities that are tested together.
    p_sign_flip
        The two-sided p-value of a sign-flip test, which assumes a symmetric distribution instead of a normal
        one: the share of the ``2^n`` choices of signs for which |mean| is at least as large. With n seeds it
        is at least ``2^(1-n)``. From 9,999 random choices if n > 13.
    low_skewed, high_skewed
        Ends of the interval after Hall's correction for the skewness of the totals. The correction assumes
        neither a normal nor a symmetric distribution, but estimates the third moment from only n seeds: see
        the Notes of `t_test_over_seeds`.
    p_skewed
        The two-sided p-value with the same correction.

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
    low_adjusted: float
    high_adjusted: float
    t: float
    p_value: float
    p_adjusted: float
    p_sign_flip: float
    low_skewed: float
    high_skewed: float
    p_skewed: float


class TTests(list[TTestResult], HasTable):
    """The results of `t_test_over_seeds` or `paired_t_test`, a list that is shown as a table.

    Parameters
    ----------
    results
        The result of each quantity.
    confidence
        The confidence level of the intervals, such as 0.95.

    Examples
    --------
    >>> print(t_test_over_seeds(["fc", "out"], [[-1.0, 0.1], [-1.2, -0.2], [-1.1, 0.2]]).table())
    mean over seeds with its 95 % interval; negative: helped
    name          mean       p  p (Holm)  p (sign flip)
    fc    −1.10 ± 0.25  0.0027    0.0055           0.25
    out   +0.03 ± 0.52    0.81      0.81              1
    """

    def __init__(self, results: Iterable[TTestResult], confidence: float) -> None:
        super().__init__(results)
        self.confidence = confidence

    def table(self) -> Table:
        """One row for each quantity."""
        means = [result.mean for result in self]
        columns = [
            Column("name", [result.name for result in self]),
            Column("mean", means, half=[result.high - result.mean for result in self]),
            Column("p", [result.p_value for result in self], sign=False, digits=2),
            Column("p (Holm)", [result.p_adjusted for result in self], sign=False, digits=2),
            Column("p (sign flip)", [result.p_sign_flip for result in self], sign=False, digits=2),
        ]
        return Table(
            columns, f"mean over seeds with its {100 * self.confidence:g} % interval; negative: helped"
        )


def t_test_over_seeds(names: Sequence[str], totals: np.ndarray, *, confidence: float = 0.95) -> TTests:
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
    TTests
        A list with one `TTestResult` per layer, in the order of ``names``; ``to_frame()``, ``to_latex()``.

    Raises
    ------
    LCAError
        If there are fewer than two seeds, ``confidence`` is out of range, a layer has the same non-zero
        total for every seed, or two seeds agree in all layers to a millionth: such rows are copies of one
        run.
    NonFiniteError
        If a total is not finite.

    References
    ----------
    Student, "The probable error of a mean", Biometrika 6, 1908. P. Hall, "On the removal of skewness by
    transformation", J. R. Stat. Soc. B 54, 1992.

    Notes
    -----
    Rate of p ≤ 0.05 if the true mean is 0 (20,000 simulated runs each):

    ==================  =======  =======  ========  =======  =======  ========
    totals              t, n=3   t, n=5   t, n=10   Hall, 3  Hall, 5  Hall, 10
    ==================  =======  =======  ========  =======  =======  ========
    normal              0.05     0.05     0.05      0.05     0.05     0.05
    exponential         0.12     0.12     0.10      0.09     0.08     0.06
    log-normal          0.17     0.18     0.16      0.13     0.12     0.10
    Student's t, 2      0.03     0.03     0.03      0.03     0.05     0.07
    ==================  =======  =======  ========  =======  =======  ========

    The correction thus halves the excess of false alarms for skewed totals and leaves the rate for normal
    totals unchanged, but no test with so few seeds has the right rate for every distribution.

    Examples
    --------
    >>> fc, out = t_test_over_seeds(["fc", "out"], np.array([[-1.0, 0.1], [-1.2, -0.2], [-1.1, 0.2]]))
    >>> round(fc.t, 1), round(fc.p_value, 4), round(fc.p_adjusted, 4), round(out.p_value, 2)
    (-19.1, 0.0027, 0.0055, 0.81)
    """
    totals = check_finite(totals, "the totals over seeds", ndim=2, min_rows=2)
    if len(names) == len(totals) != totals.shape[1]:
        raise LCAError(
            f"the totals over seeds have shape {totals.shape} and there are {len(names)} names: one row for "
            "each seed and one column for each name is expected; pass totals.T."
        )
    names = check_names(names, totals.shape[1], "the totals over seeds")
    _refuse_copies(totals)
    return _t_tests(names, totals, confidence)


def _t_tests(names: Sequence[str], totals: np.ndarray, confidence: float) -> TTests:
    found, seeds = mean_over_runs(totals, confidence=confidence), len(totals)
    identical = (np.ptp(totals, axis=0) == 0) & (totals[0] != 0)
    if identical.any():
        raise LCAError(
            f"all {seeds} seeds have the same total for {names[int(np.argmax(identical))]!r}; pass totals of "
            "runs with different seeds, one row per run."
        )
    mean, stderr = found.mean, totals.std(axis=0, ddof=1) / np.sqrt(seeds)
    tested = stderr > 0
    t = np.divide(mean, stderr, out=np.zeros(len(mean)), where=tested)
    p = t_p_value(mean, stderr**2, seeds - 1)
    adjusted = np.ones(len(p))
    adjusted[tested] = holm_correction(p[tested])
    together = mean_over_runs(totals, confidence=1 - (1 - confidence) / max(1, int(tested.sum())))
    columns = (
        *(mean, stderr, found.lower, found.upper, together.lower, together.upper),
        *(t, p, adjusted, _sign_flip_p_value(totals)),
        *skewed_test(totals, confidence),
    )
    rows = zip(names, *columns, strict=True)
    return TTests((TTestResult(name, *map(float, row)) for name, *row in rows), confidence)


def _refuse_copies(totals: np.ndarray) -> None:
    """Raise if two seeds agree in two quantities or more, and in all, but for rounding."""
    for one, other in combinations(range(len(totals)), 2):
        pair = totals[[one, other]]
        scale = np.abs(pair).max(axis=0)
        if np.count_nonzero(scale) > 1 and (np.ptp(pair, axis=0) <= COPY * scale).all():
            raise LCAError(
                f"rows {one} and {other} of the totals over seeds agree to a millionth in all columns: they "
                "are copies of one run. Pass runs with different seeds, one row per run."
            )


def _sign_flip_p_value(totals: np.ndarray) -> np.ndarray:
    """Two-sided p-values of the means under all, or many random, choices of signs of the rows."""
    seeds, observed = len(totals), np.abs(totals.sum(axis=0))
    if seeds <= MOST_FLIPPED:
        signs = np.array(list(product([1.0, -1.0], repeat=seeds)))
    else:
        signs = np.random.default_rng(0).choice([1.0, -1.0], size=(10_000, seeds))
        signs[0] = 1.0  # the data themselves
    reached = np.abs(signs @ totals) >= observed * (1 - summed(seeds, EPS64))
    return np.asarray(reached.mean(axis=0))


def paired_t_test(
    names: Sequence[str], changed: Rows, unchanged: Rows, *, confidence: float = 0.95
) -> TTests:
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
        from the same seed. Or mappings from the seed to its row, which are paired by seed.
    confidence
        Confidence level of the interval, between 0 and 1.

    Returns
    -------
    TTests
        A list with one `TTestResult` per quantity, in the order of ``names``.

    Raises
    ------
    LCAError
        If the two shapes or the seeds differ, or for the reasons given at `t_test_over_seeds`.
    NonFiniteError
        If a difference is not finite.

    Examples
    --------
    >>> [loss] = paired_t_test(["heldout loss"], [[0.9], [2.1], [2.8]], [[1.0], [2.3], [2.9]])
    >>> round(loss.mean, 3), round(loss.p_value, 2)
    (-0.133, 0.06)
    """
    rows = (changed, unchanged)
    if any(isinstance(given, Mapping) for given in rows):
        rows = _paired_by_seed(changed, unchanged)
    after, before = (np.asarray(given, dtype=np.float64) for given in rows)
    if after.shape != before.shape:
        raise LCAError(
            "a paired t-test needs the same seeds and quantities in changed and unchanged, got shapes "
            f"{after.shape} and {before.shape}."
        )
    differences = check_finite(after - before, "the totals over seeds", ndim=2, min_rows=2)
    names = check_names(names, differences.shape[1], "the totals over seeds")
    _refuse_copies(after)
    _refuse_copies(before)
    return _t_tests(names, differences, confidence)


def _paired_by_seed(changed: Rows, unchanged: Rows) -> tuple[Any, Any]:
    if not (isinstance(changed, Mapping) and isinstance(unchanged, Mapping)):
        raise LCAError("pass either mappings from seeds to rows for both conditions, or arrays for both.")
    if changed.keys() != unchanged.keys():
        alone = sorted(map(str, changed.keys() ^ unchanged.keys()))
        raise LCAError(
            f"a paired t-test needs both runs of every seed, but there is only one of {', '.join(alone)}. "
            "Leave these seeds out."
        )
    return list(changed.values()), [unchanged[seed] for seed in changed]


@dataclass(frozen=True, eq=False)
class PhaseLag:
    """The result of `phase_lag`.

    Attributes
    ----------
    names
        The names of the groups.
    lags
        The delays d in steps, from -max_lag to max_lag rows; shape (2 max_lag + 1,).
    correlation
        Shape (lags, groups), dimensionless. It lies between -1 and 1, except that the unequal number of terms
        at large delays can push it slightly outside.
    rows
        The number of rows T that were correlated.

    Examples
    --------
    >>> found = PhaseLag(("fc",), np.array([-1, 0, 1]), np.array([[0.9], [0.1], [0.4]]), rows=100)
    >>> found.best_lag(), found.remarks()
    (array([1]), ('at the edge',))
    """

    names: tuple[str, ...]
    lags: np.ndarray
    correlation: np.ndarray
    rows: int

    def best_lag(self) -> np.ndarray:
        """The delay d ≥ 0 with the largest correlation, for each group; the smallest one if several tie."""
        nonnegative = self.lags >= 0
        best = np.argmax(self.correlation[nonnegative], axis=0)
        return np.asarray(self.lags[nonnegative][best])

    def remarks(self) -> tuple[str, ...]:
        """What to know of the best lag of each group; empty text if it is a peak.

        ``"at the edge"``: it is the largest delay looked at; raise max_lag. ``"no peak"``: no correlation at
        a delay d ≥ 0 exceeds ``2 / √T``, about what independent series of T rows reach.
        """
        largest = self.correlation[self.lags >= 0].max(axis=0)
        unclear = largest <= 2 / np.sqrt(self.rows)
        edge = (self.best_lag() == self.lags[-1]) & (self.lags[-1] > 0)
        return tuple(
            "no peak" if no else "at the edge" if at else "" for no, at in zip(unclear, edge, strict=True)
        )


def phase_lag(
    gradient: np.ndarray,
    movement: np.ndarray,
    groups: Groups,
    *,
    max_lag: int = 20,
    steps: Sequence[int] | None = None,
) -> PhaseLag:
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
        Largest delay, in rows.
    steps
        The steps of the rows, at equal distances; by default the coordinate "step" of an
        `xarray.DataArray`, else 0, 1, 2, ... Delays are in these units.

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
    given, gradient = gradient, check_finite(gradient, "the gradients", ndim=2, min_rows=max_lag + 1)
    movement = check_finite(movement, "the movements", ndim=2)
    if gradient.shape != movement.shape or gradient.shape[1] != groups.parameters:
        raise LCAError(
            f"gradient and movement must both have shape (steps, {groups.parameters}) to match the groups, "
            f"got {gradient.shape} and {movement.shape}."
        )
    count, spacing = len(gradient), check_spacing(check_steps(steps, given, len(gradient)), "the phase lag")
    scale = np.sqrt(groups.total((gradient**2).mean(axis=0)) * groups.total((movement**2).mean(axis=0)))
    if not scale.all():
        raise LCAError(
            f"the gradient or the movement of group {groups.names[int(np.argmin(scale))]!r} is 0 in every "
            "step; leave this group out."
        )
    lags = range(-max_lag, max_lag + 1)
    rows = []
    for lag in lags:
        early = slice(max(0, -lag), count - max(0, lag))
        late = slice(max(0, lag), count - max(0, -lag))
        product = np.einsum("ti,ti->i", gradient[early], movement[late])
        rows.append(-groups.total(product) / (count - abs(lag)))
    return PhaseLag(groups.names, spacing * np.array(lags), np.array(rows) / scale, count)
