"""When something is looked at that takes too long to be looked at each time."""

from itertools import pairwise

import pytest

from lca._schedules import thins_out

DUE = [count for count in range(1, 20_000) if thins_out(count)]


def test_what_begins_in_mid_run_is_found_before_a_tenth_as_many_updates_again():
    assert all(after - before <= max(1, before / 10) for before, after in pairwise(DUE))


@pytest.mark.parametrize(
    "n", [*range(1, 21), 25, 30, 40, 50, 60, 64, 100, 120, 128, 200, 240, 480, 500, 1000]
)
def test_what_acts_at_every_nth_update_acts_at_one_that_is_compared(n):
    assert any(count % n == 0 for count in DUE if count <= 30 * n)
