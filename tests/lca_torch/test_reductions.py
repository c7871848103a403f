"""The reductions that run on a device, here on the CPU; and that tensors of the CPU are not copied."""

import numpy as np
import pytest
import torch
from hypothesis import given

import lca_torch  # noqa: F401 - registers the reductions
from lca.arrays import Slices, array_ops
from lca_torch.arrays import TorchDeviceOps
from tests.reduction_laws import LAWS, vectors


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("on", [TorchDeviceOps(), array_ops(torch.ones(1))], ids=["device", "cpu"])
@given(vectors)
def test_torch(on, law, values):
    law(on, torch.tensor, values)


def test_a_tensor_of_the_cpu_is_read_where_it_is():
    vector = torch.zeros(3, requires_grad=True)
    on = array_ops(vector)
    assert not isinstance(on, TorchDeviceOps)
    assert np.shares_memory(on.to_numpy(vector), vector.detach().numpy())


def test_a_tensor_elsewhere_stays_there():
    assert isinstance(array_ops(torch.ones(3, device="meta")), TorchDeviceOps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_dtypes_are_summed_in_float64(dtype):
    vector = torch.full((4096,), 1.0, dtype=dtype)  # its own dtype cannot count so far
    assert array_ops(vector).sums(vector, [Slices(0, 1, 1, 4096)]).tolist() == [4096.0]
