"""`DrawnRows`: draws without replacement and full batches are found, and nothing where it is not known."""

import numpy as np
import pytest

from lca.frameworks._data import Rows
from lca.tracking._drawn_rows import DrawnRows

RNG = np.random.default_rng(0)
N, B, UPDATES = 120, 24, 60
X, Y = RNG.normal(size=(N, 3)), np.arange(N) % 3


def after(draw, *, measured=(X, Y), seeks=True, seed=0, of=lambda index: (X[index], Y[index])):
    """What is found in updates from the examples that ``draw`` gives, in two micro-batches."""
    rows, rng = DrawnRows(np.asarray), np.random.default_rng(seed)
    rows.measured, rows.seeks_repeats = Rows(measured), seeks
    for _ in range(UPDATES):
        rows.add([of(index) for index in np.array_split(draw(rng), 2)])
    return rows


def without(rng):
    return rng.permutation(N)[:B]


def test_draws_without_replacement_are_found_with_their_size():
    found = after(without)
    assert (found.distinct, found.full, found.drawn) == (True, False, B)
    assert found.measured is None  # and nothing more is looked at


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.integers(N, size=B),
        lambda rng: rng.integers(N, size=N),
        lambda rng: rng.choice(N, size=B, p=np.arange(1, N + 1) / (N * (N + 1) / 2)),
        lambda rng: np.concatenate([rng.permutation(N)[: B // 2] for _ in range(2)]),
    ],
    ids=["uniform", "bootstrap", "weighted", "micro-batches apart"],
)
def test_draws_with_replacement_are_not_found(draw):
    found = [after(draw, seed=seed) for seed in range(20)]
    assert not any(one.distinct or one.full for one in found)


@pytest.mark.parametrize("seeks", [False, True])
def test_a_full_batch_is_found_in_any_order(seeks):
    found = after(lambda rng: rng.permutation(N), seeks=seeks)
    assert (found.full, found.distinct, found.drawn) == (True, False, N)


@pytest.mark.parametrize(
    "options",
    [
        {"measured": (X[: N // 2], Y[: N // 2])},
        {"measured": (X + 1, Y)},
        {"of": lambda index: (X[index] + RNG.normal(size=(len(index), 1)), Y[index])},
        {"of": lambda index: (X[index], Y[index], index)},
        {"of": lambda index: [("text", 1)]},
        {"of": lambda index: (X[index].astype(str), Y[index])},
        {"of": lambda index: (X[index].astype(complex), Y[index])},
        {"seeks": False},
    ],
    ids=[
        "more data are trained",
        "other data",
        "augmented",
        "with their numbers",
        "no rows",
        "text",
        "complex",
        "not sought",
    ],
)
def test_nothing_is_found_where_rows_are_not_those_of_the_data(options):
    assert not after(without, **options).distinct


def test_as_many_other_examples_are_no_full_batch():
    found = after(lambda rng: rng.permutation(N), measured=(X + 1, Y))
    assert not found.full
    assert found.measured is None


def test_where_each_example_is_twice_in_the_data_nothing_is_found_and_where_few_are_it_is():
    twice = np.arange(N) // 2
    assert not after(without, measured=(X[twice], Y[twice]), of=lambda i: (X[twice[i]], Y[twice[i]])).distinct
    once = np.append(np.arange(N - 20), np.arange(20))
    assert after(without, measured=(X[once], Y[once]), of=lambda i: (X[once[i]], Y[once[i]])).distinct


def test_the_precision_of_the_data_does_not_matter():
    assert after(without, of=lambda index: (X[index].astype(np.float32), Y[index])).distinct
