"""The Weibull distribution fitted to |A| by maximum likelihood, with errors, from values or from counts.

``P(|A| > x) = exp(-(x/λ)^k)``: shape k = 1 is the exponential distribution, smaller k has heavier tails.
"""

from dataclasses import dataclass

import numpy as np

from lca.analysis.arrays import finite
from lca.analysis.noise import check_edges, pooled_counts
from lca.errors import LCAError

MAX_ROUNDS = 200
"""Rounds of Fisher scoring; a well-posed fit takes about ten."""


@dataclass(frozen=True)
class WeibullFit:
    """A fitted Weibull distribution.

    Attributes
    ----------
    shape, scale
        k and λ (units of the loss).
    shape_stderr, scale_stderr
        Standard errors: from the expected information, which takes all entries for independent, or from
        the spread between blocks of steps.
    distance
        ``max |F_fit(x) - F_seen(x)|`` over the values or bin edges: a fit always has numbers, and this says
        whether they describe the data. Below ``1.4 / √count`` the fit cannot be told from the data.
    count
        Number of entries.
    """

    shape: float
    scale: float
    shape_stderr: float
    scale_stderr: float
    distance: float
    count: int


def fit_weibull(values: np.ndarray) -> WeibullFit:
    """Fit |A| of single allocations, of any shape; exact zeros are left out.

    k solves ``Σ x^k ln x / Σ x^k - 1/k = mean(ln x)``, and ``λ = mean(x^k)^{1/k}``. Asymptotically
    ``Var k = 6 k² / (π² n)`` and ``Var ln λ = (1 + 6 (1 - γ)² / π²) / (n k²)``, γ Euler's constant, for n
    independent entries. Single allocations are not (neighbouring steps, one layer): then n is too large and
    the errors are too small, and `fit_weibull_counts` with ``block`` is the way.

    Raises
    ------
    LCAError
        If there are not at least two different sizes.

    Examples
    --------
    >>> draws = 0.01 * np.random.default_rng(0).weibull(0.6, size=20_000)
    >>> fit = fit_weibull(draws)
    >>> abs(fit.shape - 0.6) < 3 * fit.shape_stderr, abs(fit.scale - 0.01) < 3 * fit.scale_stderr
    (True, True)
    """
    from scipy.optimize import brentq  # noqa: PLC0415  # heavy, and only fits need it

    sizes = np.abs(finite(np.ravel(values), "the allocations"))
    logs = np.sort(np.log(sizes[sizes > 0]))
    count = len(logs)
    if count < 2 or logs[0] == logs[-1]:
        raise LCAError("a Weibull fit needs at least two allocations of different size that are not 0.")
    centred = logs - logs[-1]  # ≤ 0, so that no power overflows

    def score(log_shape: float) -> float:
        weights = np.exp(np.exp(log_shape) * centred)
        return float(weights @ centred / weights.sum() - np.exp(-log_shape) - centred.mean())

    guess = np.log(np.pi / (np.sqrt(6) * logs.std()))
    shape = float(np.exp(brentq(score, guess - 5, guess + 5, xtol=1e-12)))
    log_scale = float(np.log(np.mean(np.exp(shape * centred))) / shape + logs[-1])
    fitted = -np.expm1(-np.exp(shape * (logs - log_scale)))
    steps = np.arange(count + 1) / count
    distance = max(np.max(fitted - steps[:-1]), np.max(steps[1:] - fitted))
    return WeibullFit(
        shape, float(np.exp(log_scale)), *_errors(shape, log_scale, count), float(distance), count
    )


def fit_weibull_counts(edges: np.ndarray, counts: np.ndarray, *, block: int | None = None) -> WeibullFit:
    """Fit a histogram of |A|: the likelihood of the counts, given that an entry falls into the bins.

    ``ln P = Σ_b n_b ln[(S(e_b) - S(e_{b+1})) / (S(e_0) - S(e_B))]``, ``S(x) = exp(-(x/λ)^k)``. The bins need
    not reach 0 or infinity: entries outside are not used. Nothing is approximated by middles of bins.

    Parameters
    ----------
    edges
        Shape (bins + 1,), positive and increasing; `lca.views.LogHistogram.edges`.
    counts
        Shape (bins,), or (T, bins) with a row a step.
    block
        ``None``: errors from the expected information, as if all entries were independent. Else the robust
        ("sandwich") error from the spread of the score between blocks of this many steps: right if blocks
        are independent of each other, so choose them longer than the memory of the run. Needs rows, and
        at least 20 blocks to mean much.

    Raises
    ------
    LCAError
        If fewer than three bins are filled, or the likelihood has no maximum (a power law, say).

    Examples
    --------
    >>> draws = 0.01 * np.random.default_rng(0).weibull(0.6, size=20_000)
    >>> edges = np.logspace(-8, 0, 65)
    >>> fit = fit_weibull_counts(edges, np.histogram(draws, edges)[0])
    >>> abs(fit.shape - 0.6) < 3 * fit.shape_stderr, abs(fit.scale - 0.01) < 3 * fit.scale_stderr
    (True, True)
    """
    edges = check_edges(edges)
    pooled = pooled_counts(edges, counts)
    in_blocks = None if block is None else _block_counts(counts, block)
    if np.count_nonzero(pooled) < 3:
        raise LCAError("a Weibull fit to counts needs at least three filled bins; use finer bins.")
    total = pooled.sum()
    place = _most_likely(edges, pooled)
    probability, slopes = _bins(edges, place)
    covariance = np.linalg.inv(total * (slopes.T * probability) @ slopes)
    if in_blocks is not None:
        scores = in_blocks @ slopes
        covariance = covariance @ (scores.T @ scores) @ covariance
    shape, scale = np.exp(place)
    shape_error, scale_error = np.exp(place) * np.sqrt(np.diag(covariance))
    distance = float(np.abs(np.cumsum(probability) - np.cumsum(pooled) / total).max())
    return WeibullFit(
        float(shape), float(scale), float(shape_error), float(scale_error), distance, int(total)
    )


def _most_likely(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(ln k, ln λ) of the largest likelihood, by Fisher scoring with steps of at most 1."""
    place = _first_guess(edges, counts)
    for _ in range(MAX_ROUNDS):
        probability, slopes = _bins(edges, place)
        information = counts.sum() * (slopes.T * probability) @ slopes
        if not np.linalg.cond(information) < 1 / np.finfo(np.float64).eps:
            break
        move = np.linalg.solve(information, slopes.T @ counts)
        place = place + move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-10:
            return place
    raise LCAError(
        "the Weibull fit does not settle: no shape and scale are likeliest. The counts look like a power "
        "law, or lie in too few bins."
    )


def _errors(shape: float, log_scale: float, count: int) -> tuple[float, float]:
    """Asymptotic standard errors of shape and scale for independent entries."""
    shape_error = shape * np.sqrt(6 / count) / np.pi
    log_scale_error = np.sqrt((1 + 6 * (1 - np.euler_gamma) ** 2 / np.pi**2) / count) / shape
    return float(shape_error), float(np.exp(log_scale) * log_scale_error)


def _first_guess(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(ln k, ln λ) from mean and variance of ln |A|: those of a Gumbel distribution."""
    middle = np.log(edges[:-1] * edges[1:]) / 2
    mean = np.average(middle, weights=counts)
    shape = np.pi / np.sqrt(6 * np.average((middle - mean) ** 2, weights=counts))
    return np.array([np.log(shape), mean + np.euler_gamma / shape])


def _bins(edges: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each bin given that one was hit, and the slopes of its logarithm in (ln k, ln λ).

    With ``h = (x/λ)^k``: ``ln P_b = -h_b + ln(1 - exp(h_b - h_{b+1}))`` loses no digits at either tail, and
    ``∂h/∂ln k = h ln h``, ``∂h/∂ln λ = -k h``.
    """
    shape, log_scale = np.exp(place[0]), place[1]
    log_hazard = np.minimum(shape * (np.log(edges) - log_scale), 650.0)  # far beyond the last float64 P
    hazard = np.exp(log_hazard)
    slope = hazard[:, None] * np.array([log_hazard, np.full(len(edges), -shape)]).T
    with np.errstate(over="ignore"):
        spread = np.expm1(np.diff(hazard))
    log_mass = -hazard[:-1] + np.log(-np.expm1(-np.diff(hazard)))
    slopes = -slope[:-1] + np.diff(slope, axis=0) / spread[:, None]
    mass = np.exp(log_mass - log_mass.max())
    probability = mass / mass.sum()
    return probability, slopes - probability @ slopes


def _block_counts(counts: np.ndarray, block: int) -> np.ndarray:
    """Counts of each block of ``block`` steps; a shorter remainder joins the last one."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2 or not 1 <= block <= len(counts) // 2:
        raise LCAError(
            f"errors between blocks need counts of shape (steps, bins) and at least two blocks; got shape "
            f"{counts.shape} and block={block}."
        )
    return np.add.reduceat(counts, np.arange(0, len(counts) - block + 1, block), axis=0)
