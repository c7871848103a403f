"""`TorchOps` and `TorchDeviceOps` (here on the CPU) satisfy the laws of array operations."""

import numpy as np
import pytest
import torch
from hypothesis import given

import lca_torch  # noqa: F401 - registers the operations
from lca.arrays import Slices, array_ops
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import LAYOUT, SUBNORMAL, ArraySubject, Values, vectors
from lca_torch._arrays import TorchDeviceOps

KINDS = {
    "cpu": ArraySubject(torch.tensor, array_ops(torch.ones(1))),
    "device": ArraySubject(torch.tensor, TorchDeviceOps()),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
laws = pytest.mark.parametrize("check", ALL_ARRAY_CHECKS, ids=lambda check: check.name)
CHEAP = [check for check in ALL_ARRAY_CHECKS if check.part == 1]
"""The others have all the fixed cases."""
LONG_LAWS = (
    "long_vectors_are_treated_to_their_end", "movement_sums_are_those_of_the_product", "products_are_summed",
    "products_come_with_their_sums", "the_last_entries_of_very_long_vectors_count",
)  # fmt: skip
"""Laws of vectors of at least 65,000 entries, which have several blocks of 1,000 as well."""
cheap_laws = pytest.mark.parametrize("check", CHEAP, ids=lambda check: check.name)


@cheap_laws
@kinds
@given(vectors)
def test_laws(kind, check, values):
    check.law(kind, values)


@laws
@kinds
@pytest.mark.parametrize("values", SUBNORMAL.values(), ids=SUBNORMAL)
def test_laws_of_the_smallest_numbers(kind, check, values):
    check.law(kind, values)


@laws
@kinds
def test_laws_in_several_blocks(kind, check, monkeypatch):
    for name in ("_CPU_BLOCK", "_DEVICE_BLOCK"):
        monkeypatch.setattr(f"lca_torch._arrays.{name}", 1000 if check.name in LONG_LAWS else 4)
    check.law(kind, Values(np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)))


def test_a_segment_ends_exactly_at_its_end():
    start, end = torch.tensor([0.1, 0.7]), torch.tensor([0.3, -0.7])
    assert torch.equal(array_ops(start).between(start, end, 1.0), end)


def test_a_snapshot_sees_a_change_in_place_and_another_tensor():
    vector = torch.ones(3)
    ops = array_ops(vector)
    snapshot = ops.snapshot(vector)
    assert not ops.unchanged(snapshot, vector.clone())
    vector[0] = 2
    assert not ops.unchanged(snapshot, vector)


def test_a_tensor_of_the_cpu_is_read_where_it_is():
    vector = torch.zeros(3, requires_grad=True)
    ops = array_ops(vector)
    assert not isinstance(ops, TorchDeviceOps)
    assert np.shares_memory(ops.to_numpy(vector), vector.detach().numpy())


def test_a_tensor_elsewhere_stays_there():
    assert isinstance(array_ops(torch.ones(3, device="meta")), TorchDeviceOps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_dtypes_are_summed_in_float64(dtype):
    vector = torch.full((4096,), 1.0, dtype=dtype)  # its own dtype cannot count so far
    assert array_ops(vector).sums(vector, [Slices(0, 1, 1, 4096)]).tolist() == [4096.0]


@kinds
def test_several_movement_sums_are_those_of_each(kind, monkeypatch):
    monkeypatch.setattr("lca_torch._arrays._CPU_BLOCK", 4)
    first, second, start, end = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    combined = [(2.0, first), (-0.5, second)]
    found = kind.ops.movement_sums_each([combined, [(1.0, second)]], start, end)
    assert found == [kind.ops.movement_sums(each, start, end) for each in (combined, [(1.0, second)])]


@kinds
def test_all_reductions_of_a_step_are_those_of_each(kind):
    vector, edges = torch.tensor([-3.0, 0.0, 0.5, 7.0]), np.array([0.1, 1.0, 10.0])
    slices = [Slices(0, 1, 1, 3), Slices(3, 1, 1, 1)]
    sums, signs, magnitudes = kind.ops.sums_signs_and_magnitudes(vector, slices, edges)
    for found, expected in zip((sums, signs), kind.ops.sums_and_signs(vector, slices), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(magnitudes, kind.ops.magnitudes(vector, edges), strict=True)
    assert signs.tolist() == [[1, 0], [1, 1]]
