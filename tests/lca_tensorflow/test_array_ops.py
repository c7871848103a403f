"""`TensorFlowOps` and `TensorFlowDeviceOps` (here on the CPU) satisfy the laws of array operations."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given

import lca_tensorflow  # noqa: F401 - registers the operations
from lca.arrays import Slices, array_ops
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import SUBNORMAL, ArraySubject, vectors
from lca_tensorflow._arrays import TensorFlowDeviceOps

KINDS = {
    "cpu": ArraySubject(tf.constant, array_ops(tf.ones(1))),
    "device": ArraySubject(tf.constant, TensorFlowDeviceOps(), keeps_subnormals=False),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
laws = pytest.mark.parametrize("check", ALL_ARRAY_CHECKS, ids=lambda check: check.name)
CHEAP = [check for check in ALL_ARRAY_CHECKS if check.part == 1]
"""The others have all the fixed cases."""
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


def test_a_tensor_of_the_cpu_is_read_where_it_is():
    vector = tf.ones(3)
    ops = array_ops(vector)
    assert not isinstance(ops, TensorFlowDeviceOps)
    assert np.shares_memory(ops.to_numpy(vector), np.asarray(memoryview(vector)))


def test_a_tensor_that_holds_the_same_numbers_is_another_one():
    vector = tf.ones(3)
    assert not array_ops(vector).unchanged(array_ops(vector).snapshot(vector), tf.ones(3))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
@pytest.mark.parametrize("ops", [kind.ops for kind in KINDS.values()], ids=KINDS)
def test_small_dtypes_are_reduced_in_float64(ops, dtype):
    vector = tf.cast(tf.concat([tf.fill([4096], 1.0), [-0.5, 0.0]], 0), dtype)  # cannot count so far itself
    [total], signs = ops.sums_and_signs(vector, [Slices(0, 1, 1, 4098)])
    assert (total, signs.tolist()) == (4095.5, [[1], [4096]])
    assert ops.magnitudes(vector, np.array([0.1, 0.7, 4.9])).tolist() == [[0, 1, 0, 0], [0, 0, 4096, 0]]
