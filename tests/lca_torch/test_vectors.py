"""`TorchOps` gives what `NumpyOps` gives, in both precisions, whole or in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given

import lca_torch  # noqa: F401 - registers the reductions
from lca.testing import tolerances
from lca.testing.strategies import dtypes, seeds
from lca.vectors import NumpyOps, vector_ops


@given(seeds, dtypes())
def test_reductions_are_those_of_numpy(seed, dtype):
    numbers = np.random.default_rng(seed).normal(size=(3, 2**16 + 7)).astype(dtype)
    tensors = [torch.from_numpy(row) for row in numbers]
    ours, theirs, eps = vector_ops(tensors[0]), NumpyOps(), float(np.finfo(dtype).eps)
    mass = theirs.abs_total(numbers[0])
    assert abs(ours.total(tensors[0]) - theirs.total(numbers[0])) <= tolerances.summed(mass, tolerances.EPS64)
    assert abs(ours.abs_total(tensors[0]) - mass) <= tolerances.summed(mass, tolerances.EPS64)
    scale = theirs.mass(*numbers)
    assert abs(ours.mass(*tensors) - scale) <= tolerances.summed(scale, eps)
    assert ours.eps(tensors[0]) == eps


@given(seeds, dtypes())
def test_vectors_made_are_those_of_numpy(seed, dtype):
    vector, start, end = np.random.default_rng(seed).normal(size=(3, 2**16 + 7)).astype(dtype)
    ours, theirs, eps = vector_ops(torch.from_numpy(start)), NumpyOps(), float(np.finfo(dtype).eps)
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
    between = vector_ops(start).between
    assert torch.equal(between(start, end, 0.0), start)
    assert torch.equal(between(start, end, 1.0), end)
    assert torch.equal(between(start, start, 0.3), start)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_entry_is_not_finite(bad):
    vector = torch.ones(5)
    assert vector_ops(vector).all_finite(vector)
    vector[3] = bad
    assert not vector_ops(vector).all_finite(vector)


def test_a_snapshot_sees_a_change_in_place_and_another_tensor():
    vector = torch.ones(3)
    ops = vector_ops(vector)
    snapshot = ops.snapshot(vector)
    assert ops.unchanged(snapshot, vector)
    assert not ops.unchanged(snapshot, vector.clone())
    vector[0] = 2
    assert not ops.unchanged(snapshot, vector)
