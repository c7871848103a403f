"""Models spread over the ranks (FSDP2, tensor parallelism) are allocated as in one process."""

import numpy as np
import pytest

from lca import tolerances
from lca.tolerances import EPS64
from tests.lca_torch.sharded_models import CASES, one_process
from tests.lca_torch.torchrun import launched
from tests.nightly import cases

fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch has no torch.distributed")
pytestmark = pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="this torch has no fully_shard")


@pytest.fixture(scope="module")
def expected():
    return one_process()["values"]


@pytest.fixture(scope="module", params=cases(2, at_night=[3]))
def found(request, tmp_path_factory):
    """What each rank has found: a function of the name of a case."""
    return launched("tests.lca_torch.sharded_models", tmp_path_factory.mktemp("ranks"), request.param)


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_as_one_process(expected, found, name):
    first, *others = (rank["values"] for rank in found(name))
    assert all(np.array_equal(first, other) for other in others)
    scale = np.abs(expected).sum(axis=1, keepdims=True)
    # Three updates of a model that rounds otherwise: the ranks add their gradients in another order.
    assert (np.abs(first - expected) <= tolerances.allocation(scale, 16 * EPS64)).all()
    assert (expected[:, -3] != 0).all()  # the state changes


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("objective", "copy.deepcopy(model) before fully_shard(model)"),
        ("estimator", "the gradients of a sharded model are spread over the ranks"),
        ("other", "LayoutError"),
    ],
)
def test_refuses_what_it_cannot_measure(found, case, text):
    assert all(text in str(rank[case]) for rank in found("refusals"))


def test_checkpoints_of_all_ranks_are_read_by_one(found):
    for rank in found("checkpoints"):
        np.testing.assert_array_equal(rank["found"], rank["expected"])
        assert (rank["found"][0] != rank["found"][1]).any()
