"""`ArrayOps` for NumPy: float64 sums, snapshots that see in-place changes, foreign types refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from lca import tolerances
from lca.arrays import array_ops
from lca.errors import LayoutError
from lca.testing.strategies import dtypes, seeds


@given(seeds, dtypes())
def test_sums_are_accumulated_in_float64(seed, dtype):
    vector = np.random.default_rng(seed).normal(size=1000).astype(dtype)
    ops = array_ops(vector)
    mass = math.fsum(np.abs(vector).tolist())
    tolerance = tolerances.summed(mass, tolerances.EPS64)
    assert abs(ops.total(vector) - math.fsum(vector.tolist())) <= tolerance
    assert abs(ops.abs_total(vector) - mass) <= tolerance
    assert (type(ops.total(vector)), type(ops.abs_total(vector))) == (float, float)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_entry_is_not_finite(bad):
    vector = np.ones(5)
    assert array_ops(vector).all_finite(vector)
    vector[3] = bad
    assert not array_ops(vector).all_finite(vector)


@given(dtypes())
def test_eps_is_that_of_the_dtype(dtype):
    vector = np.ones(2, dtype)
    assert array_ops(vector).eps(vector) == np.finfo(dtype).eps


def test_a_snapshot_sees_a_change_in_place():
    vector = np.array([1.0, 2.0, 3.0])
    ops = array_ops(vector)
    snapshot = ops.snapshot(vector)
    assert ops.unchanged(snapshot, vector)
    vector[1] = np.nextafter(2.0, 3.0)
    assert not ops.unchanged(snapshot, vector)


def test_a_snapshot_knows_the_same_numbers_in_another_buffer():
    vector = np.array([1.0, 2.0, 3.0])
    ops = array_ops(vector)
    assert ops.unchanged(ops.snapshot(vector), vector.copy())


def test_to_numpy_is_the_same_numbers():
    vector = np.array([1.0, -2.0])
    assert array_ops(vector).to_numpy(vector) is vector


def test_a_foreign_vector_is_refused_by_its_type():
    with pytest.raises(
        LayoutError, match=r"got fractions\.Fraction; convert it with numpy\.asarray, or import"
    ):
        array_ops(Fraction(1, 2))


@given(seeds, dtypes())
def test_what_works_in_blocks_is_what_it_is_as_a_whole(seed, dtype):
    start, end, vector = np.random.default_rng(seed).normal(size=(3, 2**15 + 7)).astype(dtype)
    ops, eps = array_ops(vector), float(np.finfo(dtype).eps)
    exact = math.fsum(np.abs(vector.astype(np.float64) * (end - start)).tolist())
    assert abs(ops.movement_sums([(1.0, vector)], start, end)[1] - exact) <= tolerances.summed(exact, eps)
    results = {
        "product": (ops.times_movement(vector.copy(), start, end), vector * (end - start)),
        "sum": (ops.add_scaled(vector.copy(), 0.75, start), vector + 0.75 * start),
        "multiple": (ops.scaled(vector.copy(), 0.75), 0.75 * vector),
        "point": (ops.between(start, end, 0.75), start + 0.75 * (end - start)),
    }
    for name, (found, expected) in results.items():
        assert found.dtype == dtype, name
        assert np.array_equal(found, expected), name
