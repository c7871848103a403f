"""Weibull distributions fitted to |A| by maximum likelihood, from single values or from histograms.

``P(|A| > x) = exp(-(x/λ)^k)``. Shape k = 1 is the exponential distribution; a smaller k has heavier tails.
"""

from dataclasses import dataclass

import numpy as np

from lca.analysis._arrays import check_finite
from lca.analysis._noise import check_edges, pool_counts, sum_blocks
from lca.errors import LCAError

KOLMOGOROV = 0.874
"""The 95 % point of ``√n`` times the distance of a Weibull distribution whose two parameters were fitted."""
MAX_ITERATIONS = 200
"""The limit on the iterations of Fisher scoring; a well-posed fit needs about ten."""


@dataclass(frozen=True)
class WeibullFit:
    """A fitted Weibull distribution.

    Attributes
    ----------
    shape, scale
        k (dimensionless) and λ (in units of the loss).
    shape_stderr, scale_stderr
        Their standard errors: from the expected information, which assumes independent entries, or from the
        spread between blocks of steps.
    distance
        The Kolmogorov-Smirnov distance ``max |F_fit(x) - F_data(x)|`` over the values or the bin edges. Every
        data set yields a fit; the distance tells whether it describes the data.
    count
        The number of entries, n.

    Examples
    --------
    >>> fit = fit_weibull(np.array([0.1, 0.2, 0.4, 0.8]))
    >>> round(fit.shape, 2), round(fit.scale, 2), fit.count
    (1.45, 0.42, 4)
    """

    shape: float
    scale: float
    shape_stderr: float
    scale_stderr: float
    distance: float
    count: int

    @property
    def distance_limit(self) -> float:
        """``0.874 / √n``: n independent entries of a Weibull distribution lie within it in 95 % of samples.

        A larger distance says that the distribution is another one, or that the entries depend on each
        other, as those of neighbouring steps do. A smaller one says that n entries do not show a difference.
        For a histogram the limit is cautious: with 8 bins a decade 95 % are below ``0.77 / √n``.

        References
        ----------
        M. Chandra, N. D. Singpurwalla, M. A. Stephens, J. American Statistical Association 76, 1981.
        """
        return float(KOLMOGOROV / np.sqrt(self.count))


def fit_weibull(values: np.ndarray) -> WeibullFit:
    """Fit a Weibull distribution to |A| of single allocations; exact zeros are skipped.

    The shape k solves ``Σ x^k ln x / Σ x^k - 1/k = mean(ln x)``, and ``λ = mean(x^k)^{1/k}``. For n
    independent entries, asymptotically ``Var k = 6 k² / (π² n)`` and
    ``Var ln λ = (1 + 6 (1 - γ)² / π²) / (n k²)``, where γ is Euler's constant. Single allocations are not
    independent: neighbouring steps and parameters of one layer are correlated, so these errors are too small.
    `fit_weibull_histogram` with ``block`` gives errors that allow for this.

    Parameters
    ----------
    values
        Allocations in units of the loss, of any shape and either sign.

    Raises
    ------
    LCAError
        If the non-zero allocations do not have at least two different magnitudes.
    NonFiniteError
        If an entry is not finite.

    Examples
    --------
    >>> draws = 0.01 * np.random.default_rng(0).weibull(0.6, size=20_000)
    >>> fit = fit_weibull(draws)
    >>> abs(fit.shape - 0.6) < 3 * fit.shape_stderr, abs(fit.scale - 0.01) < 3 * fit.scale_stderr
    (True, True)
    """
    from scipy.optimize import brentq  # noqa: PLC0415  # slow to import, and only fits need it

    magnitudes = np.abs(check_finite(np.ravel(values), "the allocations"))
    logs = np.sort(np.log(magnitudes[magnitudes > 0]))
    count = len(logs)
    if count < 2 or logs[0] == logs[-1]:
        raise LCAError("a Weibull fit needs non-zero allocations of at least two different magnitudes.")
    centred = logs - logs[-1]  # ≤ 0, so that no power overflows

    def score(log_shape: float) -> float:
        weights = np.exp(np.exp(log_shape) * centred)
        return float(weights @ centred / weights.sum() - np.exp(-log_shape) - centred.mean())

    low = high = float(np.log(np.pi / (np.sqrt(6) * logs.std())))
    while score(low) > 0:  # it rises from -∞ to a positive number
        low -= 1
    while score(high) < 0:
        high += 1
    shape = float(np.exp(brentq(score, low - 1, high + 1, xtol=1e-12)))
    log_scale = float(np.log(np.mean(np.exp(shape * centred))) / shape + logs[-1])
    fitted = -np.expm1(-np.exp(shape * (logs - log_scale)))
    empirical = np.arange(count + 1) / count
    distance = max(np.max(fitted - empirical[:-1]), np.max(empirical[1:] - fitted))
    return WeibullFit(
        shape, float(np.exp(log_scale)), *_standard_errors(shape, log_scale, count), float(distance), count
    )


def fit_weibull_histogram(edges: np.ndarray, counts: np.ndarray, *, block: int | None = None) -> WeibullFit:
    """Fit a Weibull distribution to a histogram of |A|, given that every entry lies within the bins.

    Maximizes ``ln P = Σ_b n_b ln[(S(e_b) - S(e_{b+1})) / (S(e_0) - S(e_B))]`` with ``S(x) = exp(-(x/λ)^k)``.
    This is the exact likelihood of the counts: no value is replaced by the centre of its bin. The bins need
    not cover all entries; those outside are ignored, without bias.

    Parameters
    ----------
    edges
        Bin edges of |A| in units of the loss, shape (bins + 1,), positive and increasing; for example
        `lca.views.LogHistogram.edges`.
    counts
        Shape (bins,), or (T, bins) with one row per step.
    block
        ``None`` computes the standard errors from the expected information, as if all entries were
        independent and the distribution a Weibull. An integer gives the robust ("sandwich") errors
        ``J⁻¹ S J⁻¹`` from the observed information J and the spread S of the score between blocks of this
        many steps. They are right if the blocks are independent of each other, for any distribution of the
        entries: choose blocks longer than the correlation time of the run, and have at least 20 of them.
        Needs counts per step.

    Raises
    ------
    LCAError
        If the edges or counts are invalid, fewer than three bins are filled, there are fewer than two blocks,
        or the likelihood has no maximum, as for a power law.
    NonFiniteError
        If an edge is not finite.

    Examples
    --------
    >>> draws = 0.01 * np.random.default_rng(0).weibull(0.6, size=20_000)
    >>> edges = np.logspace(-8, 0, 65)
    >>> fit = fit_weibull_histogram(edges, np.histogram(draws, edges)[0])
    >>> abs(fit.shape - 0.6) < 3 * fit.shape_stderr, abs(fit.scale - 0.01) < 3 * fit.scale_stderr
    (True, True)
    """
    edges = check_edges(edges)
    pooled = pool_counts(edges, counts)
    block_counts = None if block is None else sum_blocks(counts, block)
    if np.count_nonzero(pooled) < 3:
        raise LCAError("a Weibull fit to a histogram needs at least three filled bins; use finer bins.")
    total = pooled.sum()
    log_params = _maximize_likelihood(edges, pooled)
    probability, slopes = _bin_probabilities(edges, log_params)
    covariance = np.linalg.inv(total * (slopes.T * probability) @ slopes)
    if block_counts is not None:
        inverse, scores = (
            np.linalg.inv(_observed_information(edges, pooled, log_params)),
            block_counts @ slopes,
        )
        covariance = inverse @ (scores.T @ scores) @ inverse
    shape, scale = np.exp(log_params)
    shape_error, scale_error = np.exp(log_params) * np.sqrt(np.diag(covariance))
    distance = float(np.abs(np.cumsum(probability) - np.cumsum(pooled) / total).max())
    return WeibullFit(
        float(shape), float(scale), float(shape_error), float(scale_error), distance, int(total)
    )


def _maximize_likelihood(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(ln k, ln λ) at the maximum of the likelihood, by Fisher scoring with steps of at most 1."""
    log_params = _initial_guess(edges, counts)
    for _ in range(MAX_ITERATIONS):
        probability, slopes = _bin_probabilities(edges, log_params)
        information = counts.sum() * (slopes.T * probability) @ slopes
        if not np.linalg.cond(information) < 1 / np.finfo(np.float64).eps:
            break
        move = np.linalg.solve(information, slopes.T @ counts)
        log_params = log_params + move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-10:
            return log_params
    raise LCAError(
        "the Weibull fit does not converge because the likelihood has no maximum; the counts follow a power "
        "law, or fill too few bins. Use finer bins, or do not fit a Weibull distribution."
    )


def _observed_information(edges: np.ndarray, counts: np.ndarray, log_params: np.ndarray) -> np.ndarray:
    """The negative second derivatives of the log-likelihood by (ln k, ln λ), by central differences."""
    step = float(np.cbrt(np.finfo(np.float64).eps))
    ahead, behind = (
        np.array(
            [counts @ _bin_probabilities(edges, log_params + move)[1] for move in sign * step * np.eye(2)]
        )
        for sign in (1, -1)
    )
    hessian = (ahead - behind) / (2 * step)
    return np.asarray(-(hessian + hessian.T) / 2)


def _standard_errors(shape: float, log_scale: float, count: int) -> tuple[float, float]:
    """Asymptotic standard errors of shape and scale for independent entries."""
    shape_error = shape * np.sqrt(6 / count) / np.pi
    log_scale_error = np.sqrt((1 + 6 * (1 - np.euler_gamma) ** 2 / np.pi**2) / count) / shape
    return float(shape_error), float(np.exp(log_scale) * log_scale_error)


def _initial_guess(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(ln k, ln λ) from the mean and variance of ln |A|, which has a Gumbel distribution."""
    log_centre = np.log(edges[:-1] * edges[1:]) / 2
    mean = np.average(log_centre, weights=counts)
    shape = np.pi / np.sqrt(6 * np.average((log_centre - mean) ** 2, weights=counts))
    return np.array([np.log(shape), mean + np.euler_gamma / shape])


def _bin_probabilities(edges: np.ndarray, log_params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Conditional probability of each bin, and the derivatives of its logarithm by (ln k, ln λ).

    With the cumulative hazard ``h = (x/λ)^k``, the form ``ln P_b = -h_b + ln(1 - exp(h_b - h_{b+1}))`` is
    accurate in both tails. ``∂h/∂ln k = h ln h`` and ``∂h/∂ln λ = -k h``.
    """
    shape, log_scale = np.exp(log_params[0]), log_params[1]
    log_hazard = np.minimum(shape * (np.log(edges) - log_scale), 650.0)  # beyond this P is 0 in float64
    hazard = np.exp(log_hazard)
    slope = hazard[:, None] * np.array([log_hazard, np.full(len(edges), -shape)]).T
    with np.errstate(over="ignore"):
        spread = np.expm1(np.diff(hazard))
    log_mass = -hazard[:-1] + np.log(-np.expm1(-np.diff(hazard)))
    slopes = -slope[:-1] + np.diff(slope, axis=0) / spread[:, None]
    mass = np.exp(log_mass - log_mass.max())
    probability = mass / mass.sum()
    return probability, slopes - probability @ slopes
