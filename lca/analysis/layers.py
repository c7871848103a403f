"""Which layers help or hurt, over seeds and interventions, and how late they move.

Tests over seeds take each run as one observation: runs are independent, steps of one run are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lca.analysis.arrays import check_names, finite
from lca.errors import LCAError
from lca.groups import Groups


@dataclass(frozen=True)
class SeedTest:
    """A mean over seeds and whether it differs from 0.

    Attributes
    ----------
    name
        Of the group.
    mean, stderr
        Over the seeds; ``stderr = s / √n``, s the standard deviation with n - 1.
    low, high
        Ends of the confidence interval ``mean ± t_{n-1} · stderr``.
    t, p_value
        ``t = mean / stderr``, and the two-sided p-value of Student's t with n - 1 degrees of freedom. A
        group that is exactly 0 in every seed has t = 0 and p = 1.
    p_adjusted
        The p-value after Holm's correction for the number of groups tested together.
    """

    name: str
    mean: float
    stderr: float
    low: float
    high: float
    t: float
    p_value: float
    p_adjusted: float


def seeds_t_test(names: Sequence[str], totals: np.ndarray, *, confidence: float = 0.95) -> list[SeedTest]:
    """Does a layer help (mean < 0) or hurt (mean > 0) over seeds? A t-test for each group.

    Null hypothesis: the totals of a group are independent draws, one a seed, from a normal distribution
    of mean 0.

    Parameters
    ----------
    names
        One a group.
    totals
        Totals over the run, shape (seeds, groups), seeds ≥ 2.
    confidence
        Of the interval.

    Raises
    ------
    LCAError
        If there is one seed, or all seeds give the same number that is not 0: then they are one run.

    Examples
    --------
    >>> fc, out = seeds_t_test(["fc", "out"], np.array([[-1.0, 0.1], [-1.2, -0.2], [-1.1, 0.2]]))
    >>> round(fc.t, 1), round(fc.p_value, 4), round(fc.p_adjusted, 4), round(out.p_value, 2)
    (-19.1, 0.0027, 0.0055, 0.81)
    """
    from scipy.stats import t as student  # noqa: PLC0415  # 0.4 s to import

    totals = finite(totals, "the totals over seeds", ndim=2, least=2)
    names = check_names(names, totals.shape[1], "the totals")
    if not 0 < confidence < 1:
        raise LCAError(f"confidence must lie between 0 and 1, got {confidence}.")
    seeds = len(totals)
    mean, stderr = totals.mean(axis=0), totals.std(axis=0, ddof=1) / np.sqrt(seeds)
    same = (np.ptp(totals, axis=0) == 0) & (totals[0] != 0)
    if same.any():
        raise LCAError(
            f"all {seeds} seeds have the same total for {names[int(np.argmax(same))]!r}; were they one run?"
        )
    t = np.divide(mean, stderr, out=np.zeros(len(mean)), where=stderr > 0)
    p = 2 * student.sf(np.abs(t), seeds - 1)
    half = student.ppf((1 + confidence) / 2, seeds - 1) * stderr
    columns = (mean, stderr, mean - half, mean + half, t, p, holm(p))
    return [SeedTest(name, *map(float, row)) for name, *row in zip(names, *columns, strict=True)]


def paired_t_test(
    names: Sequence[str], changed: np.ndarray, unchanged: np.ndarray, *, confidence: float = 0.95
) -> list[SeedTest]:
    """What an intervention (a frozen layer, another learning rate) changes: a paired t-test.

    `seeds_t_test` of ``changed - unchanged``, seed by seed: what a seed does to both runs cancels. Negative:
    the intervention lowered the quantity.

    Parameters
    ----------
    names
        One a quantity: layer totals, final train and held-out loss, ...
    changed, unchanged
        Shape (seeds, quantities); row s of both is the same seed.

    Examples
    --------
    >>> [loss] = paired_t_test(["heldout loss"], [[0.9], [2.1], [2.8]], [[1.0], [2.3], [2.9]])
    >>> round(loss.mean, 3), round(loss.p_value, 2)
    (-0.133, 0.06)
    """
    changed, unchanged = np.asarray(changed, dtype=np.float64), np.asarray(unchanged, dtype=np.float64)
    if changed.shape != unchanged.shape:
        raise LCAError(
            f"a paired comparison needs the same seeds and quantities on both sides, got shapes "
            f"{changed.shape} and {unchanged.shape}."
        )
    return seeds_t_test(names, changed - unchanged, confidence=confidence)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the family-wise error stays below the level whatever the dependence.

    Sorted, ``p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j))``.

    >>> holm(np.array([0.04, 0.01, 0.03]))
    array([0.06, 0.03, 0.06])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    factor = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(factor * p_values[order]), 1.0)
    return adjusted


@dataclass(frozen=True, eq=False)
class PhaseLag:
    """Outcome of `phase_lag`.

    Attributes
    ----------
    lags
        Delays d in steps, shape (2 max_lag + 1,).
    correlation
        Shape (delays, groups), between -1 and 1 up to the ends of the record.
    """

    names: tuple[str, ...]
    lags: np.ndarray
    correlation: np.ndarray

    def lag(self) -> np.ndarray:
        """The delay d ≥ 0 of the largest correlation of each group; the first one where several are equal."""
        later = self.lags >= 0
        best = np.argmax(self.correlation[later], axis=0)
        return np.asarray(self.lags[later][best])


def phase_lag(gradient: np.ndarray, movement: np.ndarray, groups: Groups, *, max_lag: int = 20) -> PhaseLag:
    """Cross-correlation of -gradient and movement of each group as a function of the delay d.

    ``c_g(d) = mean_t Σ_{i in g} -g_{t,i} Δ_{t+d,i} / √(mean_t Σ g_{t,i}² · mean_t Σ Δ_{t,i}²)``, the first
    mean over the t that have a t + d. No mean is subtracted: a drift counts as motion. Gradient descent has
    its largest value at d = 0; momentum spreads it to later delays. A layer whose gradient has turned by
    the time it moves (its lag is a large part of its half-period) moves uphill, and hurts.

    Parameters
    ----------
    gradient, movement
        Shape (T, K), T > max_lag: the gradient at θ_t, of the training batch or of the measured loss, and
        Δ_t. Slice both for a part of the parameters.
    groups
        Of the K entries, e.g. ``layout.groups("layer")``.
    max_lag
        Delays from -max_lag to max_lag.

    Raises
    ------
    LCAError
        If the shapes do not fit, or a group has no gradient or no movement at all.

    Notes
    -----
    Cost: 2 max_lag + 1 passes over both arrays.

    Examples
    --------
    >>> from lca import Layout
    >>> gradient = np.random.default_rng(0).normal(size=(200, 4))
    >>> late = -np.roll(gradient, 3, axis=0)
    >>> phase_lag(gradient, late, Layout(("fc.weight",), ((4,),)).groups("layer")).lag()
    array([3])
    """
    gradient = finite(gradient, "the gradients", ndim=2, least=max_lag + 1)
    movement = finite(movement, "the movements", ndim=2)
    if gradient.shape != movement.shape or gradient.shape[1] != groups.parameters:
        raise LCAError(
            f"gradients and movements must have the shape (steps, {groups.parameters}) of the groups, got "
            f"{gradient.shape} and {movement.shape}."
        )
    steps = len(gradient)
    size = np.sqrt(groups.total((gradient**2).mean(axis=0)) * groups.total((movement**2).mean(axis=0)))
    if not size.all():
        raise LCAError(f"the group {groups.names[int(np.argmin(size))]!r} has no gradient or never moved.")
    lags = range(-max_lag, max_lag + 1)
    rows = []
    for lag in lags:
        early = slice(max(0, -lag), steps - max(0, lag))
        late = slice(max(0, lag), steps - max(0, -lag))
        product = np.einsum("ti,ti->i", gradient[early], movement[late])
        rows.append(-groups.total(product) / (steps - abs(lag)))
    return PhaseLag(groups.names, np.array(lags), np.array(rows) / size)
