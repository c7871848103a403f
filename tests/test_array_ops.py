"""`NumpyOps` satisfies the laws of array operations; what is special about NumPy; foreign types."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from lca.arrays import NumpyOps, Slices, _types, array_ops
from lca.errors import LayoutError
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import SUBNORMAL, ArraySubject, vectors
from lca.testing.strategies import dtypes, seeds
from lca.tolerances import EPS64, summed

NUMPY = ArraySubject(np.array, NumpyOps())
CHEAP = [check for check in ALL_ARRAY_CHECKS if check.part == 1]
"""The others have all the fixed cases."""


@pytest.mark.parametrize("check", CHEAP, ids=lambda check: check.name)
@given(vectors)
def test_laws(check, values):
    check.law(NUMPY, values)


@pytest.mark.parametrize("values", SUBNORMAL.values(), ids=SUBNORMAL)
@pytest.mark.parametrize("check", ALL_ARRAY_CHECKS, ids=lambda check: check.name)
def test_laws_of_the_smallest_numbers(check, values):
    check.law(NUMPY, values)


@given(seeds, dtypes())
def test_bins_by_logarithm_are_the_bins_looked_up(seed, dtype):
    rng = np.random.default_rng(seed)
    edges = np.logspace(rng.integers(-40, 0), rng.integers(1, 4), rng.integers(2, 2000))
    sizes = (10.0 ** rng.uniform(-44, 5, 70_000)).astype(dtype)
    sizes[:2000] = rng.choice(edges, 2000)
    values = sizes * rng.choice([-1, 1], len(sizes)).astype(dtype)
    bins = np.searchsorted(edges, sizes, side="right")
    expected = [np.bincount(bins[sign * values > 0], minlength=len(edges) + 1) for sign in (-1, 1)]
    np.testing.assert_array_equal(NumpyOps().magnitudes(values, edges), expected)


def test_numpy_vectors_are_reduced_as_they_are():
    vector = np.ones(3)
    assert array_ops(vector).to_numpy(vector) is vector


@given(seeds, dtypes())
def test_blocks_give_what_the_whole_gives_bit_by_bit(seed, dtype):
    start, end, vector = np.random.default_rng(seed).normal(size=(3, 2**15 + 7)).astype(dtype)
    ops = array_ops(vector)
    results = {
        "product": (ops.times_movement(vector.copy(), start, end), vector * (end - start)),
        "sum": (ops.add_scaled(vector.copy(), 0.75, start), vector + 0.75 * start),
        "multiple": (ops.scaled(vector.copy(), 0.75), 0.75 * vector),
        "point": (ops.between(start, end, 0.75), start + 0.75 * (end - start)),
    }
    for name, (found, expected) in results.items():
        assert np.array_equal(found, expected), name


@pytest.mark.parametrize("weights", [(1.0,), (2.0,), (0.0,), (1.0, 1.0), (2.0, -0.5)])
def test_movement_sums_of_any_weights_are_those_of_the_product(weights):
    vectors, start, end = np.array([[1.0, -3.0], [2.0, 5.0]]), np.array([4.0, 1.0]), np.array([2.0, 8.0])
    weighted = list(zip(weights, vectors, strict=False))
    product = sum(weight * vector for weight, vector in weighted) * (end - start)
    found = NumpyOps().movement_sums(weighted, start, end)
    assert found == (product.sum(), np.abs(product).sum())


def test_a_snapshot_sees_a_change_in_place_and_knows_the_same_numbers_elsewhere():
    vector = np.array([1.0, 2.0, 3.0])
    ops = array_ops(vector)
    snapshot = ops.snapshot(vector)
    assert ops.unchanged(snapshot, vector.copy())
    vector[1] = np.nextafter(2.0, 3.0)
    assert not ops.unchanged(snapshot, vector)


def test_a_foreign_vector_is_refused_by_its_type():
    with pytest.raises(
        LayoutError,
        match=r"got fractions\.Fraction; convert it with numpy\.asarray, import .*array_ops\.register.*JAX",
    ):
        array_ops(Fraction(1, 2))


def test_several_movement_sums_are_those_of_each():
    vectors, start, end = np.array([[1.0, -3.0], [2.0, 5.0]]), np.array([4.0, 1.0]), np.array([2.0, 8.0])
    ops, combined = NumpyOps(), [(2.0, vectors[0]), (-0.5, vectors[1])]
    found = ops.movement_sums_each([combined, [(1.0, vectors[1])]], start, end)
    assert found == [
        ops.movement_sums(combined, start, end),
        ops.movement_sums([(1.0, vectors[1])], start, end),
    ]


def test_all_reductions_of_a_step_are_those_of_each():
    vector, edges = np.array([-3.0, 0.0, 0.5, 7.0]), np.array([0.1, 1.0, 10.0])
    slices, ops = [Slices(0, 1, 1, 3), Slices(3, 1, 1, 1)], NumpyOps()
    sums, signs, magnitudes = ops.sums_signs_and_magnitudes(vector, slices, edges)
    assert sums.tolist() == [-2.5, 7.0]
    assert signs.tolist() == [[1, 0], [1, 1]]
    np.testing.assert_array_equal(magnitudes, ops.magnitudes(vector, edges))


@given(seeds)
def test_sums_in_pieces_are_those_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    shapes = [(1, 1, n) if n % 2 else (2, 3, n) for n in rng.integers(1, 60, 5).tolist()]
    starts = np.cumsum([0, *map(np.prod, shapes)]).tolist()
    slices = [Slices(start, *shape) for start, shape in zip(starts, shapes, strict=False)]
    values = rng.normal(size=starts[-1])
    whole = np.concatenate([values[s.start : s.stop].reshape(s.shape).sum((0, 2)) for s in slices])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_types, "MOST", 16)
        found = NumpyOps().sums(values, slices)
    assert np.abs(found - whole).max() <= summed(np.abs(values).sum(), EPS64)
