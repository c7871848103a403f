"""An error, a delay or the end of one rank reaches all that measure together, and none waits forever."""

import json

import pytest
import torch

from tests.lca_torch.failing_ranks import LIMIT
from tests.lca_torch.torchrun import launch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
SAID = {
    "other_values": [("DataError", "rank 1 are not those of rank 0: as many, with other values")] * 3,
    "part_of_the_data": [("DataError", "rank 0: 16 examples, 4 at a time, in place of 17 examples")] * 3,
    "error_when_made": [("DataError", "rank 2 measures no more: DataError: the measured data[0] is a NumPy")]
    * 2
    + [("DataError", "the measured data[0] is a NumPy array")],
    "error_in_one_batch": [
        ("DataError", "rank 1 measures no more: DataError: the loss of a measuring batch"),
        ("DataError", "raised RuntimeError: out of pixels"),
        ("DataError", "out of pixels"),
    ],
    "other_parameters": [("LayoutError", "the parameters of rank 2 differ from those of rank 0")] * 3,
    "other_calls": [("LCAError", "rank 0 is at the loss, rank 1 at loss and gradient")] * 3,
    "only_on_rank_0": [("LCAError", "ranks 1, 2 did not take part in the loss within 3 s")] * 3,
    "works_again": [("", "")] * 3,
    "rank_0_is_late": [("LCAError", "rank 0 did not take part in the loss within 3 s")] * 3,
    "view_fails": [("OSError", "no space left on device")]
    + [("LCAError", "rank 0 measures no more: OSError: no space left on device")] * 2,
    "fewer_batches": [("LCAError", "rank 1 did not take part in the gradients of the ranks within 3 s")] * 3,
    "other_schedule": [("LCAError", "100.000% of the steps on rank 0, 50.000% of the steps on rank 1")] * 3,
    "ends_early": [("LCAError", "rank 2 measures no more: its tracker is closed")] * 2
    + [("LookupError", "3 steps")],
}
"""By scene what each rank says: the class of the error, and a part of its message."""
LATE = {"only_on_rank_0", "rank_0_is_late", "fewer_batches"}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of three ranks says in every scene; at last rank 2 is killed while the others measure."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = launch("tests.lca_torch.failing_ranks", folder, 3)
    files = [folder / f"{rank}.json" for rank in range(3)]
    assert all(file.exists() for file in files), ended.stderr[-3000:]
    return [json.loads(file.read_text()) for file in files], ended


@pytest.mark.parametrize("scene", SAID)
def test_all_ranks_are_told(told, scene):
    for rank, (kind, text) in zip(told[0], SAID[scene], strict=True):
        assert rank[scene][0] == kind
        assert text in rank[scene][1]


@pytest.mark.parametrize("scene", sorted(SAID.keys() - LATE))
def test_nobody_waits_for_one_that_has_said_why(told, scene):
    assert all(rank[scene][2] < 60 for rank in told[0])  # the limit is 600 s


def test_one_that_says_nothing_is_waited_for_as_long_as_agreed(told):
    assert LIMIT <= told[0][0]["only_on_rank_0"][2] < LIMIT + 10


def test_the_launcher_ends_the_ranks_of_one_that_was_killed(told):
    assert told[1].returncode != 0
    assert "SIGKILL" in told[1].stderr
