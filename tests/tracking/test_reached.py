"""`ReachedSets`: domains that take turns are seen soon, and what differs by chance is not taken for them."""

import numpy as np
import pytest

from lca.tracking._reached import LONGEST, ReachedSets

A, B, C = (frozenset({0, own}) for own in (1, 2, 3))


def found(updates):
    """The number of updates after which something is found, and what: inside of updates, and in turn."""
    sets = ReachedSets()
    for number, update in enumerate(updates, 1):
        sets.add("SGD", update)
        if sets.differ_in_update or sets.take_turns:
            return number, sets.differ_in_update, sets.take_turns
    return 0, False, False


SEEN = {
    "two in turn": ([[A], [B]] * 10, (14, False, True)),
    "three in turn": ([[A], [B], [C]] * 10, (12, False, True)),
    "two in each update": ([[A, B]] * 20, (10, True, False)),
    "two in each update, in any order": ([[A, B], [B, A], [B, A]] * 10, (10, True, False)),
    "three in each update": ([[A, B, C]] * 20, (5, True, False)),
    "two of four in each update": ([[A, B], [C, frozenset({0})]] * 20, (6, True, True)),
    "an update from both at the end of an epoch": ([*[[A], [B]] * 3, [A]] * 10, (23, False, True)),
    "one at times": ([*[[A]] * 9, [B]] * 10, (50, False, True)),
    "after training alike": ([[A]] * 500 + [[A], [B]] * 20, (None, False, True)),
    "after a difference by chance": ([[A], [B], [B], *[[A], [B]] * 20], (None, False, True)),
    "as many as a period may have": ([[{own}] for own in range(LONGEST)] * 2, (LONGEST + 5, False, True)),
}


@pytest.mark.parametrize(("updates", "wanted"), SEEN.values(), ids=SEEN)
def test_domains_that_take_turns_are_seen(updates, wanted):
    number, *what = found(updates)
    assert tuple(what) == wanted[1:]
    assert number == wanted[0] or (wanted[0] is None and number)


NOT_SEEN = {
    "all alike": [[A, A]] * 200,
    "fewer micro-batches at the end of an epoch": [*[[A, A]] * 5, [A]] * 40,
    "a layer is unfrozen": [[A]] * 100 + [[B]] * 100,
    "one difference": [[A, A]] * 50 + [[A, B]] + [[A, A]] * 100,
}


@pytest.mark.parametrize("updates", NOT_SEEN.values(), ids=NOT_SEEN)
def test_what_is_no_turn_is_not_seen(updates):
    assert found(updates) == (0, False, False)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize(("sets", "chance"), [(2, 0.5), (2, 0.05), (3, 0.33), (8, 0.12)])
def test_domains_drawn_at_random_and_experts_left_out_by_chance_are_not_seen(sets, chance, micro_batches):
    rng, others = np.random.default_rng(sets), [chance / (sets - 1)] * (sets - 1)
    for _ in range(8):
        drawn = rng.choice(sets, size=(100, micro_batches), p=[1 - chance, *others])
        assert found([[{own} for own in update] for update in drawn.tolist()]) == (0, False, False)


def test_optimizers_are_not_compared_with_each_other():
    sets = ReachedSets()
    for _ in range(50):
        sets.add("of the trunk", [A])
        sets.add("of the head", [B])
    assert not sets.take_turns
