"""`TorchOps` gives what `NumpyOps` gives, in both precisions, whole or in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given

import lca_torch  # noqa: F401 - registers the reductions
from lca import tolerances
from lca.arrays import NumpyOps, array_ops
from lca.testing.strategies import dtypes, seeds
from lca_torch.live import ParameterVector, differ, holds


@given(seeds, dtypes())
def test_reductions_are_those_of_numpy(seed, dtype):
    numbers = np.random.default_rng(seed).normal(size=(3, 2**16 + 7)).astype(dtype)
    tensors = [torch.from_numpy(row) for row in numbers]
    ours, theirs, eps = array_ops(tensors[0]), NumpyOps(), float(np.finfo(dtype).eps)
    mass = theirs.abs_total(numbers[0])
    assert abs(ours.total(tensors[0]) - theirs.total(numbers[0])) <= tolerances.summed(mass, tolerances.EPS64)
    assert abs(ours.abs_total(tensors[0]) - mass) <= tolerances.summed(mass, tolerances.EPS64)
    weighted = [[(0.5, v), (-2.0, v * v)] for v in (tensors[0], numbers[0])]
    found, expected = (
        ours.movement_sums(weighted[0], *tensors[1:]),
        theirs.movement_sums(weighted[1], *numbers[1:]),
    )
    scale = float(
        (np.abs(0.5 * numbers[0]) + 2 * numbers[0] ** 2) @ (np.abs(numbers[1]) + np.abs(numbers[2]))
    )
    assert np.abs(np.subtract(found, expected)).max() <= tolerances.summed(scale, eps)
    assert ours.eps(tensors[0]) == eps


@given(seeds, dtypes())
def test_vectors_made_are_those_of_numpy(seed, dtype):
    vector, start, end = np.random.default_rng(seed).normal(size=(3, 2**16 + 7)).astype(dtype)
    ours, theirs, eps = array_ops(torch.from_numpy(start)), NumpyOps(), float(np.finfo(dtype).eps)
    tensor, a, b = (torch.from_numpy(row) for row in (vector, start, end))
    product = theirs.times_movement(vector.copy(), start, end)
    pairs = {
        "point": (ours.between(a, b, 0.25), theirs.between(start, end, 0.25)),
        "product": (ours.times_movement(tensor.clone(), a, b), product),
        "multiple": (ours.scaled(tensor.clone(), 0.3), theirs.scaled(vector.copy(), 0.3)),
        "sum": (ours.add_scaled(tensor.clone(), 0.3, a), theirs.add_scaled(vector.copy(), 0.3, start)),
    }
    size = np.abs(vector) * (1 + np.abs(end) + np.abs(start)) + np.abs(start) + np.abs(end)
    for name, (found, expected) in pairs.items():
        assert found.numpy().dtype == dtype, name
        assert (np.abs(found.numpy() - expected) <= tolerances.summed(size, eps)).all(), name


def test_the_ends_of_a_segment_are_its_ends():
    start, end = torch.tensor([0.1, 0.7]), torch.tensor([0.3, -0.7])
    between = array_ops(start).between
    assert torch.equal(between(start, end, 0.0), start)
    assert torch.equal(between(start, end, 1.0), end)
    assert torch.equal(between(start, start, 0.3), start)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_entry_is_not_finite(bad):
    vector = torch.ones(5)
    assert array_ops(vector).all_finite(vector)
    vector[3] = bad
    assert not array_ops(vector).all_finite(vector)


def test_a_snapshot_sees_a_change_in_place_and_another_tensor():
    vector = torch.ones(3)
    ops = array_ops(vector)
    snapshot = ops.snapshot(vector)
    assert ops.unchanged(snapshot, vector)
    assert not ops.unchanged(snapshot, vector.clone())
    vector[0] = 2
    assert not ops.unchanged(snapshot, vector)


def test_a_vector_in_parameters_reads_like_a_tensor_and_can_be_kept():
    pieces = [torch.randn(3, 2).t(), torch.randn(4)]
    flat = torch.cat([piece.reshape(-1) for piece in pieces])
    vector, ops = ParameterVector(pieces), array_ops(flat)
    start, grad = torch.randn(10), torch.randn(10)
    assert torch.equal(vector - start, flat - start)
    assert np.array_equal(ops.to_numpy(vector), flat.numpy())
    assert torch.equal(ops.between(start, vector, 0.25), ops.between(start, flat, 0.25))
    assert torch.equal(ops.times_movement(grad.clone(), start, vector), grad * (flat - start))
    # Slices at other places, so added up in another order.
    found, expected = (ops.movement_sums([(1.0, grad)], start, end) for end in (vector, flat))
    tolerance = tolerances.summed(float((grad * (flat - start)).abs().sum()), tolerances.EPS64)
    assert np.abs(np.subtract(found, expected)).max() <= tolerance
    snapshot = ops.snapshot(vector)
    assert not ops.unchanged(snapshot, start)
    kept = vector.persist(start)
    assert kept is start
    assert torch.equal(kept, flat)
    assert ops.unchanged(snapshot, kept)
    pieces[0].zero_()  # the model moves on
    assert torch.equal(vector + 0, flat)
    kept.mul_(2)
    assert not ops.unchanged(snapshot, kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_vector_holds_tensors_number_by_number(dtype):
    tensors = [torch.arange(6.0).to(dtype).view(2, 3).t(), torch.tensor(7.0, dtype=dtype)]
    vector = torch.cat([tensor.reshape(-1) for tensor in tensors])
    assert holds(vector, tensors)
    for i in range(len(vector)):
        other = vector.clone()
        other[i] += 1
        assert not holds(other, tensors), i
    assert not holds(vector, [tensors[0], tensors[1].half()])
    nowhere = torch.full_like(vector, float("nan"))
    assert not holds(nowhere, [nowhere])


def test_devices_that_are_waited_for_tell_the_same():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert not differ([(a, a), (b, b.clone())])
    assert differ([(a, a), (a, b)])
    assert differ([(a, b), (a, a)])
    assert differ([(a / 0 - a / 0, a / 0 - a / 0)])
