"""Oscillation: sign changes of movements and gradients, and alternation between helping and hurting.

The allocation of a parameter is its movement times its mean gradient along the step, so it changes sign
when exactly one of the two does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lca.analysis._arrays import check_finite, check_spacing, check_steps
from lca.errors import LCAError


@dataclass(frozen=True, eq=False)
class SignChanges:
    """The result of `sign_changes`: how often each of K series changes sign, and after how many steps.

    Attributes
    ----------
    changes, elapsed
        Shape (K,): the number of sign changes, and the number of steps from the first entry with a sign to
        the last, without holes in the record.
    runs
        ``runs[n]`` is the number of complete runs of n steps over all series, where a run lasts from one
        sign change to the next. Stretches before the first and after the last sign change are not counted.

    Examples
    --------
    >>> found = sign_changes(np.array([[1.0], [1.0], [-1.0], [-1.0], [1.0]]))
    >>> found.half_period(), found.runs
    (2.0, array([0, 0, 1]))
    """

    changes: np.ndarray
    elapsed: np.ndarray
    runs: np.ndarray

    def half_period(self) -> float:
        """``Σ elapsed / Σ changes`` in steps: the mean time between sign changes over all series.

        The incomplete runs at both ends of a series contribute the steps they lasted, so this estimate has
        no bias towards short runs, which the mean over complete runs has. Random signs give 2, or twice the
        distance of the rows. Noise adds sign changes: for an oscillation under noise this is a lower bound,
        and `dominant_half_period` an estimate. Infinite if no sign changes.
        """
        changes = int(self.changes.sum())
        return float(self.elapsed.sum()) / changes if changes else float("inf")

    def half_periods(self) -> np.ndarray:
        """``elapsed / changes`` of each series in steps, shape (K,); infinite where no sign changes."""
        out = np.full(len(self.changes), np.inf)
        np.divide(self.elapsed, self.changes, out=out, where=self.changes > 0)
        return out


def sign_changes(series: Iterable[np.ndarray], *, steps: Sequence[int] | None = None) -> SignChanges:
    """Count the sign changes in each column of a (T, K) array.

    For movements Δ_t these are turning points of the weight; for gradients, crossings of a minimum along
    the parameter's axis. An entry that is 0 or NaN has no sign and is skipped, but its step counts towards
    the length of a run.

    Parameters
    ----------
    series
        An array of shape (T, K), or an iterable of T vectors (K,).
    steps
        The steps of the rows, T increasing integers; by default the coordinate "step" of an
        `xarray.DataArray`, else 0, 1, 2, ... Where two rows are further apart than others, the record has a
        hole, and nothing is counted across it.

    Raises
    ------
    LCAError
        If there is no row, a row does not have exactly one axis, or the steps do not fit.

    Notes
    -----
    Memory: O(K) beyond the input.

    Examples
    --------
    >>> found = sign_changes(np.array([[1.0, 1.0], [2.0, 0.0], [-1.0, 3.0], [-2.0, 1.0], [3.0, 2.0]]))
    >>> found.changes, found.elapsed, found.runs
    (array([2, 0]), array([4, 4]), array([0, 0, 1]))
    >>> found.half_period()
    4.0
    """
    counter: _SignChangeCounter | None = None
    for step, follows, row in _rows(series, steps):
        signs = _signs(row)
        counter = counter or _SignChangeCounter(len(signs))
        if not follows:
            counter.interrupt()
        counter.update(step, signs)
    if counter is None:
        raise LCAError("sign_changes needs at least one row, got an empty series.")
    return SignChanges(counter.changes, counter.elapsed, counter.runs)


def dominant_half_period(series: np.ndarray, *, steps: Sequence[int] | None = None) -> float:
    """Half the period at which the power spectrum of the series is largest, in steps.

    The spectra of all columns, each divided by its variance, are averaged (Welch's method with Hann windows
    of a quarter of the run, at most 256 rows), and the maximum is refined by a parabola through three points.
    White noise raises the spectrum everywhere and does not move the maximum, so that this has no bias towards
    short periods as the time between sign changes has. A series without an oscillation has a maximum too, at
    the longest period that a window shows, or anywhere.

    Parameters
    ----------
    series
        Shape (T, K) with T ≥ 16; columns that do not vary are left out.
    steps
        As for `sign_changes`, at equal distances.

    Raises
    ------
    LCAError
        If there are too few rows, no column varies, or the steps are not at equal distances.
    NonFiniteError
        If an entry is not finite.

    References
    ----------
    P. D. Welch, IEEE Transactions on Audio and Electroacoustics 15, 1967.

    Examples
    --------
    >>> wave = np.sin(np.pi * np.arange(400) / 12)[:, None]
    >>> noisy = wave + 1.5 * np.random.default_rng(0).normal(size=(400, 20))
    >>> round(sign_changes(noisy).half_period(), 1), round(dominant_half_period(noisy), 1)
    (2.3, 12.0)
    """
    from scipy.signal import welch  # noqa: PLC0415 - slow to import

    rows = check_finite(series, "the series", ndim=2, min_rows=16)
    spacing = check_spacing(check_steps(steps, series, len(rows)), "a spectrum")
    rows = rows[:, rows.std(axis=0) > 0]
    if not rows.shape[1]:
        raise LCAError("a spectrum needs a series that varies.")
    window = max(16, min(256, len(rows) // 4))
    frequencies, power = welch(rows / rows.std(axis=0), axis=0, nperseg=window)
    mean = power.mean(axis=1)
    peak = 1 + int(np.argmax(mean[1:]))
    left, middle, right = np.log(mean[[peak - 1, peak, min(peak + 1, len(mean) - 1)]])
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if 1 < peak < len(mean) - 1 and bend < 0 else 0.0
    return float(spacing / (2 * (frequencies[peak] + shift * frequencies[1])))


@dataclass(frozen=True, eq=False)
class Transitions:
    """The result of `transitions`: how often each parameter goes from helping or hurting to either.

    Attributes
    ----------
    counts
        Shape (2, 2, K): ``counts[i, j]`` is the number of transitions from i to j, where 0 is helping
        (A < 0) and 1 is hurting (A > 0). Steps with A = 0 are skipped.

    Examples
    --------
    >>> Transitions(np.array([[[1], [2]], [[2], [0]]])).alternating_percent()
    80.0
    """

    counts: np.ndarray

    def alternating_percent(self) -> float:
        """``100 · #(sign changes) / #pairs`` over all parameters; NaN if there is no pair."""
        changed, pairs = self.counts[0, 1].sum() + self.counts[1, 0].sum(), self.counts.sum()
        return 100 * float(changed) / float(pairs) if pairs else float("nan")

    def expected_alternating_percent(self) -> float:
        """`alternating_percent` under the hypothesis that the steps of each parameter are independent.

        Each parameter keeps its own rate of helping. Of its n pairs, ``2 p (1 - p)`` are expected to
        alternate, where p is the fraction of helping entries among the 2 n entries of the pairs. The result
        is the mean over parameters, weighted by n; NaN if there is no pair.
        """
        helping = (self.counts.sum(axis=1) + self.counts.sum(axis=0))[0] / 2
        pairs = self.counts.sum(axis=(0, 1))
        if not pairs.any():
            return float("nan")
        rate = np.divide(helping, pairs, out=np.zeros(len(pairs)), where=pairs > 0)
        return 100 * float((pairs * 2 * rate * (1 - rate)).sum() / pairs.sum())


def transitions(allocations: Iterable[np.ndarray], *, steps: Sequence[int] | None = None) -> Transitions:
    """Count the transitions between helping and hurting in each column of a (T, K) array of allocations.

    More alternation than `Transitions.expected_alternating_percent` means that a helping step tends to be
    followed by a hurting one: the parameter crosses its minimum repeatedly. Less alternation means long
    stretches of either kind.

    Parameters
    ----------
    allocations
        Allocations of single parameters: an array of shape (T, K), or an iterable of T vectors (K,).
    steps
        As for `sign_changes`: there are no transitions across a hole in the record.

    Raises
    ------
    LCAError
        If there is no row, a row does not have exactly one axis, or the steps do not fit.
    NonFiniteError
        If an entry is not finite.

    Examples
    --------
    >>> found = transitions(np.array([[-1.0], [2.0], [0.0], [-1.0], [-3.0]]))
    >>> found.counts[..., 0]
    array([[1, 1],
           [1, 0]])
    >>> round(found.alternating_percent(), 1), round(found.expected_alternating_percent(), 1)
    (66.7, 44.4)
    """
    last: np.ndarray | None = None
    for _, follows, row in _rows(allocations, steps):
        signs = _signs(check_finite(row, "the allocations", ndim=1))
        if last is not None and not follows:
            last = np.zeros_like(signs)
        if last is None:
            last, counts = np.zeros_like(signs), np.zeros((2, 2, len(signs)), dtype=np.int64)
        for i, before in enumerate((-1, 1)):
            for j, after in enumerate((-1, 1)):
                counts[i, j] += (last == before) & (signs == after)
        last = np.where(signs == 0, last, signs)
    if last is None:
        raise LCAError("transitions needs at least one row of allocations, got none.")
    return Transitions(counts)


def mean_gradient(values: np.ndarray, movement: np.ndarray) -> np.ndarray:
    """The gradient averaged along each step: ``∫₀¹ ∂_i L(θ_t + s Δ_t) ds = A_{t,i} / Δ_{t,i}``.

    The result is NaN where the parameter did not move, because A = 0 does not determine the gradient there.
    For tiny movements the division magnifies the rounding error of A.

    Parameters
    ----------
    values
        Allocations A in units of the loss, of any shape.
    movement
        Movements Δ in units of the parameters, of the same shape.

    Returns
    -------
    numpy.ndarray
        Units of the loss per unit of the parameter, in the shape of the input.

    Raises
    ------
    LCAError
        If the shapes differ.

    Examples
    --------
    >>> mean_gradient(np.array([-1.0, 0.0]), np.array([0.5, 0.0]))
    array([-2., nan])
    """
    values, movement = np.asarray(values, dtype=np.float64), np.asarray(movement, dtype=np.float64)
    if values.shape != movement.shape:
        raise LCAError(
            f"values and movement must have the same shape, got {values.shape} and {movement.shape}."
        )
    out = np.full(values.shape, np.nan)
    np.divide(values, movement, out=out, where=movement != 0)
    return out


def _rows(
    series: Iterable[np.ndarray], steps: Sequence[int] | None
) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Each row with its step, and whether it follows the row before at the usual distance."""
    if steps is None and not hasattr(series, "coords"):
        yield from ((step, step > 0, row) for step, row in enumerate(series))
        return
    rows = list(np.asarray(series)) if hasattr(series, "coords") else list(series)
    labels = check_steps(steps, series, len(rows))
    apart = np.diff(labels)
    follows = [False, *(apart == apart.min(initial=np.iinfo(apart.dtype).max))]
    yield from zip(map(int, labels), map(bool, follows), rows, strict=True)


class _SignChangeCounter:
    """Streaming counts for `sign_changes`; ``update`` is called once per row, in order."""

    def __init__(self, count: int) -> None:
        self.changes = np.zeros(count, dtype=np.int64)
        self.elapsed = np.zeros(count, dtype=np.int64)
        self.runs = np.zeros(1, dtype=np.int64)
        self._sign = np.zeros(count, dtype=np.int8)
        self._signed = np.zeros(count, dtype=np.int64)  # the step of the last entry with a sign
        self._last_change = np.full(count, -1)  # the step of the last sign change; -1 before the first

    def interrupt(self) -> None:
        """The next row does not follow the last one."""
        self._sign[:], self._last_change[:] = 0, -1

    def update(self, step: int, signs: np.ndarray) -> None:
        has_sign = signs != 0
        changed = has_sign & (signs == -self._sign)
        follows = has_sign & (self._sign != 0)
        self.elapsed[follows] += step - self._signed[follows]
        self.changes += changed
        self._add_runs(step - self._last_change[changed & (self._last_change >= 0)])
        self._last_change[changed] = step
        self._sign[has_sign], self._signed[has_sign] = signs[has_sign], step

    def _add_runs(self, lengths: np.ndarray) -> None:
        counts = np.bincount(lengths, minlength=len(self.runs))
        counts[: len(self.runs)] += self.runs
        self.runs = counts


def _signs(row: np.ndarray) -> np.ndarray:
    row = np.asarray(row)
    if row.ndim != 1:
        raise LCAError(
            f"expected an array of shape (steps, K) or vectors of shape (K,), got a row of shape {row.shape}."
        )
    return np.asarray((row > 0).astype(np.int8) - (row < 0))
