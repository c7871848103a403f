"""The reductions that run on a device, here on the CPU; and which vectors go through NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given

import lca_tensorflow  # noqa: F401 - registers the reductions
from lca.arrays import array_ops
from lca_tensorflow.arrays import TensorFlowDeviceOps
from tests.reduction_laws import LAWS, vectors


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("on", [TensorFlowDeviceOps(), array_ops(tf.ones(1))], ids=["device", "cpu"])
@given(vectors)
def test_tensorflow(on, law, values):
    normal = np.abs(values) >= np.finfo(values.dtype).tiny  # TensorFlow takes the others for 0
    law(on, tf.constant, np.where(normal, values, values.dtype.type(0)))


def test_a_tensor_of_the_cpu_goes_through_numpy():
    assert not isinstance(array_ops(tf.ones(3)), TensorFlowDeviceOps)
