"""`JaxOps` satisfies the laws of array operations."""

import jax.numpy as jnp
import pytest
from hypothesis import given

from lca.arrays import array_ops
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import SUBNORMAL, ArraySubject, vectors
from lca_jax import JaxOps

KIND = ArraySubject(jnp.array, JaxOps())
laws = pytest.mark.parametrize("check", ALL_ARRAY_CHECKS, ids=lambda check: check.name)
CHEAP = [check for check in ALL_ARRAY_CHECKS if check.part == 1]
"""The others have all the fixed cases."""
cheap_laws = pytest.mark.parametrize("check", CHEAP, ids=lambda check: check.name)


@cheap_laws
@given(vectors)
def test_laws(check, values):
    check.law(KIND, values)


@laws
@pytest.mark.parametrize("values", SUBNORMAL.values(), ids=SUBNORMAL)
def test_laws_of_the_smallest_numbers(check, values):
    check.law(KIND, values)


def test_an_array_is_read_where_it_is():
    vector = jnp.ones(3)
    ops = array_ops(vector)
    assert isinstance(ops, JaxOps)
    assert ops.to_numpy(vector).ctypes.data == vector.unsafe_buffer_pointer()


def test_an_array_that_holds_the_same_numbers_is_another_one():
    vector = jnp.ones(3)
    assert not array_ops(vector).unchanged(array_ops(vector).snapshot(vector), jnp.ones(3))
