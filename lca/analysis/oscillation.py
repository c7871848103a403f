"""Do parameters swing to and fro? Sign changes of movements and gradients, and of helping and hurting.

The allocation of a parameter is its movement times its mean gradient along the step, so it changes sign
when exactly one of the two does.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lca.errors import LCAError


@dataclass(frozen=True, eq=False)
class SignChanges:
    """How often each of K series changed its sign, out of how many chances, and after how long.

    Attributes
    ----------
    changes, pairs
        Shape (K,): sign changes, and pairs of successive entries that have a sign.
    runs
        ``runs[n]`` is the number of complete runs of n steps, over all series: from one sign change to
        the next. What lasts from the start of the record, or until its end, is no complete run.
    """

    changes: np.ndarray
    pairs: np.ndarray
    runs: np.ndarray

    def half_period(self) -> float:
        """``Σ pairs / Σ changes``, in steps: the mean time between sign changes over all series.

        Runs that were cut off by the end of the record count with the steps they did last, so this is not
        biased towards short ones, as a mean over complete runs is. Signs that are drawn at random give 2;
        infinite if no sign changed.
        """
        changes = int(self.changes.sum())
        return float(self.pairs.sum()) / changes if changes else float("inf")

    def half_periods(self) -> np.ndarray:
        """``pairs / changes`` of each series, shape (K,); infinite where no sign changed."""
        out = np.full(len(self.changes), np.inf)
        np.divide(self.pairs, self.changes, out=out, where=self.changes > 0)
        return out


def sign_changes(rows: Iterable[np.ndarray]) -> SignChanges:
    """Count the sign changes of each column of a (T, K) array; memory O(K) beyond the array.

    Of movements Δ_t these are *turns* of the weight; of gradients, crossings of a minimum along the
    parameter's axis. An entry that is 0 or NaN has no sign: it is passed over, but its step counts
    towards the length of a run.

    Parameters
    ----------
    rows
        (T, K), or the rows one after the other.

    Raises
    ------
    LCAError
        If there are no rows.

    Examples
    --------
    >>> seen = sign_changes(np.array([[1.0, 1.0], [2.0, 0.0], [-1.0, 3.0], [-2.0, 1.0], [3.0, 2.0]]))
    >>> seen.changes, seen.pairs, seen.runs
    (array([2, 0]), array([4, 3]), array([0, 0, 1]))
    >>> seen.half_period()
    3.5
    """
    seen: _Seen | None = None
    for step, row in enumerate(rows):
        signs = _signs(row)
        seen = seen or _Seen(len(signs))
        seen.update(step, signs)
    if seen is None:
        raise LCAError("sign changes need at least one row; the series is empty.")
    return SignChanges(seen.changes, seen.pairs, seen.runs)


@dataclass(frozen=True, eq=False)
class Transitions:
    """How often each parameter went from helping or hurting to helping or hurting.

    Attributes
    ----------
    counts
        Shape (2, 2, K): from, to; 0 is helping (A < 0) and 1 hurting (A > 0). Steps with A = 0 are passed
        over.
    """

    counts: np.ndarray

    def alternating_percent(self) -> float:
        """``100 · #(change of sign) / #pairs`` over all parameters; NaN if there is no pair."""
        changed, pairs = self.counts[0, 1].sum() + self.counts[1, 0].sum(), self.counts.sum()
        return 100 * float(changed) / float(pairs) if pairs else float("nan")

    def expected_percent(self) -> float:
        """What `alternating_percent` would be if each parameter helped independently from step to step.

        Each parameter at its own rate: with a helping and b hurting entries among the n = a + b at either
        end of its n / 2 pairs, ``2 a b / n²`` of them change, weighted by the number of pairs.
        """
        helped = (self.counts.sum(axis=1) + self.counts.sum(axis=0))[0] / 2
        pairs = self.counts.sum(axis=(0, 1))
        if not pairs.any():
            return float("nan")
        share = np.divide(helped, pairs, out=np.zeros(len(pairs)), where=pairs > 0)
        return 100 * float((pairs * 2 * share * (1 - share)).sum() / pairs.sum())


def transitions(rows: Iterable[np.ndarray]) -> Transitions:
    """Count the transitions between helping and hurting of each column of allocations (T, K).

    More alternation than `Transitions.expected_percent` means that helping is followed by hurting:
    the parameter crosses its minimum again and again. Less means long stretches of either.

    Raises
    ------
    LCAError
        If there are no rows.

    Examples
    --------
    >>> seen = transitions(np.array([[-1.0], [2.0], [0.0], [-1.0], [-3.0]]))
    >>> seen.counts[..., 0]
    array([[1, 1],
           [1, 0]])
    >>> round(seen.alternating_percent(), 1), round(seen.expected_percent(), 1)
    (66.7, 44.4)
    """
    last: np.ndarray | None = None
    for row in rows:
        signs = _signs(row)
        if last is None:
            last, counts = np.zeros_like(signs), np.zeros((2, 2, len(signs)), dtype=np.int64)
        for i, before in enumerate((-1, 1)):
            for j, now in enumerate((-1, 1)):
                counts[i, j] += (last == before) & (signs == now)
        last = np.where(signs == 0, last, signs)
    if last is None:
        raise LCAError("transitions need at least one row; the series is empty.")
    return Transitions(counts)


def mean_gradient(values: np.ndarray, movement: np.ndarray) -> np.ndarray:
    """``∫₀¹ ∂_i L(θ_t + s Δ_t) ds = A_{t,i} / Δ_{t,i}``: the gradient that the step met on its way.

    NaN where the parameter did not move and A therefore says nothing about it. Where a movement is tiny,
    the quotient has the rounding error of A divided by it.

    Parameters
    ----------
    values, movement
        A and Δ, of one shape.

    Examples
    --------
    >>> mean_gradient(np.array([-1.0, 0.0]), np.array([0.5, 0.0]))
    array([-2., nan])
    """
    values, movement = np.asarray(values, dtype=np.float64), np.asarray(movement, dtype=np.float64)
    if values.shape != movement.shape:
        raise LCAError(f"A and Δ must have one shape, got {values.shape} and {movement.shape}.")
    out = np.full(values.shape, np.nan)
    np.divide(values, movement, out=out, where=movement != 0)
    return out


class _Seen:
    """What is remembered of each series while its rows go by."""

    def __init__(self, count: int) -> None:
        self.changes = np.zeros(count, dtype=np.int64)
        self.pairs = np.zeros(count, dtype=np.int64)
        self.runs = np.zeros(1, dtype=np.int64)
        self._sign = np.zeros(count, dtype=np.int8)
        self._since = np.full(count, -1)  # the step of the last sign change; -1: none yet

    def update(self, step: int, signs: np.ndarray) -> None:
        has = signs != 0
        changed = has & (signs == -self._sign)
        self.pairs += has & (self._sign != 0)
        self.changes += changed
        self._add_runs(step - self._since[changed & (self._since >= 0)])
        self._since[changed] = step
        self._sign[has] = signs[has]

    def _add_runs(self, lengths: np.ndarray) -> None:
        counts = np.bincount(lengths, minlength=len(self.runs))
        counts[: len(self.runs)] += self.runs
        self.runs = counts


def _signs(row: np.ndarray) -> np.ndarray:
    row = np.asarray(row)
    if row.ndim != 1:
        raise LCAError(f"expected rows of K numbers, one a step, got a row of shape {row.shape}.")
    return np.asarray((row > 0).astype(np.int8) - (row < 0))
