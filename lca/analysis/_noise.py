"""How noisy learning is: percentages of helping parameters, and the tails of the allocations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np

from lca.analysis._arrays import check_finite, check_names
from lca.errors import LCAError
from lca.views._signs import Signs

BLOCKS = 10
"""Blocks of steps for the error of a mean over a run; more would be shorter than its correlation."""
FEWEST_STEPS = 64
"""With fewer steps a block is too short to be independent of the next one."""


@dataclass(frozen=True)
class HelpingRow:
    """One row of a helping table. `lca.views.Signs` defines the percentages.

    Attributes
    ----------
    name
        The name of the group.
    helping_percent
        ``100 · #(A < 0) / #(A ≠ 0)`` of a step, averaged over the steps in which some A ≠ 0; NaN if there is
        no such step.
    pooled_percent
        The same ratio over the entries of all steps together, so that steps with fewer zeros weigh more.
    zero_percent
        ``100 · #(A = 0) / #A`` of a step, averaged over all steps.
    steps_without
        The number of steps in which every A of the group is exactly 0. Such a step has no helping percentage.
    helping_stderr
        The standard error of ``helping_percent`` from the means over ten blocks of successive steps, which
        allows for correlation between neighbouring steps; NaN with fewer than 64 steps. A trend over the run
        is a part of it.

    Examples
    --------
    >>> signs = Signs(np.array([[3], [0]]), np.array([[1], [0]]), np.array([[0], [4]]))
    >>> [row] = helping_table(["fc"], signs)
    >>> row.helping_percent, row.zero_percent, row.steps_without
    (75.0, 50.0, 1)
    """

    name: str
    helping_percent: float
    pooled_percent: float
    zero_percent: float
    steps_without: int
    helping_stderr: float


def helping_table(names: Sequence[str], signs: Signs) -> list[HelpingRow]:
    """Percentages of helping and zero entries of each group (tensor, layer), over a run.

    Parameters
    ----------
    names
        The names of the groups, one per column.
    signs
        Counts of shape (T, groups), from `lca.views.HelpingCounts.per_group` or, for a record, from
        `lca.analysis.group_signs`. The percentages of single steps are ``signs.helping_percent()``.

    Returns
    -------
    list of HelpingRow
        One per group, in the order of ``names``.

    Raises
    ------
    LCAError
        If the counts do not have two axes, or their number of columns is not the number of names.

    Examples
    --------
    >>> signs = Signs(np.array([[3], [1]]), np.array([[1], [1]]), np.array([[0], [2]]))
    >>> helping_table(["fc"], signs)
    [HelpingRow(name='fc', helping_percent=62.5, pooled_percent=66.66666666666667, zero_percent=25.0, \
steps_without=0, helping_stderr=nan)]
    """
    if signs.helping.ndim != 2:
        raise LCAError(
            f"a helping table needs counts of shape (steps, groups), got shape {signs.helping.shape}; use "
            "HelpingCounts.per_group() or group_signs()."
        )
    names = check_names(names, signs.helping.shape[1], "the counts")
    signs = Signs(*map(np.asarray, (signs.helping, signs.hurting, signs.zero)))
    pooled = Signs(*(counts.sum(axis=0) for counts in (signs.helping, signs.hurting, signs.zero)))
    columns = (
        signs.mean_helping_percent().tolist(),
        pooled.helping_percent().tolist(),
        signs.mean_zero_percent().tolist(),
        signs.steps_without_percent().tolist(),
        [_stderr_over_steps(column) for column in signs.helping_percent().T],
    )
    return [HelpingRow(*row) for row in zip(names, *columns, strict=True)]


def signs_by_parameter(allocations: Iterable[np.ndarray]) -> Signs:
    """Count for each parameter the steps in which it is helping, hurting or zero; counts of shape (K,).

    ``signs_by_parameter(values).helping_percent()`` is the helping percentage of each parameter over the
    steps in which its allocation is not 0.

    Parameters
    ----------
    allocations
        Allocations of single parameters: an array of shape (T, K), or an iterable of T vectors (K,).

    Raises
    ------
    LCAError
        If there is no row.
    NonFiniteError
        If an entry is not finite.

    Notes
    -----
    Memory: O(K) beyond the input.

    Examples
    --------
    >>> signs = signs_by_parameter(np.array([[-1.0, 2.0, 0.0], [-2.0, -1.0, 0.0]]))
    >>> signs.helping_percent(), signs.zero
    (array([100.,  50.,  nan]), array([0, 0, 2]))
    """
    counts: np.ndarray | None = None
    for row in allocations:
        row = check_finite(row, "the allocations", ndim=1)  # noqa: PLW2901
        signs = np.array([row < 0, row > 0, row == 0], dtype=np.int64)
        counts = signs if counts is None else counts + signs
    if counts is None:
        raise LCAError("signs_by_parameter needs at least one row of allocations, got none.")
    return Signs(*counts)


@dataclass(frozen=True)
class Tails:
    """How unequal the non-zero allocations of single parameters and steps are, in dimensionless statistics.

    Attributes
    ----------
    count
        The number of entries with A ≠ 0. The other statistics describe these entries only.
    kurtosis
        Excess kurtosis ``E[(A - E A)⁴] / E[(A - E A)²]² - 3``: 0 for a normal distribution, 3 for a Laplace
        distribution.
    gini
        Gini coefficient of |A|: 0 if all |A| are equal, close to 1 if a few entries hold nearly all of
        ``Σ|A|``.
    top_share
        The share of ``Σ|A|`` held by the largest entries, a fraction ``top`` of all of them.
    top
        That fraction.
    kurtosis_stderr, gini_stderr
        Standard errors by leaving out one block of steps after the other (jackknife); NaN without ``block``.
    top_share_stderr
        That of ``top_share``.

    Examples
    --------
    >>> found = tails(np.array([1.0, -1.0, 1.0, -5.0]), top=0.25)
    >>> found.count, round(found.gini, 3), found.top_share
    (4, 0.375, 0.625)
    """

    count: float
    kurtosis: float
    gini: float
    top_share: float
    top: float
    kurtosis_stderr: float = nan
    gini_stderr: float = nan
    top_share_stderr: float = nan


def tails(values: np.ndarray, *, top: float = 0.01, block: int | None = None) -> Tails:
    """Kurtosis, Gini coefficient and top share of single allocations; exact zeros are skipped.

    Parameters
    ----------
    values
        Allocations in units of the loss, of any shape.
    top
        The fraction of the entries in ``top_share``, between 0 and 1; the default is the largest 1 %.
    block
        Give standard errors from blocks of this many steps, the rows of ``values``; at least two blocks, 20
        or more for a good error. Blocks longer than the correlation of the run make them right.

    Raises
    ------
    LCAError
        If there are not two different non-zero entries, also without a block, or an option is out of range.
    NonFiniteError
        If an entry is not finite.

    Examples
    --------
    >>> laplace = np.random.default_rng(0).laplace(size=100_000)
    >>> found = tails(laplace)
    >>> round(found.kurtosis, 1), round(found.gini, 2), round(found.top_share, 3)
    (3.1, 0.5, 0.056)
    """
    rows = check_finite(values, "the allocations")

    def of(part: np.ndarray) -> Tails:
        entries = part[part != 0]
        return _tails(entries, np.ones(len(entries)), top)

    if block is None:
        return of(rows)
    starts = block_starts(len(rows), block)
    ends = [*starts[1:], len(rows)]
    return _with_errors(
        of(rows), [of(np.delete(rows, slice(a, b), 0)) for a, b in zip(starts, ends, strict=True)]
    )


def tails_from_histogram(
    edges: np.ndarray,
    helping: np.ndarray,
    hurting: np.ndarray,
    *,
    top: float = 0.01,
    block: int | None = None,
) -> Tails:
    """`tails` from a histogram with logarithmic bins, when the single values are not available.

    Every entry is placed at the geometric centre of its bin. With b bins per decade this changes an entry by
    a factor of at most ``10^(1/2b)``, which is 15 % for the 8 bins per decade of `lca.views.LogHistogram`;
    most of the errors cancel. On a Laplace distribution with 8 bins per decade, the Gini coefficient is
    accurate to about 0.005, and the top share and the kurtosis to about 10 %. Entries outside the bins are
    ignored.

    Parameters
    ----------
    edges
        Bin edges of |A| in units of the loss, shape (bins + 1,), positive and increasing.
    helping, hurting
        Counts of the entries with A < 0 and A > 0, shape (bins,), or (T, bins), which is summed over the
        steps.
    top
        The fraction of the entries in ``top_share``, between 0 and 1.
    block
        As for `tails`; needs counts per step.

    Raises
    ------
    LCAError
        If the edges or counts are invalid, fewer than two different bins are filled, or an option is out of
        range.
    NonFiniteError
        If an edge is not finite.

    Examples
    --------
    >>> found = tails_from_histogram(np.array([1.0, 4.0, 16.0]), np.array([0, 1]), np.array([3, 0]), top=0.25)
    >>> found.count, round(found.top_share, 3)  # entries at 2 and -8
    (4, 0.571)
    """
    edges = check_edges(edges)
    centre = np.sqrt(edges[:-1] * edges[1:])
    sizes = np.concatenate([-centre, centre])

    def of(counts: np.ndarray) -> Tails:
        filled = counts > 0
        return _tails(sizes[filled], counts[filled], top)

    whole = np.concatenate([pool_counts(edges, part) for part in (helping, hurting)])
    if block is None:
        return of(whole)
    blocks = np.concatenate([sum_blocks(part, block) for part in (helping, hurting)], axis=1)
    return _with_errors(of(whole), [of(whole - one) for one in blocks])


def check_edges(edges: np.ndarray) -> np.ndarray:
    """Return bin edges as float64 after checking that there are two or more, positive and increasing."""
    edges = check_finite(edges, "the bin edges", ndim=1, min_rows=2)
    if edges[0] <= 0 or (np.diff(edges) <= 0).any():
        raise LCAError("the bin edges must be positive and strictly increasing.")
    return edges


def pool_counts(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return counts of shape (bins,), summing over the steps if there is a row per step."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim not in (1, 2) or counts.shape[-1] != len(edges) - 1 or (counts < 0).any():
        raise LCAError(
            f"{len(edges)} bin edges need counts ≥ 0 of shape ({len(edges) - 1},) or "
            f"(steps, {len(edges) - 1}), got shape {counts.shape} with minimum {counts.min(initial=0):g}."
        )
    return counts if counts.ndim == 1 else counts.sum(axis=0)


def block_starts(steps: int, block: int) -> np.ndarray:
    """The first step of each block of ``block`` steps; a shorter remainder belongs to the last block."""
    if not 1 <= block <= steps // 2:
        raise LCAError(f"block must lie between 1 and half of the {steps} steps, got {block}.")
    return np.arange(0, steps - block + 1, block)


def sum_blocks(counts: np.ndarray, block: int) -> np.ndarray:
    """The counts of each block of ``block`` steps, from counts of shape (steps, bins)."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2:
        raise LCAError(f"block needs counts of shape (steps, bins), got shape {counts.shape}.")
    return np.add.reduceat(counts, block_starts(len(counts), block), axis=0)


def _with_errors(whole: Tails, without: Sequence[Tails]) -> Tails:
    """``whole`` with the errors ``√((n-1)/n Σ_b (x_b - mean)²)``, where x_b is found without block b of n."""
    errors = {
        f"{name}_stderr": float(np.sqrt((len(without) - 1) * np.var([getattr(one, name) for one in without])))
        for name in ("kurtosis", "gini", "top_share")
    }
    return replace(whole, **errors)


def _stderr_over_steps(series: np.ndarray) -> float:
    """The standard error of the mean of a correlated series, from the means of `BLOCKS` blocks."""
    series = series[np.isfinite(series)]
    if len(series) < FEWEST_STEPS:
        return nan
    means = [part.mean() for part in np.array_split(series, BLOCKS)]
    return float(np.std(means, ddof=1) / np.sqrt(BLOCKS))


def _tails(values: np.ndarray, counts: np.ndarray, top: float) -> Tails:
    """`Tails` of a weighted sample, in which ``counts[k]`` entries have the value ``values[k]``."""
    if not 0 < top < 1:
        raise LCAError(f"top must lie between 0 and 1 (0.01 is the largest 1 %), got {top}.")
    total = counts.sum()
    variance = np.average((values - np.average(values, weights=counts)) ** 2, weights=counts) if total else 0
    if not variance:
        raise LCAError("tails need at least two non-zero allocations that differ from each other.")
    standardized = (values - np.average(values, weights=counts)) / np.sqrt(variance)
    population, share = _lorenz_curve(np.abs(values), counts)
    gini = 1 - np.sum(np.diff(population) * (share[1:] + share[:-1]))
    top_share = 1 - np.interp(1 - top, population, share)
    kurtosis = np.average(standardized**4, weights=counts) - 3
    return Tails(int(total), float(kurtosis), float(gini), float(top_share), top)


def _lorenz_curve(sizes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of ``Σ sizes`` held by the smallest entries, against their share of the population."""
    order = np.argsort(sizes)
    population = np.concatenate([[0.0], np.cumsum(counts[order])])
    share = np.concatenate([[0.0], np.cumsum((counts * sizes)[order])])
    return population / population[-1], share / share[-1]
