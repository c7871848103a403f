"""Several ranks share the evaluations: every result is that of one process, to rounding."""

import numpy as np
import pytest
import torch

from lca import tolerances
from lca.errors import LCAError, LCAWarning
from lca.tolerances import EPS64
from tests.lca_torch import shared_measuring
from tests.lca_torch.shared_measuring import CASES, DATA
from tests.lca_torch.torchrun import launched
from tests.nightly import cases

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


@pytest.fixture(scope="module")
def expected():
    """What one process finds, by case."""
    return {case.__name__: case() for case in CASES}


@pytest.fixture(scope="module", params=cases(3, at_night=[2]))
def found(request, tmp_path_factory):
    """What each rank has found: a function of the name of a case."""
    return launched("tests.lca_torch.shared_measuring", tmp_path_factory.mktemp("ranks"), request.param)


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_as_one_process(expected, found, name):
    one, (first, *others) = expected[name], found(name)
    assert first.keys() == one.keys()
    for key, value in one.items():
        assert all(np.array_equal(first[key], other[key]) for other in others)
        scale = np.abs(value).sum(axis=-1, keepdims=True)
        assert value.shape == first[key].shape
        assert (np.abs(first[key] - value) <= tolerances.allocation(scale, 2 * EPS64)).all(), key


def test_every_example_is_evaluated_once(found):
    weights = [float(rank["weight"]) for rank in found("weight_of_one_gradient")]
    assert sum(weights) == len(DATA[0])
    assert max(weights) <= -(-5 // len(weights)) * 4  # 5 batches of at most 4


def test_one_process_shares_with_nobody():
    assert float(shared_measuring.weight_of_one_gradient()["weight"]) == len(DATA[0])


def test_processes_that_are_not_connected_yet_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(LCAWarning, match="call torch.distributed.init_process_group"):
        shared_measuring.made()
    shared_measuring.made(process_group=None)  # no warning


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"process_group": object()}, "init_process_group"),
        ({"rank_timeout": 0.0}, "rank_timeout must be a positive number of seconds, got 0.0"),
    ],
)
def test_refuses_other_groups_and_limits(options, text):
    with pytest.raises(LCAError, match=text):
        shared_measuring.made(**options)
