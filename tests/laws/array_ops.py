"""The laws of `lca.arrays.ArrayOps`, arithmetic and reductions, against loops in plain Python and NumPy.

Each law takes a `Kind` of vector and random numbers. The tests of every array type run all of them::

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    @given(vectors)
    def test_laws(law, values):
        law(Kind(MyOps(), my_vector), values)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
from hypothesis.extra.numpy import arrays

from lca.arrays import ArrayOps
from lca.layout import Layout
from lca.tolerances import EPS64, summed

LAYOUT = Layout(("a.kernel", "a.bias", "b.filter", "c"), ((3, 2), (2,), (2, 2, 3), ()), (1, 0, 1, None))
EDGES = np.logspace(-3, 2, 11)
AT_EDGES = [*EDGES, *np.nextafter(EDGES, 0), *EDGES.astype(np.float32), 0.0, -0.0, 1e-30, 1e30]
SMALLEST = [1.2e-38, float(np.float32(1e-45)), 2.3e-308, 5e-324]
"""Subnormal, or subnormal when divided: numbers that some frameworks replace by 0."""
LONG = 2**16 + 7
"""More entries than any implementation processes at a time on a CPU."""

_special = st.sampled_from([sign * float(size) for size in [*AT_EDGES, *SMALLEST] for sign in (-1, 1)])
_number = st.floats(-1e3, 1e3, width=32) | _special
vectors = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays(np.float64, LAYOUT.size, elements=_number).map(lambda v: v.astype(dtype))
)


class Kind(NamedTuple):
    """The operations of one array type, how its vectors are made, and whether it keeps subnormal numbers.

    An operation that does not keep them may be off by the smallest normal number in each entry.
    """

    ops: ArrayOps
    vector: Callable[[np.ndarray], Any]
    keeps_subnormals: bool = True

    def lost(self, dtype: Any) -> float:
        """The error that replacing subnormal numbers by 0 may cause in one entry."""
        return 0.0 if self.keeps_subnormals else float(np.finfo(dtype).tiny)

    def numpy(self, array: Any) -> np.ndarray:
        return self.ops.to_numpy(array)


def numbers(values: np.ndarray, count: int, length: int = LONG) -> np.ndarray:
    """Random vectors (count, length) in the dtype of ``values``, the same for the same values."""
    seed = np.frombuffer(values.tobytes(), np.uint8).tolist()
    return np.random.default_rng(seed).normal(size=(count, length)).astype(values.dtype)


# --- arithmetic ------------------------------------------------------------------------------------------


def totals_are_summed_in_float64(kind, values):
    for row in (values, *numbers(values, 1)):
        vector, mass = kind.vector(row), math.fsum(np.abs(row).tolist())
        error = summed(mass, EPS64) + len(row) * kind.lost(row.dtype)
        assert abs(kind.ops.total(vector) - math.fsum(row.tolist())) <= error
        assert abs(kind.ops.abs_total(vector) - mass) <= error
        assert (type(kind.ops.total(vector)), type(kind.ops.abs_total(vector))) == (float, float)


def movement_sums_are_those_of_the_product(kind, values):
    first, second, start, end = numbers(values, 4)
    weighted = [(0.5, kind.vector(first)), (-2.0, kind.vector(second))]
    found = kind.ops.movement_sums(weighted, kind.vector(start), kind.vector(end))
    product = (0.5 * first.astype(float) - 2 * second) * (end.astype(float) - start)
    mass = math.fsum((0.5 * abs(first) + 2 * abs(second)) * (abs(start) + abs(end)))
    error = summed(mass, float(np.finfo(values.dtype).eps))
    assert abs(found[0] - math.fsum(product)) <= error
    assert abs(found[1] - math.fsum(abs(product))) <= error
    assert [type(part) for part in found] == [float, float]


def vectors_are_those_of_numpy(kind, values):
    """Entry by entry, in the dtype of the vector, whether it is processed whole or in blocks."""
    vector, start, end = numbers(values, 3)
    ops, a, b = kind.ops, kind.vector(start), kind.vector(end)
    pairs = {
        "point": (ops.between(a, b, 0.25), start + 0.25 * (end - start)),
        "product": (ops.times_movement(kind.vector(vector), a, b), vector * (end - start)),
        "multiple": (ops.scaled(kind.vector(vector), 0.3), 0.3 * vector),
        "sum": (ops.add_scaled(kind.vector(vector), 0.3, a), vector + 0.3 * start),
    }
    size = np.abs(vector) * (1 + np.abs(end) + np.abs(start)) + np.abs(start) + np.abs(end)
    for name, (found, expected) in pairs.items():
        assert kind.numpy(found).dtype == values.dtype, name
        error = np.abs(kind.numpy(found) - expected)
        assert (error <= summed(size, float(np.finfo(values.dtype).eps))).all(), name
    np.testing.assert_array_equal(kind.numpy(a), start)
    np.testing.assert_array_equal(kind.numpy(b), end)


def a_segment_begins_and_ends_at_its_ends(kind, values):
    start, end = numbers(values, 2, length=100)
    a, b = kind.vector(start), kind.vector(end)
    np.testing.assert_array_equal(kind.numpy(kind.ops.between(a, b, 0.0)), start)
    np.testing.assert_array_equal(kind.numpy(kind.ops.between(a, a, 0.3)), start)
    size, eps = np.abs(start) + np.abs(end), float(np.finfo(values.dtype).eps)
    assert (np.abs(kind.numpy(kind.ops.between(a, b, 1.0)) - end) <= summed(size, eps)).all()


def one_bad_entry_is_not_finite(kind, values):
    assert kind.ops.all_finite(kind.vector(values))
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = values.copy()
        spoilt[3] = bad
        assert not kind.ops.all_finite(kind.vector(spoilt))


def eps_is_that_of_the_dtype(kind, values):
    assert kind.ops.eps(kind.vector(values)) == np.finfo(values.dtype).eps


def a_snapshot_recognises_its_vector(kind, values):
    vector = kind.vector(values.copy())
    snapshot = kind.ops.snapshot(vector)
    assert kind.ops.unchanged(snapshot, vector)
    other = values.copy()
    other[1] = np.nextafter(other[1], np.inf)
    assert not kind.ops.unchanged(snapshot, kind.vector(other))


def vectors_are_made_like_others(kind, values):
    like = kind.vector(values[:1])
    found = kind.ops.vector(np.array(values[::-1], np.float64), like)
    assert type(found) is type(like)
    assert found.dtype == like.dtype
    assert getattr(found, "device", None) == getattr(like, "device", None)
    np.testing.assert_array_equal(kind.numpy(found), values[::-1])


def numpy_sees_the_same_numbers(kind, values):
    np.testing.assert_array_equal(kind.numpy(kind.vector(values)), values)
    assert kind.numpy(values) is values
    assert kind.ops.size(kind.vector(values)) == len(values)


# --- reductions ------------------------------------------------------------------------------------------


def sums_and_signs_are_those_of_a_loop(kind, values):
    for by in ("tensor", "layer", "neuron"):
        groups, vector = LAYOUT.groups(by), kind.vector(values)
        sums, counts = kind.ops.sums_and_signs(vector, groups.slices)
        assert (sums.dtype, counts.dtype.kind) == (np.float64, "i")
        assert (len(sums), counts.shape) == (len(groups.ids), (2, len(groups.ids)))
        np.testing.assert_array_equal(kind.ops.sums(vector, groups.slices), sums)
        for group in range(len(groups)):
            mine = [float(v) for v, g in zip(values, groups.index, strict=True) if g == group]
            error = summed(math.fsum(map(abs, mine)), EPS64) + len(mine) * kind.lost(values.dtype)
            assert abs(sums[groups.ids == group].sum() - math.fsum(mine)) <= error, by
            found = counts[:, groups.ids == group].sum(axis=1).tolist()
            assert found == [sum(v < 0 for v in mine), sum(v > 0 for v in mine)], by


def long_sums_and_signs_are_those_of_numpy(kind, values):
    """In blocks, for a single sum and for several."""
    layout = Layout(("w", "v"), ((LONG // 2, 2), (1,)), (1, 0))
    row = numbers(values, 1, layout.size)[0]
    row[::3] = 0
    for by in ("tensor", "neuron"):
        groups, vector = layout.groups(by), kind.vector(row)
        sums, counts = kind.ops.sums_and_signs(vector, groups.slices)
        np.testing.assert_array_equal(kind.ops.sums(vector, groups.slices), sums)
        for group in range(len(groups)):
            mine = row[groups.index == group].astype(np.float64)
            error = summed(math.fsum(abs(mine)), EPS64)
            assert abs(groups.merged(sums)[group] - math.fsum(mine)) <= error
            assert groups.merged(counts[0])[group] == (mine < 0).sum()
            assert groups.merged(counts[1])[group] == (mine > 0).sum()


def magnitudes_are_counted_between_their_edges(kind, values):
    for edges in (EDGES, np.logspace(-320, 4, 7), np.logspace(-46, -36, 11), np.logspace(30, 40, 3)):
        counts = kind.ops.magnitudes(kind.vector(values), edges)
        limits = [0.0, *edges, math.inf]
        for sign, row in zip((-1, 1), counts, strict=True):
            sizes = [float(sign * v) for v in values if sign * v > 0]
            expected = [sum(a <= s < b for s in sizes) for a, b in zip(limits, limits[1:], strict=False)]
            assert row.tolist() == expected


def extremes_come_in_order(kind, values):
    for k in (1, 3, len(values)):
        smallest, largest = kind.ops.extremes(kind.vector(values), k)
        assert values[smallest].tolist() == sorted(values.tolist())[:k]
        assert values[largest].tolist() == sorted(values.tolist(), reverse=True)[:k]
        assert len(set(smallest)) == len(set(largest)) == k


def totals_grow_in_float64_and_leave_the_vector_alone(kind, values):
    vector = kind.vector(values)
    total = kind.ops.accumulated(None, vector)
    total = kind.ops.accumulated(total, kind.vector(np.full_like(values, 1e-10)))
    expected = values.astype(np.float64) + float(values.dtype.type(1e-10))
    assert kind.numpy(total).dtype == np.float64
    assert (np.abs(kind.numpy(total) - expected) <= kind.lost(values.dtype)).all()
    np.testing.assert_array_equal(kind.numpy(vector), values)


def changes_of_sign_skip_the_zeros(kind, values):
    rows = np.stack([values, values[::-1], -values, np.zeros_like(values), values])
    like, ops = kind.vector(values), kind.ops
    counts = ops.native(np.zeros(len(values), np.int32), like)
    last = ops.native(np.zeros(len(values), np.int8), like)
    for row in rows:
        counts, last = ops.changes(counts, last, ops.signs(kind.vector(row)))
    for i, column in enumerate(rows.T):
        signs = [np.sign(v) for v in column if v != 0]
        assert kind.numpy(counts)[i] == sum(a != b for a, b in zip(signs, signs[1:], strict=False))
        assert kind.numpy(last)[i] == (signs[-1] if signs else 0)


def products_are_those_of_a_loop(kind, values):
    like = kind.vector(values)
    basis = np.random.default_rng(0).normal(size=(3, len(values))).astype(values.dtype)
    mass = np.abs(basis).astype(np.float64) @ np.abs(values).astype(np.float64)
    exact = [math.fsum(b * v for b, v in zip(row.tolist(), values.tolist(), strict=True)) for row in basis]
    error = np.abs(kind.ops.products(kind.ops.native(basis, like), like) - exact)
    lost = np.abs(basis).sum(axis=1) * kind.lost(values.dtype) + len(values) * kind.lost(np.float64)
    assert (error <= summed(mass, EPS64) + lost).all()


def ratios_are_those_of_numpy_and_0_over_0(kind, values):
    dividend, divisor = values[::-1].copy(), np.where(values > 0.1, values, 0).astype(values.dtype)
    ratio = kind.numpy(kind.ops.ratio(kind.vector(dividend), kind.vector(divisor)))
    expected = np.divide(dividend, divisor, out=np.zeros_like(values), where=divisor != 0)
    assert not ratio[divisor == 0].any()
    # A subnormal dividend is divided by 0.1 at least.
    assert (np.abs(ratio - expected) <= 16 * kind.lost(values.dtype)).all()


def entries_are_taken_by_position(kind, values):
    positions = np.array([4, 0, len(values) - 1])
    np.testing.assert_array_equal(kind.ops.take(kind.vector(values), positions), values[positions])


def arrays_are_equal_in_every_number(kind, values):
    first, again, other = kind.vector(values), kind.vector(values.copy()), values.copy()
    other[3] = 7.0 if values[3] != 7 else 8.0
    assert kind.ops.equal(first, again)
    assert not kind.ops.equal(first, kind.vector(other))
    assert not kind.ops.equal(first, kind.vector(values[:-1]))
    assert not kind.ops.equal(first, values.tolist())
    other[3] = np.nan
    assert kind.ops.equal(kind.vector(other), kind.vector(other.copy()))
    assert not kind.ops.equal(first, kind.vector(other))


def what_moved_is_told_part_by_part(kind, values):
    end = values.copy()
    end[3] = 7.0 if values[3] != 7 else 8.0
    start, parts = kind.vector(values), [slice(0, 3), slice(3, 4), slice(4, len(values)), slice(2, 5)]
    assert kind.ops.moved(start, kind.vector(end), parts) == [False, True, False, True]
    assert kind.ops.moved(start, kind.vector(values.copy()), parts) == [False] * 4
    assert kind.ops.moved(start, kind.vector(end), []) == []


ARITHMETIC = [
    arrays_are_equal_in_every_number,
    what_moved_is_told_part_by_part,
    totals_are_summed_in_float64,
    movement_sums_are_those_of_the_product,
    vectors_are_those_of_numpy,
    a_segment_begins_and_ends_at_its_ends,
    one_bad_entry_is_not_finite,
    eps_is_that_of_the_dtype,
    a_snapshot_recognises_its_vector,
    vectors_are_made_like_others,
    numpy_sees_the_same_numbers,
]
REDUCTIONS = [
    sums_and_signs_are_those_of_a_loop,
    long_sums_and_signs_are_those_of_numpy,
    magnitudes_are_counted_between_their_edges,
    extremes_come_in_order,
    totals_grow_in_float64_and_leave_the_vector_alone,
    changes_of_sign_skip_the_zeros,
    products_are_those_of_a_loop,
    ratios_are_those_of_numpy_and_0_over_0,
    entries_are_taken_by_position,
]
LAWS = ARITHMETIC + REDUCTIONS

SUBNORMAL = {
    f"{np.dtype(dtype).name}, {name}": np.resize(np.array(entries, dtype), LAYOUT.size)
    for dtype in (np.float32, np.float64)
    for name, entries in {
        "among others": [*SMALLEST, 0.0, -1.0, *(-v for v in SMALLEST), 2.0],
        "alone": [*SMALLEST, 0.0, SMALLEST[0], -3 * SMALLEST[1]],
    }.items()
}
"""Fixed examples, found by random search: TensorFlow replaced 1.2e-38, divided by 2, by 0."""
