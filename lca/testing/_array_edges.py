"""Further laws of `lca.arrays.ArrayOps`: movements by one rounding unit, NaN in sums, arguments kept."""

import math

import numpy as np

from lca.testing._array_checks import ARRAY_CHECKS
from lca.testing._array_results import RESULT_CHECKS
from lca.testing._array_subject import ArraySubject, Values, law_into, near, same_numbers
from lca.testing._laws import require
from lca.testing._report import Check
from lca.tolerances import summed

Array = np.ndarray
EDGE_CHECKS: list[Check] = []
law = law_into(EDGE_CHECKS)
OTHERS = 600
"""Vectors that a snapshot is compared with: two of them share a hash of 8 bits."""


@law
def smallest_movements_are_reported(subject: ArraySubject, case: Values) -> None:
    """``moved`` sees one rounding unit in any entry of a part, and entries that change places."""
    start = case.random(1, 12)[0]
    parts = [slice(0, 4), slice(4, 9), slice(9, 12)]
    for at in (3, 4, 6, 11):
        end = start.copy()
        end[at] = np.nextafter(end[at], case.dtype.type(np.inf))
        found = subject.ops.moved(subject.vector(start), subject.vector(end), parts)
        expected = [part.start <= at < part.stop for part in parts]
        require(
            found == expected, f"moved() is {found} after one rounding unit at {at}, expected {expected}."
        )
    rest, tiny = np.zeros_like(start), np.zeros_like(start)
    tiny[[1, 10]] = np.finfo(case.dtype).tiny * np.array([1, -1])
    found = subject.ops.moved(subject.vector(rest), subject.vector(tiny), parts)
    require(
        found == [True, False, True],
        f"moved() is {found} after movements of {tiny[1]} from 0 in the first and the last part.",
    )
    end = start.copy()
    end[5:7] = start[6:4:-1]
    found = subject.ops.moved(subject.vector(start), subject.vector(end), parts)
    require(found == [False, True, False], f"moved() is {found} after two entries changed places.")
    end[10] = np.nan
    found = subject.ops.moved(subject.vector(start), subject.vector(end), parts)
    require(found == [False, True, True], f"moved() is {found} after an entry became NaN.")


@law
def any_point_of_a_segment_is_between(subject: ArraySubject, case: Values) -> None:
    """``between`` is right at any s of many digits."""
    start, end = case.random(2, 100)
    eps = float(np.finfo(case.dtype).eps)
    size = np.abs(start) + np.abs(end)
    for s in (1 / 3, 0.0469100770306680, 1 - 1e-3, 1e-7):
        found = subject.numpy(subject.ops.between(subject.vector(start), subject.vector(end), s))
        expected = start.astype(np.float64) + s * (end.astype(np.float64) - start)
        near(found, expected, summed(size, eps), f"between() at s = {s}")


@law
def one_bad_entry_spoils_a_sum(subject: ArraySubject, case: Values) -> None:
    """``total``, ``abs_total`` and ``movement_sums`` are not finite if a number in them is not."""
    first, start, end = case.random(3, 50)
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = first.copy()
        spoilt[17] = bad
        vector, ends = subject.vector(spoilt), (subject.vector(start), subject.vector(end))
        with np.errstate(all="ignore"):
            sums = {
                "total()": subject.ops.total(vector),
                "abs_total()": subject.ops.abs_total(vector),
                "movement_sums()": subject.ops.movement_sums([(0.5, vector)], *ends)[1],
            }
        for name, found in sums.items():
            require(not math.isfinite(found), f"{name} is {found!r} although an entry is {bad}.")


@law
def arguments_of_sums_are_left_alone(subject: ArraySubject, case: Values) -> None:
    """Sums and running totals write into none of their vectors."""
    rows = case.random(3, 50)
    first, start, end = (subject.vector(row.copy()) for row in rows)
    subject.ops.movement_sums([(0.5, first), (-2.0, first)], start, end)
    subject.ops.total(first)
    subject.ops.abs_total(first)
    subject.ops.add_scaled(subject.vector(rows[1].copy()), 0.3, first)
    subject.ops.accumulated(subject.ops.accumulated(None, first), start)
    for name, vector, row in zip(("first", "start", "end"), (first, start, end), rows, strict=True):
        same_numbers(subject.numpy(vector), row, f"the {name} vector, after sums of it")


@law
def repeated_positions_are_taken_again(subject: ArraySubject, case: Values) -> None:
    """``take`` returns an entry as often as its position is given, in the dtype of the vector."""
    values = case.numbers
    positions = np.array([4, 0, 4, len(values) - 1, 0])
    found = np.asarray(subject.ops.take(subject.vector(values), positions))
    same_numbers(found, values[positions], "take() of repeated positions")


@law
def snapshots_do_not_collide(subject: ArraySubject, case: Values) -> None:
    """`unchanged` is False for hundreds of other vectors, and for a long one that differs in its middle."""
    [long] = case.random(1)
    snapshot = subject.ops.snapshot(subject.vector(long))
    long[len(long) // 2] += 1
    known = subject.ops.unchanged(snapshot, subject.vector(long))
    require(not known, "unchanged() is True for a long vector that differs in its middle.")
    rows = case.random(OTHERS, 8)
    snapshot = subject.ops.snapshot(subject.vector(rows[0]))
    for i, row in enumerate(rows[1:], 1):
        known = subject.ops.unchanged(snapshot, subject.vector(row))
        require(not known, f"unchanged() is True for another vector, the {i}th that was tried.")


ALL_ARRAY_CHECKS: list[Check] = [*ARRAY_CHECKS, *EDGE_CHECKS, *RESULT_CHECKS]
