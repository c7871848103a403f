"""Models spread over the ranks (FSDP2, tensor parallelism) are allocated as in one process."""

import numpy as np
import pytest

import lca
from lca import tolerances
from lca.tolerances import EPS64
from tests.lca_torch.sharded_models import CASES, STEPS
from tests.lca_torch.torchrun import launched
from tests.nightly import cases

fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch has no torch.distributed")
pytestmark = pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="this torch has no fully_shard")


@pytest.fixture(scope="module")
def expected():
    """What one process finds, by case."""
    return {case.__name__: one() for one, own in CASES.items() for case in own}


@pytest.fixture(scope="module", params=cases(4, at_night=[2, 3]))
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, launched("tests.lca_torch.sharded_models", folder, request.param)


@pytest.fixture
def found(folder):
    """What each rank has found: a function of the name of a case."""
    return folder[1]


@pytest.mark.parametrize("name", [case.__name__ for own in CASES.values() for case in own])
def test_as_one_process(expected, found, name):
    one, (first, *others) = expected[name], found(name)
    assert first.keys() == one.keys()
    for key, value in one.items():
        assert all(np.array_equal(first[key], other[key]) for other in others)
        assert value.shape == first[key].shape
        scale = np.abs(value).sum(axis=-1, keepdims=True)
        # Three updates of a model that rounds otherwise: the ranks add their gradients in another order.
        assert (np.abs(first[key] - value) <= tolerances.allocation(scale, 16 * EPS64)).all(), key


def test_the_state_changes(expected):
    assert (expected["both"]["values"][:, -3] != 0).all()


def test_one_rank_writes_the_sums_of_all(expected, folder):
    run = lca.open_record(folder[0] / "run.zarr").sel(measured="train")
    values, scale = expected["both"]["values"], expected["both"]["values"][:, -4]
    gaps = run["neuron_total"].sum("neuron") - values[:, :-4].sum(1)
    assert run.sizes["step"] == STEPS
    assert (np.abs(gaps) <= tolerances.allocation(scale, 16 * EPS64)).all()


def test_no_rank_holds_the_whole_model(found):
    for rank in found("held_at_once"):
        assert 0 < rank["held"] <= rank["size"] / 2  # the largest layer has 84 of 177 parameters


def test_layers_transfer_through_other_groups_while_they_are_measured(found):
    for rank in found("redistributed"):
        np.testing.assert_array_equal(rank["measuring"], rank["training"])
        assert rank["watched"] == 3


@pytest.mark.parametrize(
    ("trouble", "cause"),
    cases(
        ("forward", "this rank fails"),
        ("backward", "this rank fails"),
        at_night=[("slow", "rank 1 was more than 3 s late in the middle of an evaluation")],
    ),
)
def test_training_goes_on_when_a_rank_fails_in_the_middle_of_an_evaluation(found, trouble, cause):
    for rank in found("training_goes_on"):
        np.testing.assert_array_equal(rank[f"{trouble}, theta"], rank[f"{trouble}, plain"])
        text = str(rank[f"{trouble}, text"])
        assert "measuring stopped at step 1, training goes on" in text
        assert cause in text
        assert rank[f"{trouble}, seconds"] < 60  # the limit is 600 s, but for the slow rank


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("drifted", "the parameters of rank 1 differ from those of rank 0"),
        ("alone", "copy.deepcopy(model) before fully_shard(model)"),
        ("other", "LayoutError"),
        ("recurrent", "is also held outside of the parameters of its module"),
        ("compile", "compile=True is not available for a sharded model"),
        ("turning", "the ranks read different parameters at the same time"),
        ("of halves", "requires halves of training, and each rank has those of its own batch only"),
        ("of scores", "let the estimator measure the errors itself with refresh=n"),
        ("other batch", "the ranks 0 and 1 of one tensor-parallel group have different training batches"),
        ("no weight", "the batch of training of rank 1 has no weight"),
        ("of a copy", "make the objective from the sharded model itself"),
        ("ranks", "the batches of the ranks cannot be micro-batches of a sharded model; accumulate"),
        ("not reduced", "let FSDP2 reduce the gradients of every backward pass"),
        ("gathered", "divided as (Replicate(),), and the parameter as (Shard(dim=0),), which is not"),
        ("other data", "the gradient of '0.weight', which every rank holds whole, differs between"),
    ],
)
def test_refuses_what_it_cannot_measure(found, case, text):
    assert all(text in str(rank[case]) for rank in found("refusals"))


def test_checkpoints_of_all_ranks_are_read_by_one(found):
    for rank in found("checkpoints"):
        np.testing.assert_array_equal(rank["found"], rank["expected"])
        assert (rank["found"][0] != rank["found"][1]).any()
