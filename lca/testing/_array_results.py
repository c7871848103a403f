"""Further laws of `lca.arrays.ArrayOps`: long vectors, numbers that are not finite, results of their own."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from lca.arrays import Slices
from lca.testing._array_subject import EDGES, LAYOUT, LONG, ArraySubject, Values, law_into, near, same_numbers
from lca.testing._laws import require
from lca.testing._report import Check
from lca.tolerances import EPS64, rebatched, summed

Array = np.ndarray
RESULT_CHECKS: list[Check] = []
law = law_into(RESULT_CHECKS)
once = law_into(RESULT_CHECKS, part=20)
"""A law for which one case is enough."""
LATE = (2**15 + 3, LONG - 1)
"""Positions beyond the first block of most implementations; the last entry of all is one of them."""
BLOCKS = 2**18
"""More entries than are usually processed at a time, also where a block is 2^17, as in `NumpyOps`."""


@law
def long_vectors_are_compared_to_their_end(subject: ArraySubject, case: Values) -> None:
    """``equal``, ``moved``, ``all_finite`` and ``unchanged`` see one late entry of a long vector."""
    ops, [start] = subject.ops, case.random(1)
    vector = subject.vector(start)
    snapshot = ops.snapshot(vector)
    require(ops.equal(vector, subject.vector(start.copy())), "equal() is False for a long vector's copy.")
    require(ops.all_finite(vector), "a long finite vector is reported as not finite.")
    for at in LATE:
        changed = start.copy()
        changed[at] = np.nextafter(changed[at], case.dtype.type(np.inf))
        other = subject.vector(changed)
        require(not ops.equal(vector, other), f"equal() is True although the numbers at {at} differ.")
        found = ops.moved(vector, other, [slice(0, 9), slice(5, LONG)])
        require(found == [False, True], f"moved() is {found} after a movement at {at} of {LONG}.")
        require(not ops.unchanged(snapshot, other), f"unchanged() is True although {at} of {LONG} differs.")
        changed[at] = np.nan
        require(not ops.all_finite(subject.vector(changed)), f"all_finite() is True with a NaN at {at}.")
    for cut in (start[:-1], np.append(start, start[:1])):
        known = ops.unchanged(snapshot, subject.vector(cut))
        require(not known, f"unchanged() is True for a vector of {len(cut)} entries, of {LONG} before.")


@law
def long_vectors_are_treated_to_their_end(subject: ArraySubject, case: Values) -> None:
    """Signs, ratios, totals, products, histograms, extremes and single entries of a long vector are right."""
    ops, (row, other) = subject.ops, case.random(2)
    row[::7], other[::5] = 0, 0
    vector, divisor = subject.vector(row), subject.vector(other)
    same_numbers(subject.numpy(ops.signs(vector)), np.sign(row), "signs() of a long vector")
    ratio = np.divide(row, other, out=np.zeros_like(row), where=other != 0)
    error = summed(np.abs(ratio), float(np.finfo(row.dtype).eps)) + subject.lost(row.dtype)
    near(subject.numpy(ops.ratio(vector, divisor)), ratio, error, "ratio() of long vectors")
    total = ops.accumulated(ops.accumulated(None, vector), divisor)
    wide = row.astype(np.float64) + other
    near(subject.numpy(total), wide, summed(np.abs(wide), EPS64), "accumulated() of long vectors")
    basis = np.random.default_rng(0).normal(size=(2, LONG)).astype(row.dtype)
    mass = np.abs(basis.astype(np.float64)) @ np.abs(row)
    exact = [math.fsum((each.astype(np.float64) * row).tolist()) for each in basis]
    near(
        ops.products(ops.native(basis, vector), vector),
        exact,
        rebatched(mass, EPS64),
        "products() of long vectors",
    )
    positions = np.random.default_rng(len(row)).integers(LONG, size=50)
    positions[:2] = LATE
    same_numbers(ops.take(vector, positions), row[positions], "take() from a long vector")
    bins = np.concatenate([[0.0], EDGES, [np.inf]])
    expected = [np.histogram(sign * row[sign * row > 0], bins)[0] for sign in (-1, 1)]
    same_numbers(ops.magnitudes(vector, EDGES), expected, "magnitudes() of a long vector")
    order = np.sort(row)
    for k in (5, 300):
        smallest, largest = ops.extremes(vector, k)
        same_numbers(row[smallest], order[:k], f"the {k} smallest entries of a long vector")
        same_numbers(row[largest], order[::-1][:k], f"the {k} largest entries of a long vector")
    _require_changes(subject, row, other)


@once
def the_last_entries_of_very_long_vectors_count(subject: ArraySubject, case: Values) -> None:
    """Operations on a vector that is 0 but for its last entries equal those on these entries."""
    ends = np.random.default_rng(0).integers(1, 9, size=(4, LAYOUT.size)) * np.resize([1, -1], LAYOUT.size)
    short = [subject.vector(row) for row in ends.astype(case.dtype)]
    long = [subject.vector(row) for row in np.pad(ends, ((0, 0), (BLOCKS, 0))).astype(case.dtype)]
    what = f"of vectors of {BLOCKS + LAYOUT.size} entries, of which the last {LAYOUT.size} are not 0"
    for name, operation in _integer_operations(subject).items():
        found, expected = np.asarray(operation(*long)), np.asarray(operation(*short))
        same_numbers(found[..., -expected.shape[-1] :], expected, f"{name} {what}")
        require(not found[..., : -expected.shape[-1]].any(), f"{name} {what} is not 0 before them.")
    spoilt = np.pad(ends[0], (BLOCKS, 0)).astype(case.dtype)
    spoilt[-1] = np.nan
    last, parts = subject.vector(spoilt), [slice(0, BLOCKS), slice(5, len(spoilt))]
    ops, known = subject.ops, subject.ops.snapshot(long[0])
    require(not ops.all_finite(last), f"all_finite() is True with a NaN at the end {what}.")
    require(not ops.equal(long[0], last), f"equal() is True although the last entry differs, {what}.")
    require(not ops.unchanged(known, last), f"unchanged() is True although the last entry differs, {what}.")
    require(ops.moved(long[0], last, parts) == [False, True], f"moved() misses the last entry, {what}.")


def _integer_operations(subject: ArraySubject) -> Mapping[str, Callable[..., Any]]:
    """Operations whose results are exact for four vectors of small integers, as arrays."""
    ops, numpy = subject.ops, subject.numpy

    def new(vector: Any) -> Any:
        return subject.vector(numpy(vector).copy())

    def whole(vector: Any) -> list[Slices]:
        return [Slices(0, 1, 1, ops.size(vector))]

    return {
        "total()": lambda v, w, a, b: [ops.total(v)],
        "abs_total()": lambda v, w, a, b: [ops.abs_total(v)],
        "movement_sums()": lambda v, w, a, b: ops.movement_sums([(0.5, v), (2.0, w)], a, b),
        "between()": lambda v, w, a, b: numpy(ops.between(a, b, 0.5)),
        "times_movement()": lambda v, w, a, b: numpy(ops.times_movement(new(v), a, b)),
        "products_sum()": lambda v, w, a, b: numpy(ops.products_sum([(0.5, v, w), (2.0, w, None)], a, b)[0]),
        "the absolute sum of products_sum()": lambda v, w, a, b: [ops.products_sum([(2.0, v, w)], a, b)[1]],
        "scaled()": lambda v, w, a, b: numpy(ops.scaled(new(v), 0.5)),
        "add_scaled()": lambda v, w, a, b: numpy(ops.add_scaled(new(v), 0.5, w)),
        "accumulated()": lambda v, w, a, b: numpy(ops.accumulated(ops.accumulated(None, v), w)),
        "signs()": lambda v, w, a, b: numpy(ops.signs(v)),
        "ratio()": lambda v, w, a, b: numpy(ops.ratio(v, ops.scaled(new(v), 2.0))),
        "take()": lambda v, w, a, b: ops.take(v, np.array([ops.size(v) - 1])),
        "sums()": lambda v, w, a, b: ops.sums(v, whole(v)),
        "the sums of sums_and_signs()": lambda v, w, a, b: ops.sums_and_signs(v, whole(v))[0],
        "the signs of sums_and_signs()": lambda v, w, a, b: ops.sums_and_signs(v, whole(v))[1],
        "magnitudes()": lambda v, w, a, b: ops.magnitudes(v, EDGES),
        "the smallest of extremes()": lambda v, w, a, b: ops.take(v, ops.extremes(v, 3)[0]),
        "the largest of extremes()": lambda v, w, a, b: ops.take(v, ops.extremes(v, 3)[1]),
    }


def _require_changes(subject: ArraySubject, row: Array, other: Array) -> None:
    ops, like = subject.ops, subject.vector(row)
    counts, last = (ops.native(np.zeros(len(row), kind), like) for kind in (np.int32, np.int8))
    for each in (row, other):
        counts, last = ops.changes(counts, last, ops.signs(subject.vector(each)))
    same_numbers(subject.numpy(counts), row * other < 0, "changes of sign in a long vector")
    same_numbers(subject.numpy(last), np.where(other != 0, np.sign(other), np.sign(row)), "the last sign")


@law
def bad_entries_are_kept(subject: ArraySubject, case: Values) -> None:
    """NaN and infinity are neither dropped nor replaced, and infinity is counted above all edges."""
    ops, size = subject.ops, LAYOUT.size
    first, start, end = case.random(3, size)
    slices, at = LAYOUT.groups("tensor").slices, 9  # in the third tensor, of the groups 0 ... 3
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = first.copy()
        spoilt[at] = bad
        ends = subject.vector(start), subject.vector(end)

        def new(spoilt: Array = spoilt) -> Any:
            return subject.vector(spoilt.copy())

        with np.errstate(all="ignore"):
            product, mass = ops.products_sum([(0.5, new(), None)], *ends)
            entries = {
                "between()": ops.between(new(), ends[1], 0.5),
                "times_movement()": ops.times_movement(new(), *ends),
                "products_sum()": product,
                "scaled()": ops.scaled(new(), 2.0),
                "add_scaled()": ops.add_scaled(subject.vector(start.copy()), 2.0, new()),
                "accumulated()": ops.accumulated(None, new()),
                "ratio()": ops.ratio(new(), subject.vector(end)),
            }
            sums = ops.sums(new(), slices), ops.sums_and_signs(new(), slices)[0]
            projected = ops.products(ops.native(np.ones((1, size), case.dtype), new()), new())
            taken = ops.take(new(), np.array([at]))
        for name, found in entries.items():
            finite = np.isfinite(subject.numpy(found))
            spoiling = not finite[at] and finite.sum() == size - 1
            require(spoiling, f"{name} with {bad} at {at} is not finite at {np.flatnonzero(~finite)}.")
        same_numbers(taken, spoilt[[at]], "take() of an entry that is not finite")
        for name, numbers in (("sums()", sums[0]), ("sums_and_signs()", sums[1]), ("products()", projected)):
            require(not np.isfinite(numbers).all(), f"{name} are finite although an entry is {bad}.")
        require(not math.isfinite(mass), f"products_sum() has the absolute sum {mass} with an entry {bad}.")
        if math.isinf(bad):
            row = int(bad > 0)
            with np.errstate(all="ignore"):
                together = ops.sums_signs_and_magnitudes(new(), slices, EDGES)[2]
                for counts in (ops.magnitudes(new(), EDGES), together):
                    require(
                        counts[row][-1] == 1 and counts.sum() == np.count_nonzero(spoilt),
                        f"magnitudes() does not count {bad} above all edges: {counts.tolist()}.",
                    )


@law
def arrays_of_another_dtype_or_shape_are_not_equal(subject: ArraySubject, case: Values) -> None:
    """``equal`` is False for the same numbers in another dtype or shape."""
    whole = np.arange(1.0, 7.0)
    numbers = [whole.astype(dtype) for dtype in (np.float64, np.float32, np.int64, np.int32, np.int8)]
    forms = [*numbers, whole.astype(case.dtype)[None], whole.astype(case.dtype).reshape(2, 3)]
    made = [subject.vector(form) for form in forms]
    kinds = [(subject.numpy(each).dtype, subject.numpy(each).shape) for each in made]
    for first, kind in zip(made, kinds, strict=True):
        for second, other in zip(made, kinds, strict=True):
            # A framework without float64 makes arrays of one dtype of both.
            right = subject.ops.equal(first, second) == (kind == other)
            require(right, f"equal() of arrays {kind} and {other} with the same numbers is {kind != other}.")


@law
def results_belong_to_the_caller(subject: ArraySubject, case: Values) -> None:
    """A result shares no memory with another one, nor with the arguments, also if it is 0."""
    for rows in (case.random(4, LAYOUT.size), np.zeros((4, LAYOUT.size), case.dtype)):
        _require_own(subject, rows)


def _require_own(subject: ArraySubject, rows: Array) -> None:
    arguments = [subject.vector(row.copy()) for row in rows]
    makers = _makers(subject, arguments)
    others = _makers(subject, [subject.vector(row[::-1] + 1) for row in rows])
    for name, make in makers.items():
        found = make()
        kept = subject.numpy(found).copy()
        others[name]()
        same_numbers(subject.numpy(found), kept, f"{name}, after it was called with other arguments")
        _overwrite(found)
        same_numbers(subject.numpy(make()), kept, f"{name}, after its first result was overwritten")
        for argument, row in zip(arguments, rows, strict=True):
            same_numbers(subject.numpy(argument), row, f"an argument, after the result of {name} was written")


def _makers(subject: ArraySubject, arguments: list[Any]) -> Mapping[str, Callable[[], Any]]:
    """The operations that make arrays, each a function without arguments; what they may overwrite is new."""
    ops, (v, w, a, b) = subject.ops, arguments
    slices = LAYOUT.groups("layer").slices
    basis = ops.native(np.eye(3, LAYOUT.size, dtype=subject.numpy(v).dtype), v)

    def new() -> Any:
        return subject.vector(subject.numpy(v).copy())

    return {
        "between() at s = 0": lambda: ops.between(a, b, 0.0),
        "between() at s = 0.5": lambda: ops.between(a, b, 0.5),
        "between() at s = 1": lambda: ops.between(a, b, 1.0),
        "times_movement()": lambda: ops.times_movement(new(), a, b),
        "times_movement() of no movement": lambda: ops.times_movement(new(), a, a),
        "products_sum()": lambda: ops.products_sum([(0.5, v, w), (1.0, w, None)], a, b)[0],
        "products_sum() of no movement": lambda: ops.products_sum([(1.0, v, None)], a, a)[0],
        "scaled()": lambda: ops.scaled(new(), 0.5),
        "scaled() by 0": lambda: ops.scaled(new(), 0.0),
        "add_scaled()": lambda: ops.add_scaled(new(), 0.5, w),
        "accumulated()": lambda: ops.accumulated(None, v),
        "take()": lambda: ops.take(v, np.array([4, 0, 4])),
        "take() of neighbours": lambda: ops.take(v, np.arange(3)),
        "sums()": lambda: ops.sums(v, slices),
        "sums_and_signs()": lambda: ops.sums_and_signs(v, slices)[0],
        "the signs of sums_and_signs()": lambda: ops.sums_and_signs(v, slices)[1],
        "magnitudes()": lambda: ops.magnitudes(v, EDGES),
        "extremes()": lambda: ops.extremes(v, 3)[0],
        "products()": lambda: ops.products(basis, v),
        "signs()": lambda: ops.signs(v),
        "ratio()": lambda: ops.ratio(v, w),
    }


def _overwrite(array: Any) -> None:
    """Write 7 into every entry, where the array type allows it."""
    with suppress(TypeError, ValueError, AttributeError, NotImplementedError):
        array[...] = 7
