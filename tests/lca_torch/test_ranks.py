"""The batches of the ranks are micro-batches: two ranks allocate what one process with two halves does."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lca import tolerances
from lca.errors import LCAError
from lca.estimators import CrossFit
from lca.tolerances import EPS64
from lca_torch import Tracker
from tests.lca_torch.torchrun import launch
from tests.lca_torch.two_ranks import OPTIMIZERS, STEPS, Values, batch, clip, made


def halved(name):
    """The same run in one process, each batch split in two."""
    model, optimizer, objective = made(name)
    with Tracker(model, optimizer, objective, CrossFit(2), views=Values, on_error="raise") as tracker:
        for step in range(STEPS):
            optimizer.zero_grad()
            for (x, y), weight in tracker.micro_batches(batch(step), 2):
                (weight * cross_entropy(model(x), y)).backward()
            clip(name, model)
            optimizer.step()
    return np.array(tracker.views["train"].rows)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The folder with what two ranks have found."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    ended = launch("tests.lca_torch.two_ranks", folder, 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_ranks_allocate_what_two_halves_do(ranks, name):
    first, second = (np.load(ranks / f"{name}.{rank}.npy") for rank in range(2))
    np.testing.assert_array_equal(first, second)
    expected = halved(name)
    assert first.shape == expected.shape == (STEPS - 1, first.shape[1])
    # Adam divides by √v of a few steps, which magnifies the rounding of an average over ranks.
    scale = np.abs(expected).sum(axis=1, keepdims=True)
    assert (np.abs(first - expected) <= tolerances.allocation(scale, 16 * EPS64)).all()


def test_accumulated_gradients_of_a_rank_are_none_of_micro_batches(ranks):
    for rank in range(2):
        said = (ranks / f"refused.{rank}.txt").read_text()
        assert "others have left something else there, such as the mean over the ranks" in said
        assert "Call tracker.ranks()" in said


def test_ranks_with_a_domain_each_are_warned_of_and_those_that_draw_domains_are_not(ranks):
    for rank in range(2):
        assert "have gradients for different parameters" in (ranks / f"domains.True.{rank}.txt").read_text()
        assert (ranks / f"domains.False.{rank}.txt").read_text() == ""


def test_without_a_process_group_it_says_what_to_do():
    model, optimizer, objective = made("adam")
    with (
        Tracker(model, optimizer, objective, CrossFit(2), on_error="raise") as tracker,
        pytest.raises(LCAError) as caught,
    ):
        tracker.ranks()
    assert "init_process_group first, and then tracker.ranks() on every rank" in str(caught.value)
