"""θ in the parameters of a model: a vector that reads like a tensor, and comparisons number by number."""

import numpy as np
import pytest
import torch

import lca_torch  # noqa: F401 - registers the operations
from lca import tolerances
from lca.arrays import array_ops
from lca_torch._live import ParameterVector, differ, holds


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
    weighted = [(0.5, grad, None), (2.0, start, None)]
    (found, mass), (expected, size) = (ops.products_sum(weighted, start, end) for end in (vector, flat))
    assert torch.equal(found, expected)
    assert abs(mass - size) <= tolerances.summed(size, tolerances.EPS32)
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
    assert holds(nowhere, [nowhere.clone()])


def test_devices_that_are_waited_for_tell_the_same():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert not differ([(a, a), (b, b.clone())])
    assert differ([(a, a), (a, b)])
    assert differ([(a, b), (a, a)])
    assert differ([(a / 0 - a / 0, a / 0 - a / 0)])


def test_long_parameters_are_pieces_of_their_own(monkeypatch):
    monkeypatch.setattr("lca_torch._arrays._CPU_BLOCK", 4)
    pieces = [torch.randn(3, 2).t(), torch.randn(2), torch.randn(1), torch.randn(5)]
    whole = torch.cat([piece.reshape(-1) for piece in pieces])
    start, grad, ops = torch.randn(14), torch.randn(14), array_ops(whole)
    found = ops.times_movement(grad.clone(), start, ParameterVector(pieces))
    assert torch.equal(found, grad * (whole - start))
