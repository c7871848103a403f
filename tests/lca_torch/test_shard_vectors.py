"""`ShardOps` satisfies the laws of array operations: here on one rank, which holds all shards."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lca
from lca.errors import LCAError
from lca.layout import Layout
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import LAYOUT, ArraySubject, Values
from lca.tracking._forecast import _bytes_of
from lca.tracking._own_work import own_work
from lca_torch._shard_vector import Block, ShardOps, Shards, ShardVector

ALONE = SimpleNamespace(
    rank=0,
    exchange=SimpleNamespace(telling=nullcontext),
    gather=lambda call, value: [value],
    add=lambda tensor: tensor,
)
"""Stands for the ranks."""


def sharded(array):
    local = torch.tensor(array)
    layout = LAYOUT if len(local) == LAYOUT.size else Layout(("w",), ((len(local),),))
    whole = {name: [Block((0,) * len(s), s)] for name, s in zip(layout.names, layout.shapes, strict=True)}
    return ShardVector(local, Shards(layout, whole, ALONE))


KIND = ArraySubject(sharded, ShardOps())
VALUES = Values(np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32))
NOT_KEPT = {
    "a_snapshot_recognises_its_vector": "a part of a vector is not a vector of the same shards",
    "vectors_are_made_like_others": "a vector has the length of θ",
    "arrays_of_another_dtype_or_shape_are_not_equal": "a vector has the length and the shape of θ",
}
"""Laws that do not apply to shards, and why."""
KEPT = [check for check in ALL_ARRAY_CHECKS if check.name not in NOT_KEPT]


def test_the_other_laws_exist():
    assert len(KEPT) + len(NOT_KEPT) == len(ALL_ARRAY_CHECKS)


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.name)
def test_laws(check):
    check.law(KIND, VALUES)


def test_a_forecast_knows_the_memory_of_shards_and_does_not_time_them():
    """Ranks that time work on vectors would make different numbers of calls."""
    vector = sharded(VALUES.numbers)
    assert _bytes_of(vector) == 4 * LAYOUT.size
    assert own_work(lca.Adaptive(), LAYOUT, vector, None) is None


def test_arithmetic_stays_on_the_rank_and_the_rest_is_refused():
    vector = sharded([1.0, -2.0])
    assert (2 * vector - vector).local.tolist() == [1.0, -2.0]
    vector.mul_(3)
    assert vector.local.tolist() == [3.0, -6.0]
    with pytest.raises(LCAError, match="needs entries of other ranks"):
        vector.sum()
