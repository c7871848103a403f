"""Measuring leaves the generators of torch, NumPy and Python as it found them, whatever the loss draws."""

import random

import numpy as np
import pytest
import torch

from lca_torch._policies import RandomStates


@pytest.fixture(autouse=True)
def no_second_normal_number():
    """Left by another test, it would have every generator copied."""
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    own = np.random.get_bit_generator()
    yield
    np.random.set_bit_generator(own)


def states():
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002 - the global generator
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        numbers["state"]["key"].tolist(),
        numbers["state"]["pos"],
        numbers["has_gauss"],
        numbers["gauss"],
    )


DRAWS = {
    "torch": lambda: torch.rand(1),
    "Python": random.random,
    "Python, one of two": lambda: random.gauss(0, 1),
    "NumPy": lambda: np.random.rand(3),  # noqa: NPY002
    "NumPy, one of two": np.random.normal,  # noqa: NPY002 - the second is kept for the next call
}


def draw_everywhere():
    for draw in DRAWS.values():
        draw()


USERS = {
    "draws nothing": lambda: None,
    "draws": lambda: np.random.rand(3),  # noqa: NPY002
    "leaves a normal number behind": np.random.normal,  # noqa: NPY002
    "seeds": lambda: np.random.seed(3),  # noqa: NPY002
    "leaves a number of Python's behind": lambda: random.gauss(0, 1),
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_all_states_are_as_before_from_whichever_evaluation_on_the_loss_draws(user, first):
    kept = RandomStates(torch.device("cpu"))
    for evaluation in range(6):
        user()
        before = states()
        with kept.kept(seed=evaluation):
            if evaluation >= first:
                draw_everywhere()
        assert states() == before, evaluation


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_each_generator_is_looked_at(draw):
    kept = RandomStates(torch.device("cpu"))
    for evaluation in range(4):
        before = states()
        with kept.kept(seed=evaluation):
            if evaluation:
                draw()
        assert states() == before, evaluation


def test_a_loss_that_draws_gets_other_numbers_for_another_seed_and_the_same_for_the_same():
    kept = RandomStates(torch.device("cpu"))
    seen = []
    for seed in (1, 1, 2):
        with kept.kept(seed=seed):
            seen.append(np.random.normal())  # noqa: NPY002
    assert seen[0] == seen[1] != seen[2]


def test_a_generator_that_takes_the_place_of_numpys_is_looked_at():
    kept = RandomStates(torch.device("cpu"))
    for evaluation in range(6):
        if evaluation % 2:
            np.random.set_bit_generator(np.random.MT19937(evaluation))
        before = states()
        with kept.kept(seed=evaluation):
            if evaluation > 3:
                np.random.rand(3)  # noqa: NPY002
        assert states() == before, evaluation


def test_an_error_inside_leaves_the_states_as_they_were():
    kept = RandomStates(torch.device("cpu"))
    for _ in range(3):
        before = states()
        with pytest.raises(ValueError, match="loss"), kept.kept(seed=0):  # noqa: PT012
            draw_everywhere()
            raise ValueError("loss")
        assert states() == before
        with kept.kept(seed=0):
            pass
