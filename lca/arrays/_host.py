"""The reductions of `ArrayOps` on NumPy arrays: the default for every array type that converts to NumPy.

Vectors are processed in blocks, so that no temporary array has length K.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lca.arrays._types import Division, Run, Slices, WeightedVectors

_COUNTED_ALONE = 2**13
"""Entries from which on a call for each piece is faster than one for all, which converts them to integers."""
BLOCK = 2**15
"""Entries that are processed at a time; a few such blocks fit into the cache of a core."""


def total(values: np.ndarray) -> float:
    """The sum, accumulated in float64."""
    return float(np.add.reduce(values, dtype=np.float64))  # .sum() costs a microsecond more


def abs_total(values: np.ndarray) -> float:
    """The sum of absolute values, accumulated in float64."""
    return total(np.abs(values))


def movement_sums(weighted: WeightedVectors, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Sum and sum of absolute values of ``(Σ_k w_k v_k) ∘ (end - start)`` (`ArrayOps.movement_sums`)."""
    signed = absolute = 0.0
    (first_weight, first), *rest = weighted
    for b in blocks(len(first)):
        combined = first[b] if first_weight == 1 else first_weight * first[b]
        for weight, vector in rest:
            combined = combined + weight * vector[b]
        part = combined * (end[b] - start[b])
        signed += total(part)
        absolute += total(np.abs(part, out=part))
    return signed, absolute


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether shape, dtype and numbers are the same (`ArrayOps.equal`)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b) or (a.dtype.kind in "fc" and np.array_equal(a, b, equal_nan=True))


def moved(start: np.ndarray, end: np.ndarray, parts: Sequence[slice]) -> list[bool]:
    """Whether the vectors differ in each of the parts (`ArrayOps.moved`)."""
    return [not np.array_equal(start[part], end[part]) for part in parts]


def all_finite(values: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(np.isfinite(values).all())


def eps(values: np.ndarray) -> float:
    """Machine epsilon of the dtype."""
    return float(np.finfo(values.dtype).eps)


def size(values: np.ndarray) -> int:
    """The number K of entries."""
    return len(values)


def sums(values: np.ndarray, slices: Sequence[Slices]) -> np.ndarray:
    """The sums of all slices, concatenated; float64 (`ArrayOps.sums`)."""
    division = Division.of(slices)
    return joined(division, [run_sums(values[run.start : run.stop], run) for run in division.runs])


def joined(division: Division, found: Sequence[np.ndarray]) -> np.ndarray:
    """The sums (or counts, along the last axis) of a division, from those of its runs (`run_sums`)."""
    pieces = found[0] if len(found) == 1 else np.concatenate(found, axis=-1)
    return pieces if division.firsts is None else np.add.reduceat(pieces, division.firsts, axis=-1)


def run_sums(values: np.ndarray, run: Run) -> np.ndarray:
    """The sums of the pieces of a run, from its values."""
    if run.offsets is not None:
        found: np.ndarray = np.add.reduceat(values, run.offsets, dtype=np.float64)  # in pairs, as reduce
        return found
    divided: np.ndarray = values.reshape(run.shape).sum(axis=(0, 2), dtype=np.float64)
    return divided


def sums_and_signs(values: np.ndarray, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
    """The same sums, and the negative and positive entries in each (`ArrayOps.sums_and_signs`)."""
    return sums(values, slices), sign_counts(values, slices)


def sign_counts(values: np.ndarray, slices: Sequence[Slices]) -> np.ndarray:
    """The negative and positive entries in each sum (`ArrayOps.sums_and_signs`)."""
    division = Division.of(slices)
    return joined(division, [_run_signs(values[run.start : run.stop], run) for run in division.runs])


def magnitudes(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Histogram of |v|, separately for negative and positive entries (`ArrayOps.magnitudes`)."""
    counts = np.zeros(2 * len(edges) + 2, np.int64)
    for block in blocks(len(values)):
        part = values[block]
        part = part[part != 0]
        bins = _log_bins(np.abs(part), edges) + (len(edges) + 1) * (part > 0)
        counts += np.bincount(bins, minlength=len(counts))
    return counts.reshape(2, -1)


def take(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The entries at these positions."""
    taken: np.ndarray = values[positions]
    return taken


def extremes(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the k smallest entries, ascending, and of the k largest, descending."""
    k = min(k, len(values))
    order = np.argpartition(values, (k - 1, len(values) - k))
    smallest, largest = order[:k], order[len(values) - k :]
    return smallest[np.argsort(values[smallest])], largest[np.argsort(-values[largest])]


def products(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``basis @ values`` in float64."""
    total = np.zeros(len(basis))
    for block in blocks(len(values)):
        total += basis[:, block].astype(np.float64) @ values[block].astype(np.float64)
    return total


def accumulated(total: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """``total + values`` in float64, in place; ``None`` stands for zero."""
    if total is None:
        return values.astype(np.float64)
    total += values
    return total


def signs(values: np.ndarray) -> np.ndarray:
    """-1, 0 or 1 for each entry, int8."""
    found = (values > 0).view(np.int8)
    found -= (values < 0).view(np.int8)
    return found


def changes(counts: np.ndarray, last: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count sign changes and ignore zeros (`ArrayOps.changes`)."""
    counts += last * signs < 0
    np.copyto(last, signs, where=signs != 0)
    return counts, last


def ratio(values: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """``values / divisor``, and 0 where the divisor is exactly 0."""
    quotient: np.ndarray = np.divide(values, divisor, out=np.zeros_like(values), where=divisor != 0)
    return quotient


def blocks(length: int) -> Iterator[slice]:
    """Slices that cover ``range(length)``, `BLOCK` entries each."""
    return (slice(i, i + BLOCK) for i in range(0, length, BLOCK))


def _run_signs(values: np.ndarray, run: Run) -> np.ndarray:
    """The numbers of negative and of positive entries in each piece of a run, (2, pieces)."""
    return np.array([_counts(compared(values, 0), run) for compared in (np.less, np.greater)], np.int64)


def _counts(signs: np.ndarray, run: Run) -> Any:
    """The numbers of true entries in each piece."""
    if run.offsets is None:
        return np.count_nonzero(signs.reshape(run.shape), axis=(0, 2))
    if len(run.offsets) > len(signs) / _COUNTED_ALONE:
        return np.add.reduceat(signs, run.offsets, dtype=np.int32)
    starts = run.offsets.tolist()
    return [np.count_nonzero(signs[i:j]) for i, j in zip(starts, [*starts[1:], len(signs)], strict=True)]


def _log_bins(sizes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """``searchsorted(edges, sizes, side="right")`` by logarithms; sizes near an edge are looked up."""
    low, bins = np.log10(edges[0]), len(edges) - 1
    width = (np.log10(edges[-1]) - low) / bins
    place = (np.log10(sizes) - sizes.dtype.type(low)) * sizes.dtype.type(1 / width)
    found: np.ndarray = np.clip(np.floor(place) + 1, 0, bins + 1).astype(np.int64)
    # Rounding moves a place by a few units in the last place of the largest number on the way to it.
    rounding = 16 * np.finfo(sizes.dtype).eps * (bins + abs(low / width))
    near = np.flatnonzero(np.abs(place - np.rint(place)) < rounding)
    found[near] = np.searchsorted(edges, sizes[near], side="right")
    return found
