"""How noisy is learning? Shares of helping parameters, and how unequally the allocations are spread."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lca.analysis.arrays import check_names, finite
from lca.errors import LCAError
from lca.views.signs import Signs


@dataclass(frozen=True)
class HelpingRow:
    """One line of a helping table; percentages as defined by `lca.views.Signs`.

    Attributes
    ----------
    name
        Of the group.
    helping_percent
        ``100 · #(A < 0) / #(A ≠ 0)``, the mean over the steps that have one; NaN if none has.
    pooled_percent
        The same of all steps taken together, so that a step counts as many entries as it has.
    zero_percent
        ``100 · #(A = 0) / #A``, the mean over all steps.
    steps_without
        Number of steps at which every A of the group is exactly 0.
    """

    name: str
    helping_percent: float
    pooled_percent: float
    zero_percent: float
    steps_without: int


def helping_table(names: Sequence[str], signs: Signs) -> list[HelpingRow]:
    """Helping % of each group (tensor, layer) over a run.

    Parameters
    ----------
    names
        One a group.
    signs
        Counts of shape (T, groups): `lca.views.HelpingCounts.per_group`, or from a record
        `lca.analysis.group_signs`. For the table by step use ``signs.helping_percent()`` as it is.

    Examples
    --------
    >>> signs = Signs(np.array([[3], [1]]), np.array([[1], [1]]), np.array([[0], [2]]))
    >>> helping_table(["fc"], signs)
    [HelpingRow(name='fc', helping_percent=62.5, pooled_percent=66.66666666666667, zero_percent=25.0, \
steps_without=0)]
    """
    if signs.helping.ndim != 2:
        raise LCAError(f"a helping table needs counts of shape (steps, groups), got {signs.helping.shape}.")
    names = check_names(names, signs.helping.shape[1], "the counts")
    pooled = Signs(*(counts.sum(axis=0) for counts in (signs.helping, signs.hurting, signs.zero)))
    columns = (
        signs.mean_helping_percent().tolist(),
        pooled.helping_percent().tolist(),
        signs.mean_zero_percent().tolist(),
        signs.steps_without_percent().tolist(),
    )
    return [HelpingRow(*row) for row in zip(names, *columns, strict=True)]


def signs_by_parameter(rows: Iterable[np.ndarray]) -> Signs:
    """At how many steps each parameter helped, hurt or did neither; counts of shape (K,).

    ``signs_by_parameter(rows).helping_percent()`` is the helping % of each parameter over its own steps.
    Memory O(K) beyond the rows.

    Parameters
    ----------
    rows
        Allocations (T, K), or the rows one after the other.

    Raises
    ------
    LCAError
        If there are no rows.

    Examples
    --------
    >>> signs = signs_by_parameter(np.array([[-1.0, 2.0, 0.0], [-2.0, -1.0, 0.0]]))
    >>> signs.helping_percent(), signs.zero
    (array([100.,  50.,  nan]), array([0, 0, 2]))
    """
    counts: np.ndarray | None = None
    for row in rows:
        now = np.array([row < 0, row > 0, row == 0], dtype=np.int64)
        counts = now if counts is None else counts + now
    if counts is None:
        raise LCAError("helping by parameter needs at least one row; there is none.")
    return Signs(*counts)


@dataclass(frozen=True)
class Tails:
    """How unequally the allocations that are not 0 are spread over parameters and steps.

    Attributes
    ----------
    count
        Entries with A ≠ 0, which is what all the others are about.
    kurtosis
        Excess kurtosis ``E[(A - E A)⁴] / E[(A - E A)²]² - 3``: 0 for a normal, 3 for a Laplace
        distribution.
    gini
        Gini coefficient of |A|: 0 if all are equal, near 1 if few have everything.
    top_share
        Share of ``Σ|A|`` that is made by the largest ``top`` of the entries.
    top
        That fraction.
    """

    count: float
    kurtosis: float
    gini: float
    top_share: float
    top: float


def tails(values: np.ndarray, *, top: float = 0.01) -> Tails:
    """`Tails` of single allocations, of any shape; exact zeros are left out.

    Raises
    ------
    LCAError
        If there are not at least two entries that differ, or ``top`` is not in (0, 1).

    Examples
    --------
    >>> laplace = np.random.default_rng(0).laplace(size=100_000)
    >>> seen = tails(laplace)
    >>> round(seen.kurtosis, 1), round(seen.gini, 2), round(seen.top_share, 3)
    (3.1, 0.5, 0.056)
    """
    values = finite(np.ravel(values), "the allocations")
    values = values[values != 0]
    return _tails(values, np.ones(len(values)), top)


def tails_of_counts(
    edges: np.ndarray, helping: np.ndarray, hurting: np.ndarray, *, top: float = 0.01
) -> Tails:
    """`Tails` from a histogram with logarithmic bins, without the single values.

    Every entry is taken to lie at the geometric middle of its bin. With b bins a decade that is off by a
    factor of at most ``10^(1/2b)`` (15 % at the 8 bins of `lca.views.LogHistogram`), most of which cancels:
    there the Gini coefficient is good to about 0.005, and top share and kurtosis to a tenth. Entries outside
    the bins are not in it.

    Parameters
    ----------
    edges
        Shape (bins + 1,), positive and increasing.
    helping, hurting
        Counts of shape (bins,), or (T, bins), which are then added up.
    """
    edges = check_edges(edges)
    middle = np.sqrt(edges[:-1] * edges[1:])
    counts = np.concatenate([pooled_counts(edges, part) for part in (helping, hurting)])
    has = counts > 0
    return _tails(np.concatenate([-middle, middle])[has], counts[has], top)


def check_edges(edges: np.ndarray) -> np.ndarray:
    """Bin edges as float64: positive, increasing, two or more."""
    edges = finite(edges, "the bin edges", ndim=1, least=2)
    if edges[0] <= 0 or (np.diff(edges) <= 0).any():
        raise LCAError("the bin edges must be positive and increase.")
    return edges


def pooled_counts(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Counts of shape (bins,) from (bins,) or (T, bins), which are added up."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim not in (1, 2) or counts.shape[-1] != len(edges) - 1 or (counts < 0).any():
        raise LCAError(
            f"expected counts ≥ 0 of shape ({len(edges) - 1},) or (steps, {len(edges) - 1}) for "
            f"{len(edges)} edges, got shape {counts.shape}."
        )
    return counts if counts.ndim == 1 else counts.sum(axis=0)


def _tails(values: np.ndarray, counts: np.ndarray, top: float) -> Tails:
    """Of a weighted sample: ``counts[k]`` entries are ``values[k]``."""
    if not 0 < top < 1:
        raise LCAError(f"top must lie between 0 and 1 (0.01 is the top percent), got {top}.")
    total = counts.sum()
    variance = np.average((values - np.average(values, weights=counts)) ** 2, weights=counts) if total else 0
    if not variance:
        raise LCAError("tails need at least two allocations that are not 0 and differ from each other.")
    away = (values - np.average(values, weights=counts)) / np.sqrt(variance)
    population, share = _lorenz(np.abs(values), counts)
    gini = 1 - np.sum(np.diff(population) * (share[1:] + share[:-1]))
    top_share = 1 - np.interp(1 - top, population, share)
    kurtosis = np.average(away**4, weights=counts) - 3
    return Tails(int(total), float(kurtosis), float(gini), float(top_share), top)


def _lorenz(sizes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Lorenz curve: the share of ``Σ sizes`` that the smallest share p of the population holds."""
    order = np.argsort(sizes)
    population = np.concatenate([[0.0], np.cumsum(counts[order])])
    share = np.concatenate([[0.0], np.cumsum((counts * sizes)[order])])
    return population / population[-1], share / share[-1]
