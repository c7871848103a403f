"""`JaxOps` satisfies the laws of array operations."""

import jax.numpy as jnp
import pytest
from hypothesis import given

from lca.arrays import array_ops
from lca_jax import JaxOps
from tests.laws.array_ops import LAWS, SUBNORMAL, Kind, vectors

KIND = Kind(JaxOps(), jnp.array)
laws = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)


@laws
@given(vectors)
def test_laws(law, values):
    law(KIND, values)


@laws
@pytest.mark.parametrize("values", SUBNORMAL.values(), ids=SUBNORMAL)
def test_laws_of_the_smallest_numbers(law, values):
    law(KIND, values)


def test_an_array_is_read_where_it_is():
    vector = jnp.ones(3)
    ops = array_ops(vector)
    assert isinstance(ops, JaxOps)
    assert ops.to_numpy(vector).ctypes.data == vector.unsafe_buffer_pointer()


def test_an_array_that_holds_the_same_numbers_is_another_one():
    vector = jnp.ones(3)
    assert not array_ops(vector).unchanged(array_ops(vector).snapshot(vector), jnp.ones(3))
