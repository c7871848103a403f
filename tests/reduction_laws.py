"""What the `ArrayOps` of every kind of vector must give: what loops in plain Python, and NumPy, give."""

import math

import hypothesis.strategies as st
import numpy as np
from hypothesis.extra.numpy import arrays

from lca.arrays import NumpyOps
from lca.layout import Layout
from lca.tolerances import EPS64, summed

LAYOUT = Layout(("a.kernel", "a.bias", "b.filter", "c"), ((3, 2), (2,), (2, 2, 3), ()), (1, 0, 1, None))
EDGES = np.logspace(-3, 2, 11)
AT_EDGES = [*EDGES, *np.nextafter(EDGES, 0), *EDGES.astype(np.float32), 0.0, -0.0, 1e-30, 1e30]

_at_edges = st.sampled_from([sign * float(size) for size in AT_EDGES for sign in (-1, 1)])
_number = st.floats(-1e3, 1e3, width=32) | _at_edges
vectors = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays(np.float64, LAYOUT.size, elements=_number).map(lambda v: v.astype(dtype))
)


def sums_and_counts_are_those_of_a_loop(on, vector_of, values):
    for by in ("tensor", "layer", "neuron"):
        groups = LAYOUT.groups(by)
        sums, counts = (f(vector_of(values), groups.slices) for f in (on.sums, on.sign_counts))
        assert sums.dtype == np.float64
        assert (len(sums), counts.shape) == (len(groups.ids), (2, len(groups.ids)))
        for group in range(len(groups)):
            mine = [float(v) for v, g in zip(values, groups.index, strict=True) if g == group]
            error = abs(sums[groups.ids == group].sum() - math.fsum(mine))
            assert error <= summed(math.fsum(map(abs, mine)), EPS64), by
            found = counts[:, groups.ids == group].sum(axis=1).tolist()
            assert found == [sum(v < 0 for v in mine), sum(v > 0 for v in mine)], by


def magnitudes_are_counted_between_their_edges(on, vector_of, values):
    counts = on.magnitudes(vector_of(values), EDGES)
    limits = [0.0, *EDGES, math.inf]
    for sign, row in zip((-1, 1), counts, strict=True):
        sizes = [float(sign * v) for v in values if sign * v > 0]
        expected = [sum(a <= s < b for s in sizes) for a, b in zip(limits, limits[1:], strict=False)]
        assert row.tolist() == expected


def extremes_come_in_order(on, vector_of, values):
    for k in (1, 3, len(values)):
        smallest, largest = on.extremes(vector_of(values), k)
        assert values[smallest].tolist() == sorted(values.tolist())[:k]
        assert values[largest].tolist() == sorted(values.tolist(), reverse=True)[:k]
        assert len(set(smallest)) == len(set(largest)) == k


def totals_grow_in_float64_and_leave_the_vector_alone(on, vector_of, values):
    vector = vector_of(values)
    total = on.accumulated(None, vector)
    total = on.accumulated(total, vector_of(np.full_like(values, 1e-10)))
    np.testing.assert_array_equal(on.to_numpy(total), values.astype(np.float64) + values.dtype.type(1e-10))
    np.testing.assert_array_equal(on.to_numpy(vector), values)


def changes_of_sign_skip_the_zeros(on, vector_of, values):
    rows = np.stack([values, values[::-1], -values, np.zeros_like(values), values])
    like = vector_of(values)
    counts = on.native(np.zeros(len(values), np.int32), like)
    last = on.native(np.zeros(len(values), np.int8), like)
    for row in rows:
        counts, last = on.changes(counts, last, on.signs(vector_of(row)))
    for i, column in enumerate(rows.T):
        signs = [np.sign(v) for v in column if v != 0]
        assert on.to_numpy(counts)[i] == sum(a != b for a, b in zip(signs, signs[1:], strict=False))
        assert on.to_numpy(last)[i] == (signs[-1] if signs else 0)


def products_and_ratios_are_those_of_numpy(on, vector_of, values):
    theirs, like = NumpyOps(), vector_of(values)
    basis = np.random.default_rng(0).normal(size=(3, len(values))).astype(values.dtype)
    mass = np.abs(basis).astype(np.float64) @ np.abs(values).astype(np.float64)
    exact = [math.fsum(b * v for b, v in zip(row.tolist(), values.tolist(), strict=True)) for row in basis]
    error = np.abs(on.products(on.native(basis, like), like) - exact)
    assert (error <= summed(mass, EPS64)).all()
    divisor = np.where(values > 0.1, values, 0).astype(values.dtype)
    ratio = on.to_numpy(on.ratio(vector_of(values[::-1].copy()), vector_of(divisor)))
    np.testing.assert_array_equal(ratio, theirs.ratio(values[::-1], divisor))
    assert not ratio[divisor == 0].any()


def entries_are_taken_by_position(on, vector_of, values):
    positions = np.array([4, 0, len(values) - 1])
    np.testing.assert_array_equal(on.take(vector_of(values), positions), values[positions])
    assert on.size(vector_of(values)) == len(values)


LAWS = [
    sums_and_counts_are_those_of_a_loop,
    magnitudes_are_counted_between_their_edges,
    extremes_come_in_order,
    totals_grow_in_float64_and_leave_the_vector_alone,
    changes_of_sign_skip_the_zeros,
    products_and_ratios_are_those_of_numpy,
    entries_are_taken_by_position,
]
