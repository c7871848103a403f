"""The laws of `lca.arrays.ArrayOps`, arithmetic and reductions, against loops in plain Python and NumPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lca.arrays import Slices
from lca.layout import Layout
from lca.testing._array_subject import (
    EDGES,
    LAYOUT,
    LONG,
    Array,
    ArraySubject,
    Values,
    law_into,
    near,
    same_numbers,
)
from lca.testing._laws import require
from lca.testing._report import Check
from lca.tolerances import EPS64, summed

ARRAY_CHECKS: list[Check] = []


law = law_into(ARRAY_CHECKS)


@law
def arrays_are_equal_in_every_number(subject: ArraySubject, case: Values) -> None:
    """``equal`` compares type, shape and every number; NaN equals NaN."""
    values = case.numbers
    values, other, equal = values.copy(), values.copy(), subject.ops.equal
    values[3], other[3] = 1.0, np.nextafter(values.dtype.type(1), values.dtype.type(2))
    first, again = subject.vector(values), subject.vector(values.copy())
    require(equal(first, again), "a vector does not equal another one with the same numbers.")
    require(
        not equal(first, subject.vector(other)), "vectors that differ in one entry by rounding are equal."
    )
    require(not equal(first, subject.vector(values[:-1])), "a vector equals a shorter one.")
    require(not equal(first, values.tolist()), "a vector equals a list.")
    other[3] = np.nan
    nan = subject.vector(other)
    require(equal(nan, subject.vector(other.copy())), "a vector with NaN does not equal its copy.")
    require(not equal(first, nan), "a vector equals one with NaN.")


@law
def movement_is_reported_for_each_part(subject: ArraySubject, case: Values) -> None:
    """``moved`` says for each part whether it differs."""
    values = case.numbers
    end = values.copy()
    end[3] = 7.0 if values[3] != 7 else 8.0
    start, parts = subject.vector(values), [slice(0, 3), slice(3, 4), slice(4, len(values)), slice(2, 5)]
    for other, expected in ((end, [False, True, False, True]), (values.copy(), [False] * 4)):
        found = subject.ops.moved(start, subject.vector(other), parts)
        require(found == expected, f"moved() is {found}, expected {expected}.")
    require(subject.ops.moved(start, subject.vector(end), []) == [], "moved() of no parts is not empty.")
    around = subject.ops.moved(start, subject.vector(end), [slice(0, 3), slice(4, 6), slice(9, 12)])
    require(around == [False] * 3, f"moved() is {around} although only an entry between the parts differs.")


@law
def totals_are_summed_in_float64(subject: ArraySubject, case: Values) -> None:
    """``total`` and ``abs_total`` are Python floats, accumulated in float64."""
    values = case.numbers
    for row in (values, *case.random(1)):
        vector, mass = subject.vector(row), math.fsum(np.abs(row).tolist())
        error = summed(mass, EPS64) + len(row) * subject.lost(row.dtype)
        for name, expected in (("total", math.fsum(row.tolist())), ("abs_total", mass)):
            found = getattr(subject.ops, name)(vector)
            near(found, expected, error, f"{name}() of {len(row)} {row.dtype} numbers")
            require(type(found) is float, f"{name}() returns a {type(found).__name__}, not a float.")


@law
def movement_sums_are_those_of_the_product(subject: ArraySubject, case: Values) -> None:
    """``movement_sums`` is the sum, and the sum of absolute values, of the weighted product."""
    rows = case.random(4)
    v, w, a, b = map(subject.vector, rows)
    first, second, start, end = rows.astype(float)
    movement, reach = end - start, abs(start) + abs(end)
    for one, other in ((0.5, -2.0), (1.0, -0.5), (-1.0, 1.0)):
        weighted, weights = [(one, v), (other, w)], f"with the weights {one} and {other}"
        found = subject.ops.movement_sums(weighted, a, b)
        product = (one * first + other * second) * movement
        mass = float(((abs(one * first) + abs(other * second)) * reach).sum())
        error = summed(mass, float(np.finfo(case.dtype).eps))
        near(found[0], math.fsum(product), error, f"movement_sums() {weights}: the sum")
        near(found[1], float(abs(product).sum()), error, f"movement_sums() {weights}: the absolute sum")
        floats = [type(part) for part in found] == [float, float]
        require(floats, "movement_sums() does not return two floats.")
        for name, vector, row in zip(("v_0", "v_1", "start", "end"), (v, w, a, b), rows, strict=True):
            same_numbers(subject.numpy(vector), row, f"the argument {name} of movement_sums() {weights}")
    each = [weighted, weighted[:1], weighted[1:]]
    alone = [subject.ops.movement_sums(combination, a, b) for combination in each]
    found_each = subject.ops.movement_sums_each(each, a, b)
    near(found_each, alone, error, "movement_sums_each(), against movement_sums() of each combination")


@law
def products_are_summed(subject: ArraySubject, case: Values) -> None:
    """``products_sum`` is the weighted sum of the products, and their weighted absolute sum."""
    rows = case.random(5)
    v, w, f, start, end = map(subject.vector, rows)
    weighted = [(0.5, v, f), (-2.0, w, None), (0.25, v, None)]  # the movement is a factor of two terms
    first, second, factor, a, b = rows.astype(float)
    terms = 0.5 * first * factor, -2 * second * (b - a), 0.25 * first * (b - a)
    eps, expected = float(np.finfo(case.dtype).eps), math.fsum(map(float, sum(map(abs, terms))))
    sizes = 0.5 * abs(first * factor) + (2 * abs(second) + 0.25 * abs(first)) * (abs(a) + abs(b))
    slack = summed(1.0, eps) * sizes + 3 * subject.lost(case.dtype)
    for option, kept in (("", "vwfab"), (" with overwrite=True", "vwab")):  # f belongs to the caller then
        found, mass = subject.ops.products_sum(weighted, start, end, overwrite=bool(option))
        what = f"products_sum(){option}"
        require(subject.numpy(found).dtype == case.dtype, f"{what} changes the dtype.")
        near(subject.numpy(found), sum(terms), slack, what)
        near(mass, expected, summed(float(sizes.sum()), 4 * eps), f"{what}: the absolute sum")
        require(type(mass) is float, f"{what} returns a {type(mass).__name__} as its second value.")
        for name, vector, row in zip("vwfab", (v, w, f, start, end), rows, strict=True):
            if name in kept:
                same_numbers(subject.numpy(vector), row, f"the argument {name} of {what}")


@law_into(ARRAY_CHECKS, part=20)  # for several slices, and for any numbers the same
def products_come_with_their_sums(subject: ArraySubject, case: Values) -> None:
    """``products_and_sums`` is ``products_sum`` and the sums of its vector; others are found as before."""
    ops, rows = subject.ops, case.random(4)
    v, w, start, end = map(subject.vector, rows)
    weighted = [(0.5, v, None), (-2.0, w, None)]
    tensors = [Slices(0, 1, 1, 5), Slices(5, 1, 1, LONG - 5)]
    divided = [Slices(0, 2, 3, 7), Slices(42, 1, 1, LONG - 42)]
    inner = [Slices(1, 1, 1, 2), Slices(9, 1, 1, LONG - 12)]
    eps, reach = float(np.finfo(case.dtype).eps), abs(rows[2]) + abs(rows[3])
    sizes = (0.5 * abs(rows[0]) + 2 * abs(rows[1])).astype(float) * reach
    lost = LONG * subject.lost(case.dtype)
    values, expected = ops.products_sum(weighted, start, end)
    for slices in (tensors, inner):
        found, mass, sums = ops.products_and_sums(weighted, start, end, slices)
        numbers, what = subject.numpy(found), f"products_and_sums() over {slices}"
        slack = summed(1.0, eps) * sizes + 2 * subject.lost(case.dtype)
        near(numbers, subject.numpy(values), slack, f"{what}, against products_sum()")
        near(mass, expected, summed(float(sizes.sum()), 4 * eps), f"{what}: the absolute sum")
        error = summed(float(abs(numbers).astype(float).sum()), EPS64) + lost
        near(sums, _sums_of(numbers, slices), error, f"{what}: the sums")
        for other in (slices, divided):
            again = ops.sums_and_signs(found, other)[0]
            near(again, _sums_of(numbers, other), error, f"sums_and_signs() over {other} after {what}")
            same_numbers(ops.sums(found, other), again, f"sums() over {other}, against sums_and_signs()")


def _sums_of(values: Array, slices: list[Slices]) -> Array:
    cut = [values[part.start : part.stop].reshape(part.shape).astype(float) for part in slices]
    return np.concatenate([part.sum((0, 2)) for part in cut])


@law
def vectors_are_those_of_numpy(subject: ArraySubject, case: Values) -> None:
    """Arithmetic is right entry by entry, in the dtype of the vector, and leaves other arguments alone."""
    vector, start, end = case.random(3)
    ops, a, b = subject.ops, subject.vector(start), subject.vector(end)
    made: dict[str, Callable[[], tuple[Any, Array]]] = {
        "between()": lambda: (ops.between(a, b, 0.25), start + 0.25 * (end - start)),
        "times_movement()": lambda: (
            ops.times_movement(subject.vector(vector), a, b),
            vector * (end - start),
        ),
        "scaled()": lambda: (ops.scaled(subject.vector(vector), 0.3), 0.3 * vector),
        "add_scaled()": lambda: (ops.add_scaled(subject.vector(vector), 0.3, a), vector + 0.3 * start),
        "add_scaled() with a small factor": lambda: (
            ops.add_scaled(subject.vector(vector), 1e-9, subject.vector(start * case.dtype.type(1e9))),
            vector + start,
        ),
    }
    size = np.abs(vector) * (1 + np.abs(end) + np.abs(start)) + np.abs(start) + np.abs(end)
    for name, make in made.items():
        found, expected = make()
        dtype = subject.numpy(found).dtype
        require(dtype == case.dtype, f"{name} of {case.dtype} vectors is {dtype}.")
        near(subject.numpy(found), expected, summed(size, float(np.finfo(case.dtype).eps)), name)
        same_numbers(subject.numpy(a), start, f"the start of the segment, after {name}")
        same_numbers(subject.numpy(b), end, f"the end of the segment, after {name}")


@law
def a_segment_begins_and_ends_at_its_ends(subject: ArraySubject, case: Values) -> None:
    """``between`` at 0 is the start exactly, at 1 the end to rounding."""
    start, end = case.random(2, length=100)
    a, b = subject.vector(start), subject.vector(end)
    same_numbers(subject.numpy(subject.ops.between(a, b, 0.0)), start, "between() at s = 0")
    same_numbers(subject.numpy(subject.ops.between(a, a, 0.3)), start, "between() from a point to itself")
    size, eps = np.abs(start) + np.abs(end), float(np.finfo(case.dtype).eps)
    near(subject.numpy(subject.ops.between(a, b, 1.0)), end, summed(size, eps), "between() at s = 1")


@law
def one_bad_entry_is_not_finite(subject: ArraySubject, case: Values) -> None:
    """``all_finite`` sees one NaN or infinity among finite numbers of any size."""
    values = case.numbers
    require(subject.ops.all_finite(subject.vector(values)), "finite numbers are reported as not finite.")
    largest = np.full_like(values, np.finfo(values.dtype).max)
    with np.errstate(over="ignore"):
        require(
            subject.ops.all_finite(subject.vector(largest)), "numbers whose sum overflows are not finite."
        )
    for at in (0, 3, len(values) - 1):
        for bad in (math.nan, math.inf, -math.inf):
            spoilt = values.copy()
            spoilt[at] = bad
            seen = not subject.ops.all_finite(subject.vector(spoilt))
            require(seen, f"all_finite() is True with {bad} at position {at}.")


@law
def eps_is_that_of_the_dtype(subject: ArraySubject, case: Values) -> None:
    """``eps`` is the machine epsilon of the vector's dtype."""
    values = case.numbers
    found, expected = subject.ops.eps(subject.vector(values)), float(np.finfo(values.dtype).eps)
    require(found == expected, f"eps() of a {values.dtype} vector is {found!r}, expected {expected!r}.")


@law
def a_snapshot_recognises_its_vector(subject: ArraySubject, case: Values) -> None:
    """``unchanged`` is True for the same vector, and False for any other numbers, also after a write."""
    values = case.numbers
    ops, vector = subject.ops, subject.vector(values.copy())
    snapshot = ops.snapshot(vector)
    require(ops.unchanged(snapshot, vector), "unchanged() is False right after snapshot().")
    others = {f"with another number at {at}": values.copy() for at in (1, len(values) - 1)}
    for at, other in zip((1, len(values) - 1), others.values(), strict=True):
        other[at] = np.nextafter(other[at], values.dtype.type(np.inf))
    swapped = values.copy()
    swapped[0], swapped[1] = np.float32(1.25), np.float32(-2.5)
    again = ops.snapshot(subject.vector(swapped))
    turned = swapped.copy()
    turned[0], turned[1] = swapped[1], swapped[0]
    for name, other in others.items():
        require(
            not ops.unchanged(snapshot, subject.vector(other)), f"unchanged() is True for a vector {name}."
        )
    require(
        not ops.unchanged(again, subject.vector(turned)), "unchanged() is True after a swap of two entries."
    )
    if _written(vector, 2, subject.vector(values[2:3] + 1)):
        seen = not ops.unchanged(snapshot, vector)
        require(seen, "unchanged() is True after the vector was changed in place; keep a copy, or a version.")


def _written(vector: Any, at: int, number: Any) -> bool:
    """Change one entry in place; False where the array type does not allow it."""
    try:
        vector[at : at + 1] = number
    except (TypeError, AttributeError, NotImplementedError):
        return False
    return True


@law
def vectors_are_made_like_others(subject: ArraySubject, case: Values) -> None:
    """``vector`` makes a vector of the type, dtype and device of another one out of NumPy numbers."""
    values = case.numbers
    like = subject.vector(values[:1])
    found = subject.ops.vector(np.array(values[::-1], np.float64), like)
    require(type(found) is type(like), f"vector() makes a {type(found).__name__}.")
    require(found.dtype == like.dtype, f"vector() has dtype {found.dtype}, not {like.dtype}.")
    require(getattr(found, "device", None) == getattr(like, "device", None), "vector() changes the device.")
    same_numbers(subject.numpy(found), values[::-1], "vector()")


@law
def numpy_sees_the_same_numbers(subject: ArraySubject, case: Values) -> None:
    """``to_numpy`` and ``size`` are those of the vector; a NumPy array is returned as it is."""
    values = case.numbers
    vector = subject.vector(values)
    same_numbers(subject.numpy(vector), values, "to_numpy()")
    require(subject.numpy(vector).dtype == values.dtype, "to_numpy() changes the dtype.")
    for own in (values, np.array([2**24 + 1])):
        require(subject.numpy(own) is own, "to_numpy() does not return a NumPy array as it is.")
    require(
        subject.ops.size(vector) == len(values), f"size() is {subject.ops.size(vector)}, not {len(values)}."
    )


# --- reductions ------------------------------------------------------------------------------------------


@law
def sums_and_signs_are_those_of_a_loop(subject: ArraySubject, case: Values) -> None:
    """Sums, and counts of negative and positive entries, by tensor, layer and neuron."""
    values = case.numbers
    for by in ("tensor", "layer", "neuron"):
        groups, vector = LAYOUT.groups(by), subject.vector(values)
        sums, counts = subject.ops.sums_and_signs(vector, groups.slices)
        kinds = f"sums() are {sums.dtype}, counts {counts.dtype}"
        require((sums.dtype, counts.dtype.kind) == (np.dtype(np.float64), "i"), kinds)
        shapes = (sums.shape, counts.shape) == ((len(groups.ids),), (2, len(groups.ids)))
        require(shapes, f"by {by}: shapes {sums.shape} and {counts.shape}.")
        same_numbers(
            subject.ops.sums(vector, groups.slices), sums, f"sums() by {by}, against sums_and_signs()"
        )
        for group in range(len(groups)):
            mine = [float(v) for v, g in zip(values, groups.index, strict=True) if g == group]
            error = summed(math.fsum(map(abs, mine)), EPS64) + len(mine) * subject.lost(values.dtype)
            near(sums[groups.ids == group].sum(), math.fsum(mine), error, f"a sum by {by}")
            found = counts[:, groups.ids == group].sum(axis=1)
            same_numbers(found, [sum(v < 0 for v in mine), sum(v > 0 for v in mine)], f"counts by {by}")


@law
def long_sums_and_signs_are_those_of_numpy(subject: ArraySubject, case: Values) -> None:
    """The same for long vectors, for a single sum and for several."""
    layout = Layout(("w", "v"), ((LONG // 2, 2), (1,)), (1, 0))
    row = case.random(1, layout.size)[0]
    row[::3] = 0
    for by in ("tensor", "neuron"):
        groups, vector = layout.groups(by), subject.vector(row)
        sums, counts = subject.ops.sums_and_signs(vector, groups.slices)
        same_numbers(
            subject.ops.sums(vector, groups.slices), sums, f"sums() by {by}, against sums_and_signs()"
        )
        for group in range(len(groups)):
            mine = row[groups.index == group].astype(np.float64)
            error = summed(math.fsum(abs(mine)), EPS64)
            near(groups.merged(sums)[group], math.fsum(mine), error, f"a long sum by {by}")
            found = [groups.merged(count)[group] for count in counts]
            same_numbers(found, [(mine < 0).sum(), (mine > 0).sum()], f"counts of a long vector by {by}")


@law
def magnitudes_are_counted_between_their_edges(subject: ArraySubject, case: Values) -> None:
    """Histograms of |v| count a number at an edge above it, for edges of any size."""
    values = case.numbers
    for edges in (EDGES, np.logspace(-320, 4, 7), np.logspace(-46, -36, 11), np.logspace(30, 40, 3)):
        counts = subject.ops.magnitudes(subject.vector(values), edges)
        limits = [0.0, *edges, math.inf]
        for sign, row in zip((-1, 1), counts, strict=True):
            sizes = [float(sign * v) for v in values if sign * v > 0]
            expected = [sum(a <= s < b for s in sizes) for a, b in zip(limits, limits[1:], strict=False)]
            same_numbers(row, expected, f"magnitudes() of sign {sign} from {edges[0]:.3g} to {edges[-1]:.3g}")
    vector, slices = subject.vector(values), LAYOUT.groups("tensor").slices
    apart = (*subject.ops.sums_and_signs(vector, slices), subject.ops.magnitudes(vector, EDGES))
    together = subject.ops.sums_signs_and_magnitudes(vector, slices, EDGES)
    for one, other, what in zip(together, apart, ("sums", "signs", "magnitudes"), strict=True):
        same_numbers(one, other, f"the {what} of sums_signs_and_magnitudes(), against those taken apart")


@law
def extremes_come_in_order(subject: ArraySubject, case: Values) -> None:
    """The positions of the smallest entries ascend, those of the largest descend."""
    values = case.numbers
    for k in (1, 3, len(values)):
        smallest, largest = subject.ops.extremes(subject.vector(values), k)
        same_numbers(values[smallest], sorted(values.tolist())[:k], f"the {k} smallest entries")
        same_numbers(values[largest], sorted(values.tolist(), reverse=True)[:k], f"the {k} largest entries")
        require(len(set(smallest)) == len(set(largest)) == k, "a position occurs twice.")


@law
def accumulated_totals_are_float64(subject: ArraySubject, case: Values) -> None:
    """A running total is float64 and leaves the vector alone."""
    values = case.numbers
    vector = subject.vector(values)
    total = subject.ops.accumulated(None, vector)
    total = subject.ops.accumulated(total, subject.vector(np.full_like(values, 1e-10)))
    expected = values.astype(np.float64) + float(values.dtype.type(1e-10))
    require(subject.numpy(total).dtype == np.float64, f"the total is {subject.numpy(total).dtype}.")
    near(subject.numpy(total), expected, subject.lost(values.dtype), "accumulated()")
    same_numbers(subject.numpy(vector), values, "the vector, after accumulated()")


@law
def changes_of_sign_skip_the_zeros(subject: ArraySubject, case: Values) -> None:
    """``changes`` counts changes of sign; a zero keeps the last sign, and a subnormal number has a sign."""
    values = case.numbers
    rows = np.stack([values, values[::-1], -values, np.zeros_like(values), values])
    like, ops = subject.vector(values), subject.ops
    counts = ops.native(np.zeros(len(values), np.int32), like)
    last = ops.native(np.zeros(len(values), np.int8), like)
    for row in rows:
        counts, last = ops.changes(counts, last, ops.signs(subject.vector(row)))
    kind = subject.numpy(ops.signs(like)).dtype
    require(kind == np.int8, f"signs() are {kind}, not int8, which takes an eighth of the memory.")
    signs = [[np.sign(v) for v in column if v != 0] for column in rows.T]
    changed = [sum(a != b for a, b in zip(s, s[1:], strict=False)) for s in signs]
    same_numbers(subject.numpy(counts), changed, "the number of changes of sign")
    same_numbers(subject.numpy(last), [s[-1] if s else 0 for s in signs], "the last sign")
    counts, last = (ops.native(np.zeros(len(values), kind), like) for kind in (np.int32, np.int8))
    for step in range(301):
        signs_now = ops.signs(subject.vector(np.full_like(values, (-1) ** step)))
        counts, last = ops.changes(counts, last, signs_now)
    same_numbers(subject.numpy(counts), np.full(len(values), 300), "300 changes of sign")


@law
def products_are_those_of_a_loop(subject: ArraySubject, case: Values) -> None:
    """``products`` is the basis times the vector, in float64."""
    values = case.numbers
    like = subject.vector(values)
    for rows in (3, len(values)):
        basis = np.random.default_rng(0).normal(size=(rows, len(values))).astype(values.dtype)
        mass = np.abs(basis).astype(np.float64) @ np.abs(values).astype(np.float64)
        exact = [
            math.fsum(b * v for b, v in zip(row, values.tolist(), strict=True)) for row in basis.tolist()
        ]
        lost = np.abs(basis).sum(axis=1) * subject.lost(values.dtype) + len(values) * subject.lost(np.float64)
        found = subject.ops.products(subject.ops.native(basis, like), like)
        near(found, exact, summed(mass, EPS64) + lost, f"products() with a basis of {rows} vectors")


@law
def ratios_are_those_of_numpy_and_0_over_0(subject: ArraySubject, case: Values) -> None:
    """``ratio`` is the quotient, and 0 where the divisor is 0."""
    values = case.numbers
    dividend, divisor = values[::-1].copy(), np.where(values > 0.1, values, 0).astype(values.dtype)
    ratio = subject.numpy(subject.ops.ratio(subject.vector(dividend), subject.vector(divisor)))
    expected = np.divide(dividend, divisor, out=np.zeros_like(values), where=divisor != 0)
    same_numbers(ratio[divisor == 0], expected[divisor == 0], "ratio() with a divisor of 0")
    # A subnormal dividend is divided by 0.1 at least.
    near(ratio, expected, 16 * subject.lost(values.dtype), "ratio()")
    if subject.keeps_subnormals:
        small = np.full(2, np.finfo(values.dtype).tiny / 4)
        found = subject.numpy(subject.ops.ratio(subject.vector(small), subject.vector(2 * small)))
        same_numbers(found, [0.5, 0.5], "ratio() of two subnormal numbers")


@law
def entries_are_taken_by_position(subject: ArraySubject, case: Values) -> None:
    """``take`` returns the entries at positions in any order."""
    values = case.numbers
    positions = np.array([4, 0, len(values) - 1])
    same_numbers(subject.ops.take(subject.vector(values), positions), values[positions], "take()")
    for positions in (np.arange(3, 9), np.array([5, 7, 6, 8]), np.array([8, 7, 6])):
        found = subject.ops.take(subject.vector(values), positions)
        same_numbers(found, values[positions], f"take() of the neighbours {positions.tolist()}")
